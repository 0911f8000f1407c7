"""Errors that a user can mend, and the words that help to mend them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """What a user gave cannot work: one sentence naming the thing, what is wrong and what to do.

    The command line prints it without a stack trace and exits with status 2.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what holds for Ctrl-C holds for it, but for the exit status."""


def nearest(name: str, names: Iterable[str], n: int = 5) -> str:
    """The up to `n` names most like `name`, as `'a', 'b'`; all of them, in order, where none is alike."""
    names = list(names)
    close = get_close_matches(name, names, n=n, cutoff=0.5)
    shown = close or names[:n]
    text = ", ".join(repr(each) for each in shown)
    return text if close or len(names) <= n else f"{text}, … ({len(names)} in all)"
