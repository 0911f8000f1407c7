"""Some pictures of a set: kept out by a hash of their names, or evenly spread.

A picture's side of a split is decided by its own name and the seed alone, so it stays where it is whatever files
come or go.
"""

from __future__ import annotations

import hashlib
import heapq
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, Subset

from invariances.system.errors import UserError


def place_of(name: str, seed: int) -> int:
    """Where a name stands in the order of a split: 64 bits, uniform over names, the same on every machine."""
    text = f"{seed}\0{unicodedata.normalize('NFC', name)}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def held_out_places(names: Iterable[str], held_out: float | int, seed: int = 0) -> list[int]:
    """Positions of the pictures to keep out, in order.

    A share x keeps out the pictures whose place is below x · 2⁶⁴: each with probability x, of every class about
    that share, and whether one is kept out never depends on others. Where that leaves a side empty, the lowest
    place is kept out, or the highest is not. A count keeps out that many of the lowest places.

    Args:
        names: one per picture, relative to their folder.
        held_out: a share between 0 and 1, or a number of pictures.
        seed: another seed, another choice.

    Raises:
        UserError: neither a share nor a number of pictures, or it leaves a side empty.
    """
    places = [place_of(name, seed) for name in names]
    share = _share(held_out)
    if len(places) < 2:
        raise UserError(f"a split needs at least two pictures, and there {_are(len(places))}")
    if share is None:
        count = int(held_out)
        if not 1 <= count < len(places):
            raise UserError(
                f"held_out is {count}, and there {_are(len(places))}: give a number of pictures from 1 to "
                f"{len(places) - 1}, or a share such as 0.1"
            )
        return sorted(heapq.nsmallest(count, range(len(places)), key=lambda k: (places[k], k)))
    bound = int(share * 2**64)
    held = [k for k, place in enumerate(places) if place < bound]
    if not held:
        return [min(range(len(places)), key=places.__getitem__)]
    if len(held) == len(places):
        held.remove(max(range(len(places)), key=places.__getitem__))
    return held


def _share(held_out: Any) -> float | None:
    """The share, or None for a number of pictures."""
    if is_whole(held_out) and held_out >= 1:
        return None
    if isinstance(held_out, (float, np.floating)) and 0 < held_out < 1:
        return float(held_out)
    raise UserError(
        f"held_out is {held_out!r}; give a share between 0 and 1, such as 0.1, or a number of pictures, at least 1"
    )


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _are(count: int) -> str:
    return f"{'is' if count == 1 else 'are'} {count or 'none'}"


def split(
    dataset: Dataset[Any], held_out: float | int = 0.1, seed: int = 0
) -> tuple[Dataset[Any], Dataset[Any]]:
    """(train, held_out) of any data set: by its own `split` if it has one, else by a hash of each item's number.

    Args:
        dataset: with a length.
        held_out: a share between 0 and 1, or a number of pictures.
        seed: another seed, another choice.

    Raises:
        UserError: as `held_out_places`.
    """
    if _has_names(dataset) and callable(getattr(dataset, "split", None)):
        return cast("tuple[Dataset[Any], Dataset[Any]]", dataset.split(held_out, seed))  # type: ignore[attr-defined]
    count = len(dataset)  # type: ignore[arg-type]
    held = held_out_places(map(str, range(count)), held_out, seed)
    chosen = set(held)
    return part_of(dataset, [k for k in range(count) if k not in chosen]), part_of(dataset, held)


def part_of(dataset: Dataset[Any], positions: Sequence[int]) -> Dataset[Any]:
    """The pictures at some positions, as a data set of the same kind where it can make one."""
    if _has_names(dataset) and callable(getattr(dataset, "subset", None)):
        return cast("Dataset[Any]", dataset.subset(positions))  # type: ignore[attr-defined]
    return Subset(dataset, list(positions))


def _has_names(dataset: Dataset[Any]) -> bool:
    """Whether it is one of our data sets of files, whose pictures have names and paths."""
    return hasattr(dataset, "names") and hasattr(dataset, "paths")


def spread(count: int, total: int) -> list[int]:
    """Up to `count` evenly spaced places among `total`: of pictures in order of class, some of each."""
    count = min(count, total)
    if count <= 1:
        return list(range(count))
    return [(2 * k * (total - 1) + count - 1) // (2 * (count - 1)) for k in range(count)]


def limited(dataset: Dataset[Any], count: Any) -> Dataset[Any]:
    """Up to `count` pictures from evenly spaced places of a data set: of one in order of class, some of each.

    Raises:
        UserError: `count` is below 1.
    """
    if not is_whole(count) or count < 1:
        raise UserError(f"a limit of {count!r} pictures leaves none; give a whole number of at least 1")
    pictures = len(getattr(dataset, "paths", dataset))  # type: ignore[arg-type]
    if count >= pictures:
        return dataset
    return part_of(dataset, spread(int(count), pictures))
