"""Folders that come divided: `train/` beside `val/`, which are sides of a split and not classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

TRAINING = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "test", "testing")
"""Names of sub-folders that hold held-out pictures: the first of them that is there is taken."""


@dataclass(frozen=True)
class Arrangement:
    """Which of a folder's pictures count, and how they lie.

    Args:
        positions: Of the pictures that count.
        held_out: Per picture that counts: True, False, or None where the folder does not say.
        inside: Per picture that counts: its name without the sub-folder that tells its side.
    """

    positions: Sequence[int]
    held_out: Sequence[bool | None]
    inside: Sequence[str]


def arrange(names: Sequence[str], root: str | os.PathLike[str]) -> Arrangement:
    """The sides that a folder's own sub-folders tell; says so on stderr where they do.

    A folder is divided where all its sub-folders with pictures are named as `TRAINING` or `HELD_OUT`, and some to
    train on are among them; single pictures beside both kinds are left out.

    Args:
        names: Of pictures, relative to the folder.
        root: The folder, for the line that is said.
    """
    tops = {name.partition(os.sep)[0] if os.sep in name else "" for name in names}
    training = [top for top in sorted(tops) if top.lower() in TRAINING]
    held = sorted(
        (top for top in tops if top.lower() in HELD_OUT), key=lambda top: HELD_OUT.index(top.lower())
    )
    if not training or len(training) + len(held) < len(tops - {""} if held else tops):
        return Arrangement(range(len(names)), [None] * len(names), names)
    chosen = held[:1]
    positions: list[int] = []
    sides: list[bool | None] = []
    inside: list[str] = []
    for position, name in enumerate(names):
        top, _, rest = name.partition(os.sep)
        if top in training or top in chosen:
            positions.append(position)
            sides.append(top in chosen if chosen else None)
            inside.append(rest)
    if held:
        rest_of = sorted(tops.difference(training, chosen))
        left = (
            f"; {len(names) - len(positions)} pictures of {', '.join(each or 'no sub-folder' for each in rest_of)} are "
            "left out"
            if rest_of
            else ""
        )
        tqdm.write(
            f"{os.fspath(root)}: a folder of {', '.join(training)} and {chosen[0]}, which are taken as pictures to "
            f"train on and pictures held out ({sum(map(bool, sides))}), not as classes{left}",
            file=sys.stderr,
        )
    return Arrangement(positions, sides, inside)
