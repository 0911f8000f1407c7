"""Pictures to choose from: drawn ones, those that a flow makes, those of `data/`, and a visitor's own."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch
from torch import Tensor

from invariances.app import models
from invariances.app.compute import computed
from invariances.app.figures import address
from invariances.app.frame import public
from invariances.data.arrays import to_array
from invariances.data.files import SUFFIXES, list_images, open_image
from invariances.data.given import load_images
from invariances.data.shapes import SHAPES, TEXTURES, Shapes
from invariances.experiments.samples import made_pictures
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.zoo.interpreters import examples

DATA = Path("data")
DRAWN, MADE, YOURS = "Drawn", "Made by the flow", "Yours"
COUNT, MADE_COUNT, SEED = 24, 12, 5
MOST = 6
"""So many pictures are mixed at most."""
_SIDE, _MOST_YOURS, _PAGE, _THUMB = 256, 24, 24, 64
TYPES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "heic")


@dataclass(frozen=True)
class Picture:
    """One picture that is offered.

    Attributes:
        name: In links; looked up among those offered, never opened.
        label: For people.
        load: Gives the picture (3, size, size) in [-1, 1].
        code: Python that gives it as a batch of one.
        file: What it is called on disk, for commands.
    """

    name: str
    label: str
    load: Callable[[int], Tensor]
    code: Callable[[int], str]
    file: str


def _draw(number: int, size: int) -> Tensor:
    return Shapes(COUNT, seed=SEED, size=size).images([number])[0]


@lru_cache(maxsize=1)
def drawn() -> tuple[Picture, ...]:
    """The built-in pictures."""
    factors = Shapes(COUNT, seed=SEED).factors(range(COUNT))
    found = []
    for number in range(COUNT):
        shape, texture = SHAPES[int(factors["shape"][number])], TEXTURES[int(factors["texture"][number])]

        def code(size: int, number: int = number) -> str:
            return f"Shapes({COUNT}, seed={SEED}, size={size}).images([{number}])"

        name = f"{shape}, {texture}"
        found.append(Picture(f"drawn-{number}", name, partial(_draw, number), code, f"{shape}_{texture}.png"))
    return tuple(found)


def made(network: str) -> list[Picture]:
    """Pictures that a network's flow makes; none where it makes none."""
    if network not in models.painters():
        return []
    shipped = examples(network)
    text = f"Making pictures for {models.label(network)}"
    images = shipped[0] if shipped else computed(("made", network), text, lambda: _make(network))

    def picture(number: int) -> Picture:
        def load(size: int) -> Tensor:
            return load_images(images[number], size)[0]

        def code(size: int) -> str:
            if shipped is not None:
                return f"examples({network!r})[0][{number} : {number + 1}]"
            interpreter = f"Interpreter.load({network!r}, layer={models.layers(network)[0]!r})"
            return (
                f"made_pictures({interpreter}, {MADE_COUNT}, seeded('made', {SEED}))[{number} : {number + 1}]"
            )

        title = f"made {number + 1}" if shipped is None else shipped[1][number]
        return Picture(f"{network}:{number}", title, load, code, f"made_{number + 1}.png")

    return [picture(number) for number in range(len(images))]


@st.cache_resource(max_entries=4, show_spinner=False)
def _make(network: str) -> Tensor:
    interpreter = models.loaded(network, "cpu").at(models.layers(network)[0])
    return made_pictures(interpreter, MADE_COUNT, seeded("made", SEED))


def folders() -> list[str]:
    """The folders of `data/` that hold pictures, `custom` first."""
    if not DATA.is_dir():
        return []
    names = sorted(each.name for each in DATA.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [name for name in sorted(names, key=lambda name: name != "custom") if _holds_some(DATA / name)]


def _holds_some(folder: Path) -> bool:
    """Whether there is a picture, without a list of thousands."""
    return any(
        os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )


def _listed(folder: str) -> list[Path]:
    """The pictures of a folder, listed once in each run of a page."""
    known: dict[str, list[Path]] = st.session_state.setdefault("listed", {})
    if folder not in known:
        try:
            known[folder] = list_images(DATA / folder)
        except UserError:
            known[folder] = []
    return known[folder]


@lru_cache(maxsize=512)
def _square(path: str, stamp: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The picture's middle square; `stamp` is the file's size and time, so that a changed file is read anew."""
    return to_array(open_image(path, _SIDE), _SIDE)


def _of_file(folder: str, path: Path) -> Picture:
    """A picture of a folder.

    Raises:
        UserError: It is broken.
    """
    state = path.stat()
    _square(str(path), (state.st_size, state.st_mtime_ns))
    name = path.relative_to(DATA / folder).as_posix()

    def load(size: int) -> Tensor:
        return load_images(path, size)[0]

    def code(size: int) -> str:
        return f"load_images({path.as_posix()!r}, {size})"

    return Picture(f"{folder}:{name}", path.stem, load, code, path.as_posix())


def yours() -> list[Picture]:
    """What the visitor gave, kept for the visit, in memory."""
    found = []
    for name, (title, array) in st.session_state.get("yours", {}).items():
        found.append(Picture(name, title, partial(_of_array, array), _code_of_yours, "picture.png"))
    return found


def _of_array(array: np.ndarray[Any, Any], size: int) -> Tensor:
    return load_images(array, size)[0]


def _code_of_yours(size: int) -> str:
    return f"load_images('picture.png', {size})"


def find(name: str) -> Picture | None:
    """The offered picture of that name; nothing else is looked at."""
    source, _, rest = name.partition(":")
    if not rest:
        return next((each for each in (*drawn(), *yours()) if each.name == name), None)
    if source in models.painters():
        return next((each for each in made(source) if each.name == name), None)
    if source in folders():
        for path in _listed(source):
            if path.relative_to(DATA / source).as_posix() == rest:
                try:
                    return _of_file(source, path)
                except (UserError, OSError):
                    return None
    return None


def take(files: list[Any]) -> list[str]:
    """Keeps uploads as small squares; says what is wrong with the others."""
    problems = []
    kept = st.session_state.setdefault("yours", {})
    for file in files:
        content = file.getvalue()
        name = "yours-" + hashlib.sha256(content).hexdigest()[:12]
        if name in kept:
            continue
        title = Path(file.name.replace("\\", "/")).stem[:40] or "picture"
        try:
            kept[name] = (title, read_square(content))
        except UserError as error:
            problems.append(f"{Path(file.name.replace(chr(92), '/')).name} {_reason(error)}")
            continue
        while len(kept) > _MOST_YOURS:
            kept.pop(next(iter(kept)))
        st.session_state["newest"] = name
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
        return to_array(open_image(path, _SIDE), _SIDE)
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
        shown = sources[0]
        if len(sources) > 1:
            shown = st.segmented_control(
                "Pictures", sources, default=prefer if prefer in sources else shown, key=f"source-{paints}",
                label_visibility="collapsed", required=True,
            ) or shown  # fmt: skip
        offered, broken = (made(network), []) if shown == MADE else _offered(shown)
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key="tiles"):
            _tiles(offered, [each.name for each in chosen], many)
            files = _upload()
        for problem in take(files):
            st.warning(problem, icon=":material/broken_image:")
        if broken:
            st.caption(f"Left out, because they cannot be read: {', '.join(broken)}")
    newest = st.session_state.pop("newest", None)
    if newest is not None:
        pick(newest, many)
        st.rerun()
    return chosen


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
    key, names = "pictures" if many else "picture", [name]
    if many:
        shown = st.session_state.get("shown", [])
        left = [each for each in shown if each != name]
        names = left if name in shown and left else list(dict.fromkeys([*shown, name]))[-MOST:]
    st.session_state[key] = names
    st.query_params[key] = names


def _offered(source: str) -> tuple[list[Picture], list[str]]:
    """What a source shows, and the names of files that are broken."""
    if source == DRAWN:
        return list(drawn()), []
    if source == YOURS:
        return yours(), []
    paths, first = _listed(source), 0
    if len(paths) > _PAGE:
        pages = -(-len(paths) // _PAGE)
        first = _PAGE * (
            int(st.number_input(f"Page of {pages}", 1, pages, 1, key=f"page-{source}", width=160)) - 1
        )
    return _readable(source, paths[first : first + _PAGE])


def _readable(source: str, paths: list[Path]) -> tuple[list[Picture], list[str]]:
    found, broken = [], []
    for path in paths:
        try:
            found.append(_of_file(source, path))
        except (UserError, OSError):
            broken.append(path.name)
    return found, broken


def _tiles(offered: list[Picture], chosen: list[str], many: bool) -> None:
    """Buttons that show their pictures."""
    looks = []
    for number, each in enumerate(offered):
        key = f"tile-{number}"
        ring = "box-shadow: 0 0 0 3px #0e7490;" if each.name in chosen else ""
        looks.append(f".st-key-{key} button {{ background-image: url('{_thumb(each)}'); {ring} }}")
        st.button(each.label, key=key, help=each.label, on_click=pick, args=(each.name, many))
    st.html(f"<style>{' '.join(looks)}</style>")


def _upload() -> list[Any]:
    """A place for one's own pictures: dropped, chosen, or pasted anywhere on the page."""
    with st.popover("Your own", icon=":material/add_photo_alternate:"):
        files = st.file_uploader(
            "Drop, choose or paste pictures",
            type=list(TYPES),
            accept_multiple_files=True,
            key="upload",
            max_upload_size=20,
        )
        st.caption("Up to 20 MB each. They stay in memory and go when you leave.")
    return list(files or [])


@lru_cache(maxsize=256)
def _drawn_thumb(number: int) -> str:
    return address(_draw(number, _THUMB))


def _thumb(picture: Picture) -> str:
    if picture.name.startswith("drawn-"):
        return _drawn_thumb(int(picture.name.removeprefix("drawn-")))
    kept = st.session_state.setdefault("thumbs", {})
    if picture.name not in kept:
        kept[picture.name] = address(picture.load(_THUMB))
        while len(kept) > 64:
            kept.pop(next(iter(kept)))
    return str(kept[picture.name])


def batch(pictures: list[Picture], size: int) -> Tensor:
    """The pictures as images (N, 3, size, size)."""
    return torch.stack([each.load(size) for each in pictures])


def gallery_images(size: int, beside: str) -> Tensor:
    """Pictures to compare with: those of the source that the picture comes from, 24 at most."""
    source = beside.partition(":")[0]
    if source in models.painters():
        shipped = examples(source)
        return load_images(_make(source) if shipped is None else shipped[0], size)
    if source in folders():
        return batch(_readable(source, list_images(DATA / source)[:_PAGE])[0], size)
    return Shapes(COUNT, seed=SEED, size=size).images(range(COUNT))
