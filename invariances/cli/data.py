"""`invariances data ...`: data sets that have names, where they are, and whether they are whole."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from invariances.system.errors import UserError, nearest


def list_sets(json: bool = False) -> None:
    """List every data set that has a name here.

    Args:
        json: Print JSON.

    Example:
        invariances data list
    """
    from invariances.data.published.catalogue import SETS, state

    rows = [
        {
            "name": name,
            "state": state(kind),
            "pictures": kind.length,
            "title": kind.title,
            "fetches": kind.fetches,
            "folder": str(kind.root_of().path),
        }
        for name, kind in SETS.items()
    ]
    if json:
        print(json_format.dumps(rows))
        return
    wide = max(len(str(row["name"])) for row in rows)
    for row in rows:
        count = f"{row['pictures']:,}" if row["pictures"] else "?"
        print(f"{row['name']:<{wide}}  {row['state']:<8}  {count:>9}  {row['title']}")
    print("\n`invariances data prepare NAME` fetches and prepares one; folders of your own need no name")


def prepare(argv: list[str]) -> int:
    """Fetch a data set and bring it into the published layout; goes on where it stopped.

    Example:
        invariances data prepare AnimalFacesSharedTrain
        invariances data prepare ImageNetAnimalsTrain --from ILSVRC2012_img_train.tar
    """
    from invariances.cli.parsing import build_parser, parse, with_short_words

    parser = build_parser(_prepare, "invariances data prepare")
    with_short_words(parser, {"--from": "source"})
    _prepare(**parse(parser, argv))
    return 0


def _prepare(name: str, source: str | None = None) -> None:
    """Fetch a data set and bring it into the published layout; goes on where it stopped.

    Args:
        name: As `invariances data list` shows it.
        source: The published archive, or a folder that holds it or the pictures; they are then not fetched. A folder
            of pictures is linked and not copied.

    Example:
        invariances data prepare AnimalFacesSharedTrain
        invariances data prepare ImageNetAnimalsTrain --from ILSVRC2012_img_train.tar
    """
    from invariances.data.published.catalogue import named

    if source is not None and not source:
        raise UserError("--from is empty; give an archive or a folder")
    kind = named(name)
    root = kind.root_of()
    kind.prepare(root, None if source is None else Path(source).expanduser().absolute())
    opened = kind(progress=True)
    print(
        f"{name}: {len(opened.names):,} pictures in {opened.paths.folder}; use them by this name, as --images {name}"
    )


def verify(name: str) -> None:
    """Read every picture of a data set, and name those that are missing or broken.

    Args:
        name: As `invariances data list` shows it.

    Example:
        invariances data verify AnimalFacesSharedTest
    """
    from invariances.data.published.catalogue import named

    kind = named(name)
    root = kind.root_of()
    if not kind.ready(root) and not kind.elsewhere():
        raise UserError(f"{name} is not prepared in {root.path}; run `invariances data prepare {name}`")
    data = kind()
    broken = data.broken()
    for line in broken:
        print(line, file=sys.stderr)
    if broken:
        raise UserError(
            f"{name}: {len(broken):,} of {len(data.names):,} pictures are missing or broken; delete them and run "
            f"`invariances data prepare {name} --from SOURCE`, which fills in what is missing"
        )
    print(f"{name}: all {len(data.names):,} pictures can be read")


def show(name: str, output: str | None = None, n: int = 40, size: int = 96) -> None:
    """Write a grid of pictures of a data set, a class in each row, or from evenly spaced places.

    Args:
        name: As `invariances data list` shows it, or a folder.
        output: PNG to write; by default NAME.png.
        n: How many pictures, at most.
        size: Side of each, pixels.

    Example:
        invariances data show AwA2Test --output animals.png
    """
    from invariances.data.datasets import images_at
    from invariances.data.images import ImageFolder
    from invariances.data.published.catalogue import SETS, by_name, is_name
    from invariances.report.grids import save_grid

    if not 1 <= n <= 1000 or not 1 <= size <= 2048:
        raise UserError(
            f"n is {n} and size {size}; give at most 1000 pictures of at most 2048 pixels, at least 1"
        )
    known = is_name(name)
    if not known and not os.path.exists(os.path.expanduser(name)):
        raise UserError(
            f"{name!r} is neither a folder nor a data set's name; nearest: {nearest(name, SETS, n=3)}"
        )
    data = by_name(name, size, crop="center") if known else ImageFolder(name, size)
    rows, labels = _rows(data, n)
    wide = max(map(len, rows))
    images = images_at(data, [place for row in rows for place in row])
    table = images.new_ones(len(rows), wide, *images.shape[1:])
    taken = 0
    for k, row in enumerate(rows):
        table[k, : len(row)] = images[taken : taken + len(row)]
        taken += len(row)
    print(save_grid(table, output or f"{Path(name).name or 'pictures'}.png", labels))


def _rows(data: Any, n: int) -> tuple[list[list[int]], list[str] | None]:
    """Places of pictures, row by row: of evenly spaced classes with their names, or of the whole set."""
    from invariances.data.splitting import spread

    if not data.classes:
        columns, places = min(8, n), spread(n, len(data))
        return [places[k : k + columns] for k in range(0, len(places), columns)], None
    labels = np.asarray(data.labels)
    present = np.unique(labels)
    columns = min(n, 8, max(4, -(-n // len(present))))
    chosen = present[spread(max(1, n // columns), len(present))].tolist()
    rows = []
    for label in chosen:
        members = np.flatnonzero(labels == label)
        rows.append(members[spread(columns, len(members))].tolist())
    return rows, [data.classes[label][:24] for label in chosen]
