"""`invariances data ...`: data sets that have names, where they are, and whether they are whole."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path

from invariances.system.errors import UserError


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
    options = parse(parser, argv)
    try:
        _prepare(**options)
    except KeyboardInterrupt:
        words = " ".join(["invariances data prepare", *argv])
        print(f"stopped; `{words}` goes on where it stopped", file=sys.stderr)
        return 130
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
    print(f"{name}: {len(opened.names):,} pictures in {opened.paths.folder}")


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


def show(name: str, output: str | None = None, n: int = 24, size: int = 128) -> None:
    """Write a grid of pictures from evenly spaced places of a data set, with their classes.

    Args:
        name: As `invariances data list` shows it, or a folder.
        output: PNG to write; by default NAME.png.
        n: How many pictures.
        size: Side of each, pixels.

    Example:
        invariances data show AwA2Test --output animals.png
    """
    import torch

    from invariances.data.images import ImageFolder
    from invariances.data.published.catalogue import by_name, is_name
    from invariances.data.splitting import limited
    from invariances.report.grids import save_grid

    if not 1 <= n <= 1000 or not 1 <= size <= 2048:
        raise UserError(
            f"n is {n} and size {size}; give at most 1000 pictures of at most 2048 pixels, at least 1"
        )
    known = is_name(name) or not os.path.exists(name)
    part = limited(by_name(name, size, crop="center") if known else ImageFolder(name, size), n)
    columns = max(1, min(8, n))
    found = [part[k] for k in range(len(part))]  # type: ignore[arg-type]
    images = torch.stack([item["image"] for item in found])
    rows = -(-len(found) // columns)
    blank = images.new_ones(rows * columns - len(found), *images.shape[1:])
    table = torch.cat([images, blank]).reshape(rows, columns, *images.shape[1:])
    labels = [str(found[row * columns].get("name", ""))[:24] for row in range(rows)]
    path = save_grid(table, output or f"{Path(name).name or 'pictures'}.png", labels if any(labels) else None)
    print(path)
