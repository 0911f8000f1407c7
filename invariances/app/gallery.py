"""Choosing pictures: tiles to click, and a place for a visitor's own."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from invariances.app import models
from invariances.app.figures import address, plain
from invariances.app.frame import public
from invariances.app.pictures import (
    DRAWN,
    PAGE,
    SIDE,
    YOURS,
    Picture,
    drawn,
    find,
    folders,
    listed,
    made,
    readable,
    yours,
)
from invariances.data.arrays import to_array
from invariances.data.files import open_image
from invariances.system.errors import UserError

MADE = "Made by the flow"
MOST = 6
"""So many pictures are mixed at most."""
_MOST_YOURS, _THUMB = 24, 64


def take(files: list[Any]) -> list[str]:
    """Keeps uploads as small squares; says what is wrong with the others."""
    problems = []
    kept = st.session_state.setdefault("yours", {})
    for file in files:
        content = file.getvalue()
        name = "yours-" + hashlib.sha256(content).hexdigest()[:12]
        if name in kept:
            continue
        called = Path(file.name.replace("\\", "/"))
        try:
            kept[name] = (called.stem[:40] or "picture", read_square(content))
        except UserError as error:
            problems.append(f"{called.stem[:40]}{called.suffix} {_reason(error)}")
            continue
        while len(kept) > _MOST_YOURS:
            kept.pop(next(iter(kept)))
        st.session_state.setdefault("newest", []).append(name)
    return problems


def _reason(error: UserError) -> str:
    """What is wrong with an upload, without the name that it had on this machine."""
    return re.sub(r"^[Ii]mage '[^']*' ", "", public(error))


def read_square(content: bytes) -> np.ndarray[Any, Any]:
    """The middle square of a picture file's bytes, (256, 256, 3) uint8.

    Raises:
        UserError: They are no picture, a damaged or too large one.
    """
    if not content:
        raise UserError("image '' is empty.")
    descriptor, path = tempfile.mkstemp(prefix="invariances-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        return to_array(open_image(path, SIDE), SIDE)
    finally:
        os.unlink(path)


def choose(network: str, many: bool = False, prefer: str = "") -> list[Picture]:
    """The gallery: tiles to click, and a place for one's own; gives what is chosen.

    Args:
        network: Decides which pictures come first, and which one is there where nothing is chosen.
        many: Several can be chosen.
        prefer: The source that is shown first, where it is offered.
    """
    st.session_state["listed"] = {}
    paints = network in models.painters()
    start = f"{network}:" if paints else "drawn-"
    chosen = _chosen([f"{start}{number}" for number in FIRST[many]], many)
    with st.container(key="gallery"):
        mine = [YOURS] if st.session_state.get("yours") else []
        sources = [*([MADE] if paints else []), DRAWN, *folders(), *mine]
        shown = _source(sources, f"source-{paints}", _home(chosen[0]) if _given(many) else prefer)
        offered, broken = (made(network), []) if shown == MADE else _offered(shown, chosen)
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key="tiles"):
            _tiles(offered, [each.name for each in chosen], many)
            files = _upload()
        if problems := take(files):
            st.warning("  \n".join(map(plain, problems)), icon=":material/broken_image:")
        if broken:
            st.caption(plain(f"Left out, because they cannot be read: {', '.join(broken)}"))
    if newest := st.session_state.pop("newest", []):
        _choose_all([*st.session_state["shown"], *newest] if many else newest[-1:], many)
        st.session_state["to-yours"] = True
        st.rerun()
    return chosen


def _source(sources: list[str], key: str, first: str) -> str:
    """Which pictures are shown; a visitor's own once they came."""
    if st.session_state.pop("to-yours", False):
        st.session_state[key] = YOURS
    if len(sources) == 1:
        return sources[0]
    if st.session_state.get(key) not in sources:
        st.session_state[key] = first if first in sources else sources[0]
    shown = st.segmented_control("Pictures", sources, key=key, label_visibility="collapsed", required=True)
    return shown or sources[0]


def _given(many: bool) -> bool:
    """Whether pictures were chosen, by a link or a click."""
    return bool(st.session_state.get("pictures" if many else "picture"))


def _home(picture: Picture) -> str:
    """The source that shows a picture."""
    return MADE if picture.source in models.painters() else picture.source


FIRST = {False: (1,), True: (1, 4, 9)}
"""The pictures that are there before anything is chosen, one or several."""


def _chosen(default: list[str], many: bool) -> list[Picture]:
    """What the link or the visit says, else the default; the address is kept up to date."""
    key = "pictures" if many else "picture"
    wanted = st.query_params.get_all(key) or st.session_state.get(key, [])
    found = [each for each in map(find, wanted[:MOST]) if each is not None][: MOST if many else 1]
    if len(found) < len(wanted[: MOST if many else 1]):
        st.caption("A picture of this link is not offered here; another one takes its place.")
    if found:
        names = st.session_state[key] = [each.name for each in found]
        if st.query_params.get_all(key) != names:
            st.query_params[key] = names
    shown = found or [each for each in map(find, default) if each is not None]
    st.session_state["shown"] = [each.name for each in shown]
    return shown


def pick(name: str, many: bool) -> None:
    """Chooses a picture, or takes one of several out again."""
    shown = st.session_state.get("shown", []) if many else []
    left = [each for each in shown if each != name]
    _choose_all(left if name in shown and left else [*shown, name], many)


def _choose_all(names: list[str], many: bool) -> None:
    key = "pictures" if many else "picture"
    st.session_state[key] = st.query_params[key] = list(dict.fromkeys(names))[-MOST:]


def _offered(source: str, chosen: list[Picture]) -> tuple[list[Picture], list[str]]:
    """What a source shows, and the names of files that are broken."""
    if source == DRAWN:
        return list(drawn()), []
    if source == YOURS:
        return yours(), []
    paths, first = listed(source), 0
    if len(paths) > PAGE:
        pages = -(-len(paths) // PAGE)
        at = next((k for k, each in enumerate(paths) if each.as_posix() == chosen[0].file), 0) // PAGE + 1
        number = st.number_input(f"Page of {pages}", 1, pages, at, key=f"page-{source}", width=160)
        first = PAGE * (int(number) - 1)
    return readable(source, paths[first : first + PAGE])


def _tiles(offered: list[Picture], chosen: list[str], many: bool) -> None:
    """Buttons that show their pictures."""
    looks = []
    for number, each in enumerate(offered):
        key = f"tile-{number}"
        ring = "box-shadow: 0 0 0 3px #0e7490;" if each.name in chosen else ""
        looks.append(f".st-key-{key} button {{ background-image: url('{_thumb(each)}'); {ring} }}")
        st.button(plain(each.label), key=key, help=plain(each.label), on_click=pick, args=(each.name, many))
    st.html(f"<style>{' '.join(looks)}</style>")


def _upload() -> list[Any]:
    """A place for one's own pictures: dropped, chosen, or pasted anywhere on the page."""
    with st.popover("Your own", icon=":material/add_photo_alternate:"):
        files = st.file_uploader(
            "Drop, choose or paste pictures",
            accept_multiple_files=True,
            key="upload",
            max_upload_size=20,
        )
        st.caption("JPEG, PNG, WebP and more, up to 20 MB each. They stay in memory and go when you leave.")
    return list(files or [])


@lru_cache(maxsize=256)
def _drawn_thumb(number: int) -> str:
    return address(drawn()[number].load(_THUMB))


def _thumb(picture: Picture) -> str:
    if picture.name.startswith("drawn-"):
        return _drawn_thumb(int(picture.name.removeprefix("drawn-")))
    kept = st.session_state.setdefault("thumbs", {})
    if picture.name not in kept:
        kept[picture.name] = address(picture.load(_THUMB))
        while len(kept) > 64:
            kept.pop(next(iter(kept)))
    return str(kept[picture.name])
