"""Where pictures come from: folders, made shapes, published data sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.data.given import as_dataset, load_images
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
    from invariances.data.published.catalogue import Folder, LabelFolder, by_name
    from invariances.data.published.imagenet import (
        ImageNetAnimalsTrain,
        ImageNetAnimalsValidation,
        ImageNetTrain,
        ImageNetValidation,
    )
    from invariances.data.published.samples import TestSamples, TrainSamples
    from invariances.data.shapes import Shapes

_FACES, _IMAGENET = "published.animalfaces", "published.imagenet"
_HOMES = {
    "AnimalFacesRestrictedTest": _FACES,
    "AnimalFacesRestrictedTrain": _FACES,
    "AnimalFacesSharedTest": _FACES,
    "AnimalFacesSharedTrain": _FACES,
    "AnimalFacesTest": _FACES,
    "AnimalFacesTrain": _FACES,
    "AwA2Test": "published.awa2",
    "AwA2Train": "published.awa2",
    "Folder": "published.catalogue",
    "ImageFolder": "images",
    "ImageNetAnimalsTrain": _IMAGENET,
    "ImageNetAnimalsValidation": _IMAGENET,
    "ImageNetTrain": _IMAGENET,
    "ImageNetValidation": _IMAGENET,
    "LabelFolder": "published.catalogue",
    "Shapes": "shapes",
    "TestSamples": "published.samples",
    "TrainSamples": "published.samples",
    "as_dataset": "given",
    "by_name": "published.catalogue",
    "load_images": "given",
}
__all__ = [
    "AnimalFacesRestrictedTest",
    "AnimalFacesRestrictedTrain",
    "AnimalFacesSharedTest",
    "AnimalFacesSharedTrain",
    "AnimalFacesTest",
    "AnimalFacesTrain",
    "AwA2Test",
    "AwA2Train",
    "Folder",
    "ImageFolder",
    "ImageNetAnimalsTrain",
    "ImageNetAnimalsValidation",
    "ImageNetTrain",
    "ImageNetValidation",
    "LabelFolder",
    "Shapes",
    "TestSamples",
    "TrainSamples",
    "as_dataset",
    "by_name",
    "load_images",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
