"""Whatever people give as pictures: files, folders, PIL pictures, arrays, tensors, loaders and data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, IterableDataset

from invariances.data.arrays import Array, check_values, from_uint8, to_array
from invariances.data.datasets import as_item
from invariances.data.files import as_rgb, list_images, open_image
from invariances.data.parallel import in_parallel
from invariances.system.errors import UserError

_WHAT = (
    "give a path, a PIL picture, an 8-bit array (H, W, 3), a float tensor (3, H, W) in [-1, 1], several of these in a "
    "list, or a folder"
)


def load_images(source: Any, size: int) -> Tensor:
    """Pictures as images (N, 3, size, size) in [-1, 1].

    Args:
        source: a picture file, a folder of them, a PIL picture, a uint8 array or tensor (H, W), (H, W, 3 or 4) or
            (N, H, W, 3 or 4), a uint8 or float tensor (3, H, W) or (N, 3, H, W), floats in [-1, 1]; or a list that
            may mix all of these but folders.
        size: side of the squares, pixels: the shortest side is resized to it, and the middle cut out.

    Raises:
        UserError: nothing there, something that is no picture, or a picture that is broken (`BrokenImage`).
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(
            f"size is {size!r}; give the side of the images in pixels, a whole number of at least 1"
        )
    if isinstance(source, (str, os.PathLike)):
        source = _paths(source)
    elif isinstance(source, (Image.Image, np.ndarray, Tensor)):
        source = [source]
    elif not isinstance(source, Iterable) or isinstance(source, (Mapping, bytes)):
        raise UserError(f"{_shown(source)} is no picture; {_WHAT}")
    parts = list(source)
    if not parts:
        raise UserError("no pictures given; name at least one picture file or a folder of them")
    return torch.cat(list(in_parallel(lambda part: _images(part, size), parts, "pictures", True)))


def _paths(source: str | os.PathLike[str]) -> list[Path]:
    if not os.fspath(source):
        raise UserError("the picture's name is empty; give a picture file or a folder of them")
    path = Path(source).expanduser()
    return list_images(path) if path.is_dir() or not path.suffix else [path]


def _images(given: Any, size: int) -> Tensor:
    """One part of a list: (N, 3, size, size)."""
    if isinstance(given, (str, os.PathLike)):
        return _squares([open_image(given, size)], size)
    if isinstance(given, Image.Image):
        return _squares([as_rgb(given)], size)
    if isinstance(given, Tensor) and given.is_floating_point():
        return _resized(given, size)
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
        if given.ndim in (3, 4) and given.shape[-3] == 3 and given.shape[-1] not in (3, 4):
            given = np.moveaxis(given, -3, -1)
    if isinstance(given, np.ndarray):
        return _squares(_pictures(given), size)
    raise UserError(f"{_shown(given)} is no picture; {_WHAT}")


def _squares(pictures: Sequence[Image.Image], size: int) -> Tensor:
    return from_uint8(torch.from_numpy(np.stack([to_array(picture, size) for picture in pictures])))


def _pictures(array: Array) -> list[Image.Image]:
    """An 8-bit array (H, W), (H, W, C) or (N, H, W, C) as RGB pictures."""
    if array.dtype != np.uint8:
        raise UserError(
            f"an array of {array.dtype} is no 8-bit picture; give uint8 from 0 to 255, or a float tensor "
            "(3, H, W) in [-1, 1]"
        )
    stack = array[None] if array.ndim in (2, 3) else array
    if array.ndim == 2:
        stack = stack[..., None]
    if stack.ndim != 4 or stack.shape[-1] not in (1, 3, 4) or 0 in stack.shape:
        raise UserError(
            f"an array of shape {array.shape} is no picture; give (H, W, 3) or (N, H, W, 3) of uint8"
        )
    return [as_rgb(Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each)) for each in stack]


def _resized(images: Tensor, size: int) -> Tensor:
    """Float images, the middle square resized; as they are where they have the size already."""
    stack = images.detach().cpu().float()
    stack = stack[None] if stack.dim() == 3 else stack
    if stack.dim() != 4 or stack.shape[1] != 3 or 0 in stack.shape:
        raise UserError(
            f"a tensor of shape {tuple(images.shape)} is no image; give (3, H, W) or (N, 3, H, W)"
        )
    check_values(stack, "a given image")
    height, width = stack.shape[2:]
    if (height, width) == (size, size):
        return stack
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = stack[..., top : top + side, left : left + side]
    return interpolate(square, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


class Pictures(Dataset[dict[str, Any]]):
    """Pictures in memory as items `{image, label, index, path}`.

    Args:
        images: (N, 3, H, W) in [-1, 1].
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"image": self.images[index], "label": -1, "index": index, "path": ""}


class Items(Dataset[dict[str, Any]]):
    """A data set of (image, label) pairs, or of images, as one of dict items.

    Args:
        source: with a length; its images are float tensors (3, H, W) in [-1, 1].
    """

    def __init__(self, source: Dataset[Any]) -> None:
        self.source = source
        self.classes = list(getattr(source, "classes", []))

    def __len__(self) -> int:
        return len(cast(Sized, self.source))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, **as_item(self.source[index])}


def as_dataset(given: Any, size: int) -> Dataset[dict[str, Any]]:
    """A data set of dict items out of what people have in memory; folders and names are others' business.

    Args:
        given: a data set with a length, whose items are dicts, (image, label) pairs or images; a `DataLoader` over
            one; or pictures as `load_images` takes them, but no paths.
        size: side of the squares that pictures become; a data set gives its own.

    Raises:
        UserError: it has no length, or is nothing of that kind.
    """
    if isinstance(given, DataLoader):
        given = given.dataset
    if isinstance(given, IterableDataset) or (
        not hasattr(given, "__len__") and isinstance(given, Iterable) and not isinstance(given, Image.Image)
    ):
        raise UserError(
            f"a {type(given).__name__} gives its pictures in a stream, and every picture must be found again by its "
            "number; give a data set with __len__ and __getitem__, a folder, or a tensor (N, 3, H, W) in [-1, 1]"
        )
    if isinstance(given, (Image.Image, np.ndarray, Tensor, list, tuple)):
        return Pictures(load_images(given, size))
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")) or isinstance(given, (Mapping, str)):
        raise UserError(
            f"{_shown(given)} is no set of pictures; give a folder, several folders, the name of a data set, a data "
            "set of torch, or a tensor (N, 3, H, W) in [-1, 1]"
        )
    if len(given) == 0:
        raise UserError(f"the given {type(given).__name__} is empty; give at least one picture")
    return given if isinstance(given[0], Mapping) else Items(given)
