"""A list of many relative file names in little memory, and the folders they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from invariances.data.arrays import Array
from invariances.system.errors import UserError

_BLOCK = 1 << 16


class Names(Sequence[str]):
    """File names as one text and the places where each begins and ends.

    Args:
        text: Lines of UTF-8, each a relative path; a last line need not end.
        positions: The lines that count, in this order; all of them if left out.
        where: What the text is, for messages.

    Raises:
        UserError: A line is empty, or leads out of its folder.
    """

    def __init__(self, text: bytes, positions: Array | None = None, where: str = "the list") -> None:
        self.text = text if text.endswith(b"\n") or not text else text + b"\n"
        letters = np.frombuffer(self.text, np.uint8)
        kind = np.int32 if len(self.text) < 2**31 else np.int64
        ends = np.flatnonzero(letters == ord("\n")).astype(kind)
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1] + 1
        if (starts == ends).any():
            raise UserError(f"{where} has an empty line; delete it, so that it is made again")
        if (letters[starts] == ord("/")).any() or _leads_out(self.text):
            raise UserError(f"{where} names files outside of its folder; delete it, so that it is made again")
        self._starts, self._ends = starts, ends
        self._positions = np.arange(len(ends), dtype=kind) if positions is None else positions

    @classmethod
    def read(cls, path: Path) -> Names:
        """The names in a file.

        Raises:
            UserError: It is not there, or names files outside of its folder.
        """
        try:
            return cls(path.read_bytes(), where=f"list {str(path)!r}")
        except OSError as error:
            raise UserError(f"list {str(path)!r} cannot be read ({error.strerror})") from None

    def at(self, positions: Sequence[int] | Array) -> Names:
        """Some of the names, in this order; the text is shared."""
        part = object.__new__(Names)
        part.__dict__.update(self.__dict__)
        part._positions = self._positions[np.asarray(positions, dtype=np.int64)]
        return part

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        line = self._positions[index]
        return self.text[self._starts[line] : self._ends[line]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for line in self._positions.tolist():
            yield self.text[self._starts[line] : self._ends[line]].decode("utf-8", "surrogateescape")

    def folders(self) -> tuple[list[str], Array]:
        """The sorted names of the folders that files lie in directly, and each file's number among them, int64.

        Raises:
            UserError: A file lies in none.
        """
        numbers = np.empty(len(self), np.int64)
        found: dict[bytes, int] = {}
        for first in range(0, len(self), _BLOCK):
            lines = self._positions[first : first + _BLOCK]
            starts, ends = self._starts[lines], self._ends[lines]
            low, high = int(starts.min()), int(ends.max())
            if high - low > 1 << 24:  # lines from all over the text: look at each by itself
                folders = np.asarray(
                    [_folder(self.text[a:b]) for a, b in zip(starts.tolist(), ends.tolist())]
                )
            else:
                folders = _folders(self.text[low:high], starts - low, ends - low)
            here, back = np.unique(folders, return_inverse=True)
            numbers[first : first + _BLOCK] = np.asarray(
                [found.setdefault(name, len(found)) for name in here.tolist()], np.int64
            )[back]
        order = sorted(found)
        place = np.empty(len(found), np.int64)
        place[[found[name] for name in order]] = np.arange(len(order))
        return [name.decode("utf-8", "surrogateescape") for name in order], place[numbers]

    def fingerprint(self) -> str:
        """A hash of the names, in order."""
        digest = hashlib.sha256(self.text)
        digest.update(self._positions.astype(np.int64).tobytes())
        return digest.hexdigest()


def _folder(name: bytes) -> bytes:
    folders = name.split(b"/")[:-1]
    if not folders:
        raise UserError("a listed file lies in no folder, and the folder is its class")
    return folders[-1]


def _folders(text: bytes, starts: Array, ends: Array) -> Array:
    """The last folder of each line of a text, as one array of bytes."""
    slashes = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("/"))
    last = np.searchsorted(slashes, ends) - 1
    if not len(slashes) or (last < 0).any() or (slashes[last] < starts).any():
        raise UserError("a listed file lies in no folder, and the folder is its class")
    before = np.where(last > 0, slashes[np.maximum(last - 1, 0)] + 1, 0)
    first, end = np.maximum(starts, before), slashes[last]
    width = max(1, int((end - first).max()))
    letters = np.frombuffer(text + bytes(width), np.uint8)
    table = letters[first[:, None] + np.arange(width)]
    table[np.arange(width) >= (end - first)[:, None]] = 0
    kept: Array = np.ascontiguousarray(table).view(f"S{width}")[:, 0]
    return kept


def _leads_out(text: bytes) -> bool:
    if b"\0" in text or b"\\" in text:
        return True
    if b".." not in text:
        return False
    return text.startswith(b"../") or any(each in text for each in (b"/../", b"\n../", b"/..\n"))
