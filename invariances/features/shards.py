"""One array on disk, in shards that many processes map into memory; written once, in order, over any number of runs.

A folder holds `manifest.json` (rows, shape, dtype, rows per shard, rows done, what the array was made from) and
`00000.bin`, `00001.bin`, … with the bare rows. Rows count only once the manifest says so, and it says so only after
they are on the disk; so a build that is killed at any moment goes on from the last manifest.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from invariances.system.errors import UserError

VERSION = 1
SHARD_BYTES = 2**30
_MANIFEST = "manifest.json"
Array = np.ndarray[Any, Any]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns the system's refusals to write under `folder` into sentences."""
    try:
        yield
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
        done: rows that are on the disk for certain.
        about: what the rows were made from; kept in the manifest for people to read.
    """

    def __init__(
        self,
        folder: Path,
        rows: int,
        shape: tuple[int, ...],
        dtype: str,
        rows_per_shard: int | None = None,
        done: int = 0,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.rows, self.shape, self.dtype = folder, rows, shape, np.dtype(dtype)
        self.rows_per_shard = rows_per_shard or max(1, SHARD_BYTES // self.row_bytes)
        self.done = self.written = done
        self.about = about or {}
        self._maps: list[Array] = []
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

    @classmethod
    def load(cls, folder: Path) -> Shards | None:
        """What is in `folder`, complete or not; None where nothing whole is."""
        try:
            told = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if told["version"] != VERSION:
                return None
            found = cls(
                folder,
                told["rows"],
                tuple(told["shape"]),
                told["dtype"],
                told["rows_per_shard"],
                told["done"],
                told["about"],
            )
            if not 0 <= found.done <= found.rows or found.rows_per_shard < 1 or found.row_bytes < 1:
                return None
            for shard in range(math.ceil(found.done / found.rows_per_shard)):
                rows = min(found.rows_per_shard, found.done - shard * found.rows_per_shard)
                if found._path(shard).stat().st_size < rows * found.row_bytes:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def start(self) -> None:
        """Makes the folder, without rows; old shards go."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _MANIFEST).unlink(missing_ok=True)
            for old in self.folder.glob("*.bin"):
                old.unlink()
            self.done = self.written = 0
            self._note()

    def write(self, first: int, values: Array) -> None:
        """Writes rows `first`, `first + 1`, …; those that were written before are passed over."""
        if first > self.written:
            raise ValueError(f"row {self.written} comes before row {first}")
        values = np.ascontiguousarray(values[self.written - first :], self.dtype)
        with writing(self.folder):
            while len(values):
                shard, offset = divmod(self.written, self.rows_per_shard)
                part = values[: self.rows_per_shard - offset]
                file = self._open(shard)
                file.seek(offset * self.row_bytes)
                left = part.reshape(-1).view(np.uint8).data
                while left:
                    left = left[file.write(left) :]
                self.written += len(part)
                values = values[len(part) :]

    def commit(self) -> None:
        """Brings what is written to the disk for certain, and says so in the manifest."""
        if self.written == self.done:
            return
        with writing(self.folder):
            if self._file:
                os.fsync(self._file[1].fileno())
            self.done = self.written
            self._note()

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

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.bin"

    def _note(self) -> None:
        told = {
            "version": VERSION,
            "rows": self.rows,
            "shape": self.shape,
            "dtype": self.dtype.name,
            "rows_per_shard": self.rows_per_shard,
            "done": self.done,
            "about": self.about,
        }
        draft = self.folder / f"{_MANIFEST}.draft"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / _MANIFEST)

    def read(self, indices: Array) -> Array:
        """The rows at `indices` (B,), int64 in [0, done), as a new array (B, *shape)."""
        maps = self._mapped()
        if len(maps) == 1:
            return maps[0][indices]
        shards, places = np.divmod(indices, self.rows_per_shard)
        out = np.empty((len(indices), *self.shape), self.dtype)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = maps[shard][places[here]]
        return out

    def _mapped(self) -> list[Array]:
        """All shards, mapped; not read until touched, and given back to the system when memory is short."""
        if not self._maps:
            for first in range(0, self.done, self.rows_per_shard):
                rows = min(self.rows_per_shard, self.done - first)
                path = self._path(first // self.rows_per_shard)
                self._maps.append(np.asarray(np.memmap(path, self.dtype, "r", shape=(rows, *self.shape))))
        return self._maps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": [], "_file": None}
