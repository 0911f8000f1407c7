"""Data sets by their names: what there is, where it is, and how it opens."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from invariances.data.images import ImageFolder
from invariances.data.published.animalfaces import (
    AnimalFacesRestrictedTest,
    AnimalFacesRestrictedTrain,
    AnimalFacesSharedTest,
    AnimalFacesSharedTrain,
    AnimalFacesTest,
    AnimalFacesTrain,
)
from invariances.data.published.awa2 import AwA2Test, AwA2Train
from invariances.data.published.imagenet import (
    ImageNetAnimalsTrain,
    ImageNetAnimalsValidation,
    ImageNetTrain,
    ImageNetValidation,
)
from invariances.data.published.pictures import Crop, PublishedSet
from invariances.data.published.samples import TestSamples, TrainSamples
from invariances.system.errors import UserError, nearest

SETS: dict[str, type[PublishedSet]] = {
    each.name: each
    for each in (
        ImageNetTrain,
        ImageNetValidation,
        ImageNetAnimalsTrain,
        ImageNetAnimalsValidation,
        AnimalFacesTrain,
        AnimalFacesTest,
        AnimalFacesSharedTrain,
        AnimalFacesSharedTest,
        AnimalFacesRestrictedTrain,
        AnimalFacesRestrictedTest,
        AwA2Train,
        AwA2Test,
    )
}
"""Data sets that are fetched and prepared by name."""

_IN_PYTHON = {
    "TrainSamples": "needs a generator, in Python: invariances.data.TrainSamples(generator)",
    "TestSamples": "needs a generator, in Python: invariances.data.TestSamples(generator)",
    "Folder": "stands for a folder of your own: give its path instead of the name",
    "LabelFolder": "stands for a folder of your own: give its path instead of the name",
}


class Folder(ImageFolder):
    """Pictures of one's own without classes, as `ImageFolder` cuts them; the published name."""

    def __init__(self, folder: Any, size: int = 128, **options: Any) -> None:
        super().__init__(folder, size, **options)
        self.classes, self.labels = [], [-1] * len(self.paths)


class LabelFolder(ImageFolder):
    """Pictures of one's own in a folder per class, as `ImageFolder` cuts them; the published name.

    Raises:
        UserError: As `ImageFolder`, or there are no folders of classes.
    """

    def __init__(self, folder: Any, size: int = 128, **options: Any) -> None:
        super().__init__(folder, size, **options)
        if not self.classes:
            raise UserError(
                f"{folder!r} has no folders of classes; give one folder of pictures per class, at least two"
            )


def is_name(given: Any) -> bool:
    """Whether this names a data set, and no file or folder here has that name."""
    known = isinstance(given, str) and (given in SETS or given in _IN_PYTHON)
    return known and not os.path.lexists(os.path.expanduser(given))


def meant(given: Any) -> str | None:
    """The data set whose name is all but what was given, where no file or folder here has that name."""
    if not isinstance(given, str) or os.path.lexists(os.path.expanduser(given)):
        return None
    known = {name.lower(): name for name in (*SETS, *_IN_PYTHON)}
    return next((known[each] for each in get_close_matches(given.lower(), known, n=1, cutoff=0.8)), None)


def named(name: str) -> type[PublishedSet]:
    """The class of a data set.

    Raises:
        UserError: No data set has this name; says which are alike.
    """
    if name in _IN_PYTHON:
        raise UserError(f"{name} {_IN_PYTHON[name]}")
    if name not in SETS:
        raise UserError(f"{name!r} is no data set's name; nearest: {nearest(name, SETS, n=3)}")
    return SETS[name]


def by_name(
    name: str,
    size: int,
    crop: Crop | None = None,
    views: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> PublishedSet:
    """A data set by its name, fetched and prepared where that was not done before.

    Args:
        name: As `invariances data list` shows it.
        size: Side of the square images, pixels.
        crop: "center" or "random"; by default as published for this set.
        views: Random crops per picture.
        seed: Of random crops.
        progress: Bars on stderr.

    Raises:
        UserError: No data set has this name, or it cannot be had.
    """
    kind = named(name)
    if views > 1 and crop is None:
        crop = "random"
    return kind(size, crop=crop, views=views, seed=seed, progress=progress)


def state(kind: type[PublishedSet]) -> str:
    """Whether a data set is ready, in part here, or not here."""
    root = kind.root_of()
    if kind.ready(root) or kind.elsewhere():
        return "ready"
    if any(_entries(root.path)):
        return "in part"
    return "not here"


def _entries(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name != ".lock"]
    except OSError:
        return []


__all__ = [
    "SETS",
    "Folder",
    "LabelFolder",
    "TestSamples",
    "TrainSamples",
    "by_name",
    "is_name",
    "meant",
    "named",
    "state",
]
