"""Models and data sets that a command needs by name: where one cannot be had, all that are not here are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from invariances.system.errors import NotHere, listing
from invariances.system.files import cache_folder
from invariances.zoo.registry import entry, path, registry


@contextmanager
def needing(models: Sequence[Any], pictures: Sequence[Any] = ()) -> Iterator[None]:
    """What is done inside needs these; what is no registered name is passed over.

    Args:
        models: Networks, autoencoders, flows, as they were given.
        pictures: Folders, data sets or lists of these, as they were given.

    Raises:
        NotHere: One of them could not be had; names all that are not here, and every way to get them.
    """
    try:
        yield
    except NotHere as error:
        lacking, sets = _lacking([*models, *_drawn_with(pictures)]), _lacking_sets(pictures)
        if len(lacking) + len(sets) < 2:
            raise
        raise NotHere(_sentence(lacking, sets, error.reason), error.reason) from error


def _lacking(models: Sequence[Any]) -> list[str]:
    known = [each for each in models if isinstance(each, str) and each in registry()]
    return [
        each for each in dict.fromkeys(known) if "package" not in entry(each) and not path(each).is_file()
    ]


def _names(pictures: Sequence[Any]) -> list[str]:
    """Of data sets, each once."""
    from invariances.data.published.catalogue import is_name

    given = [name for each in pictures for name in (each if isinstance(each, (list, tuple)) else [each])]
    return list(dict.fromkeys(filter(is_name, given)))


def _drawn_with(pictures: Sequence[Any]) -> list[str]:
    """What a published generator's pictures need beside it."""
    return ["dequant_vae"] if {"TrainSamples", "TestSamples"} & {*_names(pictures)} else []


def _lacking_sets(pictures: Sequence[Any]) -> dict[str, dict[str, str]]:
    """Data sets that are not ready, and the files that they lack."""
    from invariances.data.published.catalogue import SETS

    kinds = [SETS[name] for name in _names(pictures) if name in SETS]
    return {
        each.name: each.lacking(each.root_of())
        for each in kinds
        if not each.ready(each.root_of()) and not each.elsewhere()
    }


def _sentence(models: list[str], sets: dict[str, dict[str, str]], reason: str) -> str:
    fetch, by_hand = [], []
    if models:
        fetch.append(f"`invariances models download {' '.join(models)}`")
        by_hand.append("`invariances models info NAME` says where a model's file is from and where it goes")
    if sets:
        fetch += [f"`invariances data prepare {name}`" for name in sets]
        files = list(dict.fromkeys(file for lacking in sets.values() for file in lacking))
        by_hand.append(
            "`invariances data prepare NAME --from FOLDER` takes a data set out of a folder"
            + (f" with {listing(files)}" if files else "")
        )
    return (
        f"{listing([*models, *sets])} are needed and not here ({reason}); {listing(fetch)} "
        f"{'fetches' if len(fetch) == 1 else 'fetch'} them, also on another machine, whose {cache_folder()} is then "
        f"copied; by hand, {', and '.join(by_hand)}"
    )
