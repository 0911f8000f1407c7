"""Which pictures a set holds, by content: a run keeps the list of those it learned from and of those it kept out.

A picture's identity is a hash of its file's bytes, so that a renamed or copied file is the same picture; a data set
without files is told by the pictures themselves. A picture that was scaled or stored anew is another.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from tqdm import tqdm

from invariances.data.arrays import Array
from invariances.data.datasets import batches, in_order
from invariances.data.files import BrokenImage, open_regular
from invariances.data.parallel import in_parallel
from invariances.data.splitting import part_of
from invariances.system.errors import UserError
from invariances.system.files import atomic, cache_home

DIGEST = 16
"""Bytes of a picture's hash."""

_FORMAT = {"format": "invariances pictures", "version": 1}
_CHUNK = 1 << 20
_REMEMBERED = 256
"""From so many files on, their hashes are kept in the cache's home until a file changes."""


@dataclass(frozen=True, eq=False)
class Identity:
    """The pictures of a data set.

    Args:
        names: Relative to their folder, or the items' numbers.
        sizes: int64, bytes of each file; 0 where there is none.
        hashes: Of dtype S16, the content of each.
    """

    names: Sequence[str]
    sizes: Array
    hashes: Array

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Identity)
            and list(self.names) == list(other.names)
            and bool((self.sizes == other.sizes).all())
            and bool((self.hashes == other.hashes).all())
        )

    def __add__(self, other: Identity) -> Identity:
        """The pictures of both, in order."""
        return Identity(
            [*self.names, *other.names],
            np.concatenate([self.sizes, other.sizes]),
            np.concatenate([self.hashes, other.hashes]),
        )

    def digest(self) -> str:
        """A hash of all contents, in order."""
        return hashlib.sha256(self.hashes.tobytes()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a gzip of UTF-8 lines, `hash size "name"`, the same bytes for the same pictures.

        Raises:
            UserError: The file cannot be written.
        """
        digests = self.hashes.tobytes().hex()
        width = 2 * DIGEST
        with (
            atomic(path) as draft,
            draft.open("wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as file,
        ):
            file.write(_line(json.dumps({**_FORMAT, "count": len(self)})))
            for k, (name, size) in enumerate(zip(self.names, self.sizes.tolist(), strict=True)):
                file.write(_line(f"{digests[k * width : (k + 1) * width]} {size} {json.dumps(name)}"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """The pictures that `save` wrote.

        Raises:
            UserError: No such file, or it is damaged.
        """
        path = Path(path)
        try:
            with open_regular(path) as raw, gzip.GzipFile(fileobj=raw) as file:
                return _read(file)
        except FileNotFoundError:
            raise UserError(f"list of pictures {str(path)!r} does not exist") from None
        except BrokenImage as error:
            raise UserError(str(error)) from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, RecursionError) as error:
            raise UserError(
                f"list of pictures {str(path)!r} is damaged ({error or type(error).__name__})"
            ) from None


def _line(text: str) -> bytes:
    return (text + "\n").encode()


def _read(file: gzip.GzipFile) -> Identity:
    longest = 1 << 20
    head = json.loads(file.readline(longest))
    count = head["count"]
    if {key: head.get(key) for key in _FORMAT} != _FORMAT or not isinstance(count, int):
        raise ValueError("it is no such list, or of a newer version")
    names: list[str] = []
    sizes: list[int] = []
    digests = bytearray()
    while line := file.readline(longest):
        digest, size, name = line.split(b" ", 2)
        names.append(json.loads(name))
        sizes.append(int(size))
        digests += bytes.fromhex(digest.decode())
        if len(digests) != DIGEST * len(names) or not isinstance(names[-1], str) or len(names) > count:
            raise ValueError(f"line {len(names) + 1} is none of a picture")
    if len(names) != count:
        raise ValueError(f"it holds {len(names)} of {count} pictures")
    return _identity(names, sizes, digests)


def _identity(names: Sequence[str], sizes: Sequence[int], digests: bytes | bytearray) -> Identity:
    return Identity(
        names, np.asarray(sizes, np.int64), np.frombuffer(bytes(digests), f"S{DIGEST}", count=len(names))
    )


def shared(known: Identity, asked: Identity) -> Array:
    """Per picture of `asked`, whether its content is among the known ones: bool (N,)."""
    return np.isin(asked.hashes, known.hashes)


def overlap(known: Identity, asked: Identity) -> list[str]:
    """The names, in `asked`, of the pictures that are among the known ones, whatever they are called there."""
    return [asked.names[k] for k in np.flatnonzero(shared(known, asked)).tolist()]


def without(dataset: Dataset[Any], known: Identity, progress: bool = True) -> tuple[Dataset[Any] | None, int]:
    """The pictures of a data set that are not among the known ones, and how many are.

    Args:
        dataset: of any kind.
        known: the pictures to leave out, such as those that a run was trained on.
        progress: a bar on stderr while pictures are hashed.

    Returns:
        The data set itself where there are none, None where all are known; and the number left out.
    """
    seen = shared(known, identify(dataset, progress))
    count = int(seen.sum())
    if count == len(seen):
        return None, count
    return (part_of(dataset, np.flatnonzero(~seen).tolist()) if count else dataset), count


def identify(dataset: Dataset[Any], progress: bool = True) -> Identity:
    """The pictures of a data set: one entry per picture of a folder, or per item of any other set.

    Files are told by their bytes, hashed on all cores; made pictures by what they are made from (a data set's
    `content(indices)`); all others by their pixels.

    Args:
        dataset: with a length; parts and concatenations of torch are told by what they are made of.
        progress: a bar on stderr.

    Raises:
        UserError: A file is gone or cannot be read.
    """
    names = getattr(dataset, "names", None)
    if names is not None and hasattr(dataset, "paths"):
        return _of_files(dataset, range(len(names)), progress)
    return _of_items(dataset, range(len(dataset)), progress)  # type: ignore[arg-type]


def _of_items(dataset: Any, items: Sequence[int], progress: bool) -> Identity:
    """One entry per item."""
    if isinstance(dataset, Subset):
        return _of_items(dataset.dataset, [int(dataset.indices[k]) for k in items], progress)
    if isinstance(dataset, ConcatDataset):
        return _of_concatenation(dataset, np.asarray(items, np.int64), progress)
    if hasattr(dataset, "paths") and hasattr(dataset, "names"):
        pictures = np.asarray(items, np.int64) // getattr(dataset, "views", 1)
        unique, back = np.unique(pictures, return_inverse=True)
        found = _of_files(dataset, unique.tolist(), progress)
        return Identity([found.names[k] for k in back.tolist()], found.sizes[back], found.hashes[back])
    content = getattr(dataset, "content", None)
    hashes = map(_digest, content(items)) if callable(content) else _of_pixels(dataset, items, progress)
    return _identity([str(k) for k in items], [0] * len(items), b"".join(hashes))


def _of_concatenation(dataset: ConcatDataset[Any], items: Array, progress: bool) -> Identity:
    ends = np.asarray(dataset.cumulative_sizes)
    home = np.searchsorted(ends, items, side="right")
    names: list[str] = [""] * len(items)
    sizes, hashes = np.zeros(len(items), np.int64), np.zeros(len(items), f"S{DIGEST}")
    for part in np.unique(home).tolist():
        here = np.flatnonzero(home == part)
        start = int(ends[part - 1]) if part else 0
        found = _of_items(dataset.datasets[part], (items[here] - start).tolist(), progress)
        sizes[here], hashes[here] = found.sizes, found.hashes
        for k, name in zip(here.tolist(), found.names, strict=True):
            names[k] = name
    return Identity(names, sizes, hashes)


def _of_pixels(dataset: Any, items: Sequence[int], progress: bool) -> Iterator[bytes]:
    part: Dataset[Any] = Subset(dataset, list(items))
    with tqdm(
        total=len(items), desc="hashing pictures", unit="img", delay=2, disable=not progress, file=sys.stderr
    ) as bar:
        for _, batch in batches(part, in_order(len(items), 64), 0):
            for image in batch["image"].to(torch.float32).contiguous().numpy():
                yield _digest(image.tobytes())
                bar.update()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _of_files(dataset: Any, pictures: Sequence[int], progress: bool) -> Identity:
    """One entry per picture of a data set with `paths` and `names`, out of memory where no file has changed."""
    names = [os.fspath(dataset.names[k]).replace(os.sep, "/") for k in pictures]
    paths = [dataset.paths[k] for k in pictures]
    memo = _memo(names, paths) if len(paths) >= _REMEMBERED else None
    if memo is not None:
        with suppress(UserError):
            return Identity.load(memo)
    sizes: list[int] = []
    digests = bytearray()
    for size, digest in in_parallel(_file_digest, paths, "hashing pictures", progress):
        sizes.append(size)
        digests += digest
    found = _identity(names, sizes, digests)
    if memo is not None:
        with suppress(UserError, OSError):
            found.save(memo)
    return found


def _memo(names: Iterable[str], paths: Iterable[str | os.PathLike[str]]) -> Path:
    digest = hashlib.blake2b(digest_size=DIGEST)
    for name, path in zip(names, paths):
        try:
            state = os.stat(path)
        except OSError:
            continue
        line = f"{name}\0{os.fspath(path)}\0{state.st_size}\0{state.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return cache_home() / "identities" / f"{digest.hexdigest()}.gz"


def _file_digest(path: str | os.PathLike[str]) -> tuple[int, bytes]:
    digest = hashlib.blake2b(digest_size=DIGEST)
    size = 0
    try:
        with open_regular(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise BrokenImage(f"image {str(path)!r} cannot be read ({error.strerror or error})") from None
    return size, digest.digest()
