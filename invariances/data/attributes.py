"""What is known of each picture: classes by folder, the columns of a `labels.csv`, the factors of drawn pictures.

A `labels.csv` lies in the folder of pictures. Its first column names the picture, relative to the folder; every other
column is an attribute: continuous where all its values are numbers and more than `MOST_KINDS` differ, else discrete.
An empty cell, or a picture without a row, is not known.
"""

from __future__ import annotations

import csv
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from invariances.data.shapes import FACTORS, Shapes
from invariances.system.errors import UserError

LABELS = "labels.csv"
MOST_KINDS = 20
"""Numbers of more than so many values are continuous; so many pictures of a kind must there be on average."""


@dataclass(frozen=True, eq=False)
class Attribute:
    """One thing that is known of each picture.

    Args:
        values: (N,), int64 kinds, −1 where not known; or float64, NaN where not known.
        kinds: names of the kinds; empty for a continuous one.
        circular: a continuous one in turns, of which 1 is 0 again.
    """

    values: Tensor
    kinds: tuple[str, ...] = ()
    circular: bool = False

    @property
    def known(self) -> Tensor:
        """Which pictures it is known of, (N,)."""
        return self.values >= 0 if self.kinds else self.values.isfinite()

    def at(self, places: Any) -> Attribute:
        """Of some pictures."""
        return Attribute(self.values[places], self.kinds, self.circular)


def attributes_of(pictures: Sequence[Any], classes: Sequence[str] = ()) -> list[dict[str, Attribute]]:
    """By name, for each of several data sets alike; empty where nothing is known.

    Args:
        pictures: Data sets, parts and concatenations of such.
        classes: Names of the classes by label, where the data sets do not tell.

    Raises:
        UserError: A `labels.csv` cannot be read.
    """
    items = [_items(each) for each in pictures]
    places = torch.tensor([len(each) for each in items]).cumsum(0).tolist()
    every = [item for each in items for item in each]
    columns = {name: each for name, each in _columns(every).items() if _varies(name, each)}
    starts = [0, *places[:-1]]
    return [
        {name: each.at(slice(start, end)) for name, each in columns.items()}
        for start, end in zip(starts, places)
    ]


def digest_of_attributes(attributes: Mapping[str, Attribute]) -> str:
    """A short hash of what is known."""
    digest = hashlib.sha256()
    for name, each in attributes.items():
        digest.update(repr((name, each.kinds, each.circular)).encode())
        digest.update(each.values.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def source_of(pictures: Any) -> tuple[Any, list[int]]:
    """The data set that these are a part of, and which of its items they are."""
    places = list(range(len(pictures)))
    while isinstance(pictures, Subset):
        places = [int(pictures.indices[k]) for k in places]
        pictures = pictures.dataset
    return pictures, places


def _items(pictures: Any) -> list[Mapping[str, Any]]:
    """What is known of each item: text or numbers by name."""
    if isinstance(pictures, ConcatDataset):
        return [item for each in pictures.datasets for item in _items(each)]
    source, places = source_of(pictures)
    if isinstance(source, ConcatDataset):
        every = _items(source)
        return [every[k] for k in places]
    if isinstance(source, Shapes):
        factors = source.factors(places)
        return [{name: each[k].item() for name, each in factors.items()} for k in range(len(places))]
    if not (hasattr(source, "names") and hasattr(source, "paths")):
        return [{} for _ in places]
    of_picture = [_of_file(source, k) for k in range(len(source.paths))]
    return [of_picture[k // getattr(source, "views", 1)] for k in places]


def _of_file(source: Any, k: int) -> Mapping[str, Any]:
    name, path = str(source.names[k]), str(source.paths[k])
    root = path[: -len(name)] if path.endswith(name) else ""
    told = dict(_rows(Path(root) / LABELS).get(Path(name).as_posix(), {})) if root else {}
    names, label = getattr(source, "classes", []), int(source.labels[k])
    return told | ({"class": str(names[label])} if names and label >= 0 else {})


def _rows(path: Path) -> Mapping[str, Mapping[str, str]]:
    """Rows of a table by picture, read once until it changes; none where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return {}
    return _table(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _table(path: Path, changed: int, size: int) -> Mapping[str, Mapping[str, str]]:
    """Rows by picture.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} cannot be read as a table: {error}") from None
    first = next(iter(rows[0])) if rows else ""
    if not rows or len(rows[0]) < 2 or any(None in row or None in row.values() for row in rows):
        raise UserError(
            f"{str(path)!r} is no table of pictures: the first column names the picture, relative to the folder, and "
            "every row has as many cells as the heading, at least two"
        )
    return {Path(row[first]).as_posix(): {k: v for k, v in row.items() if k != first} for row in rows}


def _columns(items: Sequence[Mapping[str, Any]]) -> dict[str, Attribute]:
    names = dict.fromkeys(name for item in items for name in item)
    return {name: _column(name, [item.get(name, "") for item in items]) for name in names}


def _column(name: str, cells: Sequence[Any]) -> Attribute:
    factor = FACTORS.get(name)
    if factor is not None and not any(isinstance(each, str) for each in cells):
        kind = torch.int64 if factor.discrete else torch.float64
        return Attribute(torch.tensor(cells, dtype=kind), factor.kinds, factor.circular)
    texts = [str(each).strip() for each in cells]
    numbers = [_number(each) for each in texts]
    given = {each for each in texts if each}
    if len(given) > MOST_KINDS and all(not math.isnan(x) for x, text in zip(numbers, texts) if text):
        return Attribute(torch.tensor(numbers, dtype=torch.float64))
    kinds = tuple(sorted(given))
    place = {kind: k for k, kind in enumerate(kinds)}
    return Attribute(torch.tensor([place.get(each, -1) for each in texts]), kinds)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def _varies(name: str, attribute: Attribute) -> bool:
    """Whether anything can be learned of it; says why not."""
    known = attribute.values[attribute.known]
    different = len(torch.unique(known))
    reason = ""
    if different < 2:
        reason = "it does not vary"
    elif attribute.kinds and len(known) < 4 * different:
        reason = f"there are {different} kinds of {len(known)} pictures"
    if reason:
        print(f"attribute {name!r} is left out: {reason}", file=sys.stderr)
    return not reason
