"""Pictures to choose from: drawn ones, those that a flow makes, those of `data/`, and a visitor's own."""

from __future__ import annotations

import os
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
from invariances.data.arrays import to_array, to_uint8
from invariances.data.files import SUFFIXES, list_images, open_image
from invariances.data.given import load_images
from invariances.data.shapes import SHAPES, TEXTURES, Shapes
from invariances.experiments.samples import made_pictures
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.zoo.interpreters import examples

DATA = Path("data")
DRAWN, YOURS = "Drawn", "Yours"
COUNT, MADE_COUNT, SEED = 24, 12, 5
SIDE, PAGE = 256, 24


@dataclass(frozen=True)
class Picture:
    """One picture that is offered, in 256 levels, so that a file of it is the same picture.

    Attributes:
        name: In links; looked up among those offered, never opened.
        label: For people.
        load: Gives the picture (3, size, size) in [-1, 1].
        code: Python that gives it as a batch of one.
        file: What it is called on disk, for commands.
        on_disk: Whether it is there already, in the folder that the app was started in.
    """

    name: str
    label: str
    load: Callable[[int], Tensor]
    code: Callable[[int], str]
    file: str
    on_disk: bool = False

    @property
    def source(self) -> str:
        """Where it comes from: the painter's or the folder's name, else DRAWN or YOURS."""
        start, _, rest = self.name.partition(":")
        return start if rest else DRAWN if start.startswith("drawn-") else YOURS


def _draw(number: int, size: int) -> Tensor:
    return load_images(to_uint8(Shapes(COUNT, seed=SEED, size=size).images([number])), size)[0]


@lru_cache(maxsize=1)
def drawn() -> tuple[Picture, ...]:
    """The built-in pictures."""
    factors = Shapes(COUNT, seed=SEED).factors(range(COUNT))
    found = []
    for number in range(COUNT):
        shape, texture = SHAPES[int(factors["shape"][number])], TEXTURES[int(factors["texture"][number])]

        def code(size: int, number: int = number) -> str:
            return (
                f"load_images(to_uint8(Shapes({COUNT}, seed={SEED}, size={size}).images([{number}])), {size})"
            )

        label, file = f"{shape}, {texture}", f"{shape}_{texture}_{number + 1}.png"
        found.append(Picture(f"drawn-{number}", label, partial(_draw, number), code, file))
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
            return load_images(to_uint8(images[number][None]), size)[0]

        def code(size: int) -> str:
            return f"load_images(to_uint8({_made_code(network)}[{number} : {number + 1}]), {size})"

        title = f"made {number + 1}" if shipped is None else shipped[1][number]
        return Picture(f"{network}:{number}", title, load, code, f"{network}_{number + 1}.png")

    return [picture(number) for number in range(len(images))]


def _made_code(network: str) -> str:
    """Python that gives all pictures that a network's flow makes here."""
    if examples(network) is not None:
        return f"examples({network!r})[0]"
    interpreter = f"Interpreter.load({network!r}, layer={models.layers(network)[0]!r})"
    return f"made_pictures({interpreter}, {MADE_COUNT}, seeded('made', {SEED}))"


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


def listed(folder: str) -> list[Path]:
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
    return to_array(open_image(path, SIDE), SIDE)


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

    return Picture(f"{folder}:{name}", path.stem, load, code, path.as_posix(), on_disk=True)


def yours() -> list[Picture]:
    """What the visitor gave, kept for the visit, in memory."""
    return [
        _of_array(name, title, array, f"yours_{number + 1}.png")
        for number, (name, (title, array)) in enumerate(st.session_state.get("yours", {}).items())
    ]


def _of_array(name: str, title: str, array: np.ndarray[Any, Any], file: str) -> Picture:
    def load(size: int) -> Tensor:
        return load_images(array, size)[0]

    def code(size: int) -> str:
        return f"load_images({file!r}, {size})"

    return Picture(name, title, load, code, file)


def find(name: str) -> Picture | None:
    """The offered picture of that name; nothing else is looked at."""
    source, _, rest = name.partition(":")
    if not rest:
        return next((each for each in (*drawn(), *yours()) if each.name == name), None)
    if source in models.painters():
        return next((each for each in made(source) if each.name == name), None)
    if source in folders():
        for path in listed(source):
            if path.relative_to(DATA / source).as_posix() == rest:
                try:
                    return _of_file(source, path)
                except (UserError, OSError):
                    return None
    return None


def batch(pictures: list[Picture], size: int) -> Tensor:
    """The pictures as images (N, 3, size, size)."""
    return torch.stack([each.load(size) for each in pictures])


def unsaved(chosen: list[Picture], size: int) -> dict[str, Tensor]:
    """By file name, what has to be saved before a command finds it."""
    return {each.file: each.load(size) for each in chosen if not each.on_disk}


def readable(folder: str, paths: list[Path]) -> tuple[list[Picture], list[str]]:
    """The pictures of a folder's files, and the names of those that are broken."""
    found, broken = [], []
    for path in paths:
        try:
            found.append(_of_file(folder, path))
        except (UserError, OSError):
            broken.append(path.name)
    return found, broken


@dataclass(frozen=True)
class Beside:
    """Pictures to compare one with: those of the source that it comes from, 24 at most.

    Attributes:
        load: Gives them, (N, 3, size, size) in [-1, 1].
        code: Python that gives them.
    """

    load: Callable[[int], Tensor]
    code: Callable[[int], str]


def beside(source: str, network: str) -> Beside:
    """What pictures of a source are compared with; a visitor's own, with those that are there at first."""
    if source in folders():
        found, _ = readable(source, list_images(DATA / source)[:PAGE])
        files = "".join(f"    {each.file!r},\n" for each in found)
        return Beside(partial(batch, found), lambda size: f"load_images([\n{files}], {size})")
    painter = source if source in models.painters() else network
    if painter in models.painters() and source != DRAWN:
        shipped = examples(painter)
        return Beside(
            lambda size: load_images(to_uint8(_make(painter) if shipped is None else shipped[0]), size),
            lambda size: f"load_images(to_uint8({_made_code(painter)}), {size})",
        )
    return Beside(
        lambda size: load_images(to_uint8(Shapes(COUNT, seed=SEED, size=size).images(range(COUNT))), size),
        lambda size: (
            f"load_images(to_uint8(Shapes({COUNT}, seed={SEED}, size={size}).images(range({COUNT}))), {size})"
        ),
    )
