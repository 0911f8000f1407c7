"""Refusals that configurations share: each raises one sentence that says what a value must be."""

from __future__ import annotations

import math
from typing import Any, get_args

from invariances.system.errors import UserError, nearest

MOST_SAMPLES = 10_000
"""Of one picture at once: what no memory or patience suffices for is a slip."""


def choice(name: str, value: object, kind: Any) -> None:
    """Refuses a value that is none of a Literal's.

    Raises:
        UserError: Names the nearest.
    """
    if value not in get_args(kind):
        raise UserError(f"{name} is {value!r}; use {nearest(str(value), get_args(kind))}")


def number(name: str, value: Any, least: float, below: float = math.inf, whole: bool = False) -> None:
    """Refuses what is no number in [least, below).

    Raises:
        UserError: Says what it must be.
    """
    right = isinstance(value, int) if whole else isinstance(value, (int, float))
    if isinstance(value, bool) or not right or not least <= value < below:
        kind = "a whole number" if whole else "a number"
        most = "" if below == math.inf else f" and below {below:g}"
        raise UserError(f"{name} is {value!r}; give {kind} of at least {least:g}{most}")


def text(name: str, value: object) -> None:
    """Refuses an empty word, which would stand for the current folder.

    Raises:
        UserError: It is empty, or no text.
    """
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UserError(f"{name} is {value!r}; give a name or a path")
