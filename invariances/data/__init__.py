"""Where pictures come from: folders, made shapes, published data sets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.data.given import load_images
    from invariances.data.images import ImageFolder
    from invariances.data.shapes import Shapes

_HOMES = {"ImageFolder": "images", "Shapes": "shapes", "load_images": "given"}
__all__ = ["ImageFolder", "Shapes", "load_images"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
