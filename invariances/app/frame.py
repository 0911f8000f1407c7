"""The frame of all pages: title, navigation, look, and what becomes of errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial

import streamlit as st

from invariances.app import home, style
from invariances.system.errors import UserError

LOG = logging.getLogger("invariances.app")
_PATH = re.compile(r"(?<![\w:/])(?:~|[A-Za-z]:)?(?:[/\\][\w.\-+@ ]+?){2,}(?=[\s'\":;,)]|$)")

HOME = "What does this layer know, and what does it ignore?"
PAGES = {
    "attacks": ("Adversarial attacks", ":material/bolt:"),
    "layers": ("Layer by layer", ":material/layers:"),
    "texture": ("Texture bias", ":material/texture:"),
    "video": ("Video", ":material/movie:"),
    "mixing": ("Image mixing", ":material/join_inner:"),
}


def main() -> None:
    """Runs the page that the address names."""
    st.set_page_config(page_title="invariances", page_icon=style.icon(), layout="wide")
    st.html(style.CSS)
    st.html(style.PASTE, unsafe_allow_javascript=True)
    st.logo(style.LOGO, size="large")
    pages = {
        name: st.Page(_guarded(name, title, partial(_show, name)), title=title, icon=icon, url_path=name)
        for name, (title, icon) in PAGES.items()
    }
    first = _guarded("home", HOME, lambda: home.page(pages))
    start = st.Page(first, title="Home", icon=":material/home:", default=True)
    st.navigation([start, *pages.values()], position="top").run()


def _guarded(name: str, title: str, show: Callable[[], None]) -> Callable[[], None]:
    """A page whose errors are one sentence: what a user can mend, or that it is our fault."""

    def page() -> None:
        st.html(f"<h1 class='inv-title'>{title}</h1>")
        try:
            show()
        except UserError as error:
            st.error(public(error), icon=":material/info:")
        except Exception:
            LOG.exception("page %s", name)
            st.error("This went wrong on our side; try another picture or layer.", icon=":material/error:")

    page.__name__ = name
    return page


def _show(name: str) -> None:
    from invariances.app import attacks, layers, mixing, texture_bias, video

    shows = {
        "attacks": attacks.page,
        "layers": layers.page,
        "texture": texture_bias.page,
        "video": video.page,
        "mixing": mixing.page,
    }
    shows[name]()


def public(error: BaseException) -> str:
    """An error's sentence without the paths of this machine."""
    text = " ".join(str(error).split())
    text = _PATH.sub(lambda found: re.split(r"[/\\]", found[0])[-1], text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
