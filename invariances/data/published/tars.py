"""Tar archives that may be hostile, read member by member: only plain files with plain names come out.

Headers are read one by one and data is sought past, so that a member of a huge archive costs one header for each
member before it. A tar inside of a tar is read in place.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from invariances.data.files import open_regular
from invariances.system.errors import UserError

_BLOCK = 512
_LONGEST_NOTE = 1 << 16
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\:/]+")
_FORBIDDEN = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a file with holes",
}


@dataclass(frozen=True)
class Member:
    """A file of an archive.

    Args:
        name: Without folders of its own, or relative with plain parts.
        start: Of its bytes in the file that the archive is read from.
        size: Bytes.
    """

    name: str
    start: int
    size: int


class Region(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of files."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """As of files."""
        return self._at

    def read(self, count: int = -1) -> bytes:
        """As of files."""
        left = max(0, self._size - self._at)
        count = left if count is None or count < 0 else min(count, left)
        self._file.seek(self._start + self._at)
        data = self._file.read(count)
        self._at += len(data)
        return data


class Tar:
    """An archive's files.

    Args:
        file: Can be sought in.
        size: Bytes of the archive.
        what: Its name, for messages.
        path: Where it lies, or the archive around it.
    """

    def __init__(self, file: BinaryIO, size: int, what: str, path: Path) -> None:
        self.file, self.size, self.what, self.path = file, size, what, path

    @classmethod
    def open(cls, path: Path) -> Tar:
        """The archive in a file.

        Raises:
            UserError: There is none, or it is compressed.
        """
        try:
            file = open_regular(path)
        except OSError as error:
            raise UserError(f"archive {str(path)!r} cannot be read ({error.strerror})") from None
        tar = cls(file, os.fstat(file.fileno()).st_size, f"archive {str(path)!r}", path)
        head = file.read(_BLOCK)
        if head[257:262] != b"ustar" and not _checksum_holds(head):
            file.close()
            raise UserError(
                f"{tar.what} is no plain tar; give the published .tar as it is, neither packed nor renamed"
            )
        return tar

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def inner(self, member: Member) -> Tar:
        """A member that is an archive itself."""
        region = Region(self.file, member.start, member.size)
        return Tar(region, member.size, f"{member.name} in {self.what}", self.path)  # type: ignore[arg-type]

    def read(self, member: Member) -> bytes:
        """A member's bytes.

        Raises:
            UserError: The archive ends before.
        """
        self.file.seek(member.start)
        data = self.file.read(member.size)
        if len(data) < member.size:
            raise UserError(f"{self.what} ends within {member.name!r}; it was not fetched whole")
        return data

    def members(self) -> Iterator[Member]:
        """The files in order; folders are passed over.

        Raises:
            UserError: A member is a link, device or pipe, has a name that leads elsewhere or was there before, or the
                archive is damaged or ends early.
        """
        seen: set[str] = set()
        at, long_name = 0, None
        while at + _BLOCK <= self.size:
            self.file.seek(at)
            head = self.file.read(_BLOCK)
            if not head.strip(b"\0"):
                return
            if len(head) < _BLOCK or not _checksum_holds(head):
                raise UserError(f"{self.what} is damaged at byte {at:,}; fetch it anew")
            kind, size = head[156:157], _number(head[124:136])
            start, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
            if size < 0 or start + size > self.size:
                raise UserError(f"{self.what} ends within its last file; it was not fetched whole")
            if kind in (b"L", b"x", b"g", b"K"):
                long_name = self._note(kind, start, size) or long_name
                continue
            name, long_name = long_name or _name_of(head), None
            if kind == b"5":
                continue
            if kind not in (b"0", b"\0", b"7"):
                raise UserError(
                    f"{self.what} holds {_FORBIDDEN.get(kind, 'something odd')} ({_shown(name)}), which no published "
                    "archive does; nothing was written outside of the data set's folder"
                )
            name = plain_name(name, self.what)
            if name in seen:
                raise UserError(f"{self.what} holds {name!r} twice, which no published archive does")
            seen.add(name)
            yield Member(name, start, size)
        raise UserError(f"{self.what} has no end; it was not fetched whole")

    def _note(self, kind: bytes, start: int, size: int) -> str | None:
        """The next file's long name, out of the note before it."""
        if size > _LONGEST_NOTE:
            raise UserError(f"{self.what} holds a note of {size:,} bytes, which no published archive does")
        self.file.seek(start)
        text = self.file.read(size)
        if kind == b"L":
            return text.rstrip(b"\0").decode("utf-8", "surrogateescape")
        if b"GNU.sparse" in text or re.search(rb"(^|\n)\d+ (size|linkpath)=", text):
            raise UserError(
                f"{self.what} holds a file with holes or another size than it says; fetch it anew"
            )
        found = re.search(rb"(?:^|\n)\d+ path=([^\n]*)\n", text) if kind == b"x" else None
        return found.group(1).decode("utf-8", "surrogateescape") if found else None


def plain_name(name: str, what: str) -> str:
    """A member's name, relative and with plain parts.

    Raises:
        UserError: It is absolute, leads upwards or holds odd characters.
    """
    name = name.removeprefix("./")
    parts = name.split("/")
    if len(name) > 1000 or any(part in ("", ".", "..") or not _PLAIN.fullmatch(part) for part in parts):
        raise UserError(
            f"{what} holds a file with the name {_shown(name)}, which leads out of its folder or is odd; nothing was "
            "written outside of the data set's folder"
        )
    return name


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:80] + "…")


def _name_of(head: bytes) -> str:
    name, prefix = (part.split(b"\0", 1)[0] for part in (head[:100], head[345:500]))
    whole = prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name
    return whole.decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]*", digits) and digits else (0 if not digits else -1)


def _checksum_holds(head: bytes) -> bool:
    if len(head) < _BLOCK:
        return False
    return sum(head) - sum(head[148:156]) + 8 * ord(" ") == _number(head[148:156])
