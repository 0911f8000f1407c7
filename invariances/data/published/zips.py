"""Zip archives that may be hostile: only plain files with plain names come out, and no more than one can hold."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from invariances.data.files import open_regular
from invariances.data.published.tars import plain_name
from invariances.system.errors import UserError

LARGEST = 256 << 20
"""Bytes of the largest file that is taken out."""
MOST_PACKED = 20
"""How many times its own size an archive of pictures may hold; those are packed already."""
_SLACK = 1 << 22


class Zip:
    """An archive's files.

    Args:
        path: The archive.

    Raises:
        UserError: It is no zip or was not fetched whole; or it holds a link, a name that leads elsewhere, the same name
            twice, or more than an archive of its size can.
    """

    def __init__(self, path: Path) -> None:
        self.what = f"archive {str(path)!r}"
        try:
            file = open_regular(path)
        except OSError as error:
            raise UserError(f"{self.what} cannot be read ({error.strerror})") from None
        try:
            self._zip = zipfile.ZipFile(file)
            self.files = self._checked(path.stat().st_size)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
            file.close()
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.what} is no whole zip ({error}); fetch it anew") from None
        self._file = file

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()
        self._file.close()

    def _checked(self, size: int) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        packed = unpacked = 0
        for info in self._zip.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() and mode in (0, stat.S_IFDIR):
                continue
            if mode not in (0, stat.S_IFREG):
                raise UserError(
                    f"{self.what} holds a link or device ({info.filename[:80]!a}), which no published archive "
                    "does; nothing was written"
                )
            name = plain_name(info.filename, self.what)
            if name in found:
                raise UserError(f"{self.what} holds {name!r} twice, which no published archive does")
            packed, unpacked = packed + info.compress_size, unpacked + info.file_size
            if info.file_size > LARGEST or unpacked > MOST_PACKED * size + _SLACK or packed > size:
                raise UserError(
                    f"{self.what} claims to hold {unpacked:,} bytes in {size:,}, up to {name!r}: no archive of "
                    "pictures does; nothing was written"
                )
            found[name] = info
        return found

    def parts(self, name: str) -> Iterator[bytes]:
        """A file's bytes, part by part, no more than it said.

        Raises:
            UserError: It is damaged.
        """
        info, count = self.files[name], 0
        try:
            with self._zip.open(info) as source:
                while part := source.read(1 << 20):
                    count += len(part)
                    if count > info.file_size:
                        raise UserError(f"{self.what} holds more of {name!r} than it says; fetch it anew")
                    yield part
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{name!r} in {self.what} is damaged ({error}); fetch it anew") from None
        if count < info.file_size:
            raise UserError(f"{self.what} holds less of {name!r} than it says; fetch it anew")
