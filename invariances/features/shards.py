"""One array on disk, in shards that many processes read; written once, by any number of processes and runs.

A folder holds `manifest.json` (rows, shape, dtype, rows per shard, rows done, what the array was made from),
`00000.bin`, `00001.bin`, … with the bare rows, and until all are there `rows.done`, with a byte per row: 1 once the row
is on the disk for certain. So builds that are killed at any moment, several at once too, go on from what is done. An
array that is begun anew has files of other names, which those who still write the old ones do not touch.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from invariances.system.errors import UserError

VERSION = 1
SHARD_BYTES, MOST_SHARDS = 2**30, 64
_MANIFEST = "manifest.json"
_DONE = 1
_SEEKING = threading.Lock()
"""Where a file has one place for all threads, they read one after the other."""
Array = np.ndarray[Any, Any]


@contextmanager
def writing(folder: Path, let: tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Turns the system's refusals to write under `folder`, but for those to `let` through, into sentences."""
    try:
        yield
    except let:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk that holds the cache {str(folder)!r} is full ({reason}); free some space and repeat the "
                "command, which goes on from here, or choose another cache.folder or a smaller cache.max_gb"
            ) from error
        raise UserError(
            f"the cache {str(folder)!r} cannot be written ({reason}); choose another folder as cache.folder"
        ) from error


class Shards:
    """Rows of one shape and dtype in a folder.

    Args:
        folder: where they are, or will be.
        rows: how many there will be.
        shape: of one row.
        dtype: a numpy dtype's name.
        rows_per_shard: rows in each file but the last.
        about: what the rows were made from; kept in the manifest for people to read.

    Attributes:
        done: how many rows were on the disk for certain when this was loaded.
    """

    def __init__(
        self,
        folder: Path,
        rows: int,
        shape: tuple[int, ...],
        dtype: str,
        rows_per_shard: int | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.rows, self.shape, self.dtype = folder, rows, shape, np.dtype(dtype)
        self.rows_per_shard = rows_per_shard or max(
            1, max(SHARD_BYTES, self.bytes // MOST_SHARDS) // self.row_bytes
        )
        self.about = about or {}
        self.done = self._generation = 0
        self._written: list[tuple[int, int]] = []
        self._readers: dict[int, BinaryIO] = {}
        self._file: tuple[int, BinaryIO] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all rows, written or not."""
        return self.rows * self.row_bytes

    @property
    def complete(self) -> bool:
        """Whether every row is on the disk."""
        return self.done == self.rows

    @property
    def occupied(self) -> int:
        """Bytes of the disk that the rows take so far, certain or not, whoever wrote them."""
        found = 0
        for path in self.folder.glob(f"*{self._suffix}.bin"):
            with suppress(OSError):
                found += path.stat().st_blocks * 512
        return max(found, self.done * self.row_bytes)

    @classmethod
    def load(cls, folder: Path) -> Shards | None:
        """What is in `folder`, complete or not; None where nothing whole is."""
        try:
            told = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if told["version"] != VERSION:
                return None
            shape, dtype, per_shard = tuple(told["shape"]), told["dtype"], told["rows_per_shard"]
            found = cls(folder, told["rows"], shape, dtype, per_shard, told["about"])
            found._generation = int(told.get("generation", 0))
            if (
                found.rows < 1
                or per_shard < 1
                or found.row_bytes < 1
                or told.get("done", found.rows) != found.rows
            ):
                return None
            found.done = told.get("done", 0)  # of builds by one process alone, which had no ledger
            there = found.there()
            for shard, first in enumerate(range(0, found.rows, per_shard)):
                rows = np.flatnonzero(there[first : first + per_shard])
                if len(rows) and found._path(shard).stat().st_size < (int(rows[-1]) + 1) * found.row_bytes:
                    return None
            found.done = int(there.sum())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def start(self) -> None:
        """Makes the folder, without rows; old shards go."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _MANIFEST).unlink(missing_ok=True)
            old = [path for path in self.folder.iterdir() if path.suffix in (".bin", ".done")]
            self._generation = max((_generation(path) + 1 for path in old), default=0)
            for path in old:
                path.unlink()
            self._ledger.write_bytes(bytes(self.rows))
            self.done, self._written = 0, []
            self._note()

    def there(self) -> Array:
        """Which rows are on the disk for certain, whoever wrote them; (rows,) bool."""
        if self.complete:
            return np.full(self.rows, True)
        marks = np.fromfile(self._ledger, np.uint8)
        if len(marks) != self.rows:
            raise ValueError(f"{self._ledger} does not belong to {self.rows} rows")
        return np.equal(marks, _DONE)

    def lacks(self, rows: range) -> bool:
        """Whether some rows are not there yet; False where the array was begun anew meanwhile."""
        try:
            with self._ledger.open("rb", buffering=0) as file:
                file.seek(rows.start)
                return file.read(len(rows)) != bytes([_DONE]) * len(rows)
        except FileNotFoundError:
            return False

    def write(self, first: int, values: Array) -> None:
        """Writes rows from `first` on."""
        values = np.ascontiguousarray(values, self.dtype)
        written = first, len(values)
        with writing(self.folder):
            while len(values):
                shard, offset = divmod(first, self.rows_per_shard)
                part = values[: self.rows_per_shard - offset]
                file = self._open(shard)
                file.seek(offset * self.row_bytes)
                left = part.reshape(-1).view(np.uint8).data
                while left:
                    left = left[file.write(left) :]
                first += len(part)
                values = values[len(part) :]
        self._written.append(written)

    def commit(self) -> bool:
        """Brings what is written to the disk for certain, and marks it as done.

        Returns:
            Whether that counts: False where the array was begun anew meanwhile.
        """
        with writing(self.folder):
            if self._file:
                os.fsync(self._file[1].fileno())
            try:
                with self._ledger.open("r+b", buffering=0) as file:
                    for first, count in self._written:
                        file.seek(first)
                        file.write(bytes([_DONE]) * count)
            except FileNotFoundError:
                return False
            self._written = []
        return True

    def close(self) -> None:
        """Closes the file that is being written."""
        if self._file:
            self._file[1].close()
            self._file = None

    def _open(self, shard: int) -> BinaryIO:
        if self._file and self._file[0] != shard:
            os.fsync(self._file[1].fileno())
            self.close()
        if not self._file:
            path = self._path(shard)
            path.touch()
            self._file = shard, path.open("r+b", buffering=0)
        return self._file[1]

    @property
    def _suffix(self) -> str:
        return f".{self._generation}" if self._generation else ""

    @property
    def _ledger(self) -> Path:
        return self.folder / f"rows{self._suffix}.done"

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}{self._suffix}.bin"

    def _note(self) -> None:
        told = {
            "version": VERSION,
            "rows": self.rows,
            "shape": self.shape,
            "dtype": self.dtype.name,
            "rows_per_shard": self.rows_per_shard,
            "generation": self._generation,
            "about": self.about,
        }
        draft = self.folder / f"{_MANIFEST}.draft"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / _MANIFEST)

    def read(self, indices: Array) -> Array:
        """The rows at `indices` (B,), int64, all of them there, as a new array (B, *shape).

        Read, and not mapped into memory: a random row of a file that is larger than what is mapped costs a page fault,
        and a wait for the disk each. All are asked for before the first is waited for.
        """
        out = np.empty((len(indices), *self.shape), self.dtype)
        if not len(indices):
            return out
        size, places = self.row_bytes, out.reshape(-1).view(np.uint8).data
        ends = np.flatnonzero((np.diff(indices) != 1) | (indices[1:] % self.rows_per_shard == 0)) + 1
        runs = []
        for start, stop in zip([0, *ends.tolist()], [*ends.tolist(), len(indices)]):
            shard, row = divmod(int(indices[start]), self.rows_per_shard)
            runs.append((self._opened(shard), row * size, start * size, stop * size))
        if hasattr(os, "posix_fadvise"):
            for file, offset, start, stop in runs:
                os.posix_fadvise(file.fileno(), offset, stop - start, os.POSIX_FADV_WILLNEED)
        for file, offset, start, stop in runs:
            while start < stop:
                count = _read_at(file, places[start:stop], offset)
                if not count:
                    raise OSError(f"a file of {str(self.folder)!r} ends before its rows do")
                start, offset = start + count, offset + count
        return out

    def _opened(self, shard: int) -> BinaryIO:
        """A shard's file; all of them are opened at once, so that who begins the array anew takes none away."""
        if shard not in self._readers:
            for number in range(math.ceil(self.rows / self.rows_per_shard)):
                with suppress(FileNotFoundError):  # of an array that is not complete
                    self._readers[number] = self._path(number).open("rb", buffering=0)
        if shard not in self._readers:
            raise FileNotFoundError(str(self._path(shard)))
        return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_file": None}


def _read_at(file: BinaryIO, place: memoryview, offset: int) -> int:
    """Reads bytes of a file from an offset into a place; how many."""
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [place], offset)
    with _SEEKING:
        file.seek(offset)
        return int(file.readinto(place))  # type: ignore[attr-defined]


def _generation(path: Path) -> int:
    """Of a file `00000.bin` or `00000.3.bin`."""
    number = path.name.split(".")[1:-1]
    return int(number[0]) if number and number[0].isdigit() else 0
