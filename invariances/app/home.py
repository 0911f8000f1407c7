"""The page that opens first, without torch: each demo with a picture and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import streamlit as st
from PIL import Image

from invariances.app.pngs import held

PICTURES = Path(__file__).with_name("home.png")
"""One picture for each demo, below each other; `docs/demos/home.py` makes them."""

CARDS = {
    "attacks": "A change that nobody sees, and what the network sees instead.",
    "layers": "Pictures that a layer cannot tell apart, from early layers to late ones.",
    "texture": "One picture, two networks: which keeps its shape, which its texture?",
    "video": "The content of a picture moves as a clip does, frame by frame.",
    "mixing": "What a layer knows of one picture, with what it ignores of another.",
}


def page(pages: Mapping[str, st.Page]) -> None:
    """A card for each demo, which leads there."""
    st.html(
        "<p class='inv-lead'>A layer of a network keeps some of a picture and ignores the rest. Here what it ignores "
        "is drawn anew, so that what it keeps can be seen.</p>"
    )
    with st.container(horizontal=True, key="cards"):
        for name, picture in zip(CARDS, _pictures()):
            with st.container(border=True, width=320, key=f"card-{name}"):
                st.html(f"<img src='{picture}' alt=''>")
                st.page_link(pages[name])
                st.caption(CARDS[name])


@cache
def _pictures() -> list[str]:
    """The demos' pictures as addresses that hold them."""
    with Image.open(PICTURES) as strip:
        height = strip.height // len(CARDS)
        return [held(strip.crop((0, k * height, strip.width, (k + 1) * height))) for k in range(len(CARDS))]
