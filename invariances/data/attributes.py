"""What is known of each picture: classes by folder, the columns of a `labels.csv`, the factors of drawn pictures.

A `labels.csv` lies in the folder of pictures, in UTF-8, its cells separated by commas. Its first column names the
picture, relative to the folder; every other column is an attribute: continuous where all its values are numbers and
more than `MOST_KINDS` differ, else discrete. A cell that is empty or "nan", or a picture without a row, is not known. A
column `class` takes the place of class folders.
"""

from __future__ import annotations

import csv
import hashlib
import math
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from invariances.data.shapes import FACTORS, Shapes
from invariances.system.errors import UserError

LABELS = "labels.csv"
MOST_KINDS = 20
"""Numbers of more than so many values are continuous."""
FEWEST = 4
"""So many pictures of a kind must there be on average."""
CLASS = "class"
BESIDE = ("_interval", "_reason", "_warning")
"""How the names end of what stands beside a number."""
WANTED = (
    "cells are separated by commas, the first column names the picture, relative to the folder, and every row has as "
    "many cells as the heading, at least two"
)


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
    table = _read(Path(root) / LABELS) if root else _Table((), {})
    names, label = getattr(source, "classes", []), int(source.labels[k])
    told: dict[str, Any] = dict(table.rows.get(_key(name), {}))
    if names and label >= 0 and CLASS not in table.columns:
        told[CLASS] = str(names[label])
    return told


class _Table(NamedTuple):
    """The attributes that a table has, and its rows by picture."""

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, str]]


def _key(name: str) -> str:
    """A picture's name, however it is written: with backslashes, or accents as signs of their own."""
    return unicodedata.normalize("NFC", Path(name.replace("\\", "/")).as_posix())


def _read(path: Path) -> _Table:
    """A table, read once until it changes; an empty one where there is no file.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        found = path.stat()
    except OSError:
        return _Table((), {})
    return _table(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _table(path: Path, changed: int, size: int) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            heading = [each.strip() for each in next(reader, [])]
            cells = [row for row in reader if row]
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not in UTF-8; save it so") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"{str(path)!r} cannot be read as a table: {error}") from None
    _check_heading(path, heading)
    if not cells or any(len(row) != len(heading) for row in cells):
        raise UserError(f"{str(path)!r} is no table of pictures: {WANTED}")
    columns = tuple(filter(None, heading[1:]))
    rows: dict[str, dict[str, str]] = {}
    for row in cells:
        told = {name: cell for name, cell in zip(heading[1:], row[1:]) if name}
        if rows.setdefault(_key(row[0]), told) != told:
            raise UserError(f"{str(path)!r} has two rows of {row[0]!r} that differ; keep one")
    if not any(_key(each.relative_to(path.parent).as_posix()) in rows for each in path.parent.rglob("*")):
        print(
            f"{str(path)!r} is left out: none of its {len(rows)} rows names a file of its folder, as in "
            f"'some/picture.png'; the first names {cells[0][0]!r}",
            file=sys.stderr,
        )
        return _Table((), {})
    return _Table(columns, rows)


def _check_heading(path: Path, heading: Sequence[str]) -> None:
    """Refuses a heading that names no attributes.

    Raises:
        UserError: It does not.
    """
    names = list(filter(None, heading[1:]))
    if not names:
        raise UserError(f"{str(path)!r} is no table of pictures: {WANTED}")
    if (path.parent / heading[0]).is_file():
        raise UserError(
            f"{str(path)!r} has no heading: its first row names a picture; name the columns there"
        )
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise UserError(f"{str(path)!r} has two columns {twice!r}; name them apart")
    taken = next((each for each in names if each.endswith(BESIDE)), None)
    if taken is not None:
        raise UserError(f"column {taken!r} of {str(path)!r} may not end in {', '.join(BESIDE)}; rename it")


def _columns(items: Sequence[Mapping[str, Any]]) -> dict[str, Attribute]:
    names = dict.fromkeys(name for item in items for name in item)
    return {name: _column(name, [item.get(name, "") for item in items]) for name in names}


def _column(name: str, cells: Sequence[Any]) -> Attribute:
    factor = FACTORS.get(name)
    if factor is not None and not any(isinstance(each, str) for each in cells):
        kind = torch.int64 if factor.discrete else torch.float64
        return Attribute(torch.tensor(cells, dtype=kind), factor.kinds, factor.circular)
    texts = ["" if text.lower() == "nan" else text for text in (str(each).strip() for each in cells)]
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
    """Whether anything can be learned of it; says why not, or of how many pictures it is known."""
    known = attribute.values[attribute.known]
    different = len(torch.unique(known))
    reason = ""
    if different < 2:
        reason = "it does not vary" if len(known) else "it is known of no picture"
    elif attribute.kinds and len(known) < FEWEST * different:
        words = [each for each in attribute.kinds if math.isnan(_number(each))]
        odd = f", as {words[0]!r} is no number" if 0 < 2 * len(words) < len(attribute.kinds) else ""
        reason = f"there are {different} kinds of {len(known)} pictures{odd}"
    if reason:
        print(f"attribute {name!r} is left out: {reason}", file=sys.stderr)
    elif len(known) < len(attribute.values):
        print(
            f"attribute {name!r} is known of {len(known)} of {len(attribute.values)} pictures",
            file=sys.stderr,
        )
    return not reason
