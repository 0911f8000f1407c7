"""Errors that a user can mend, and the words that help to mend them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """What a user gave cannot work: one sentence naming the thing, what is wrong and what to do.

    The command line prints it without a stack trace and exits with status 2.
    """


class NotHere(UserError):
    """A file that has to be fetched is not here, and could not be.

    Args:
        sentence: As of any `UserError`.
        reason: Why it could not be fetched, in some words, for sentences that name more than this file.
    """

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what holds for Ctrl-C holds for it, but for the exit status."""


def listing(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def nearest(name: str, names: Iterable[str], n: int = 5) -> str:
    """The up to `n` names most like `name`, as `'a', 'b'`; all of them, in order, where none is alike."""
    names = list(names)
    close = get_close_matches(name, names, n=n, cutoff=0.5)
    shown = close or names[:n]
    text = ", ".join(repr(each) for each in shown)
    return text if close or len(names) <= n else f"{text}, … ({len(names)} in all)"
