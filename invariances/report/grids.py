"""Pictures and numbers for people: grids of images, tables, charts, and HTML pages that stand alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from invariances.data.images import to_uint8
from invariances.system.errors import UserError
from invariances.system.files import atomic

if TYPE_CHECKING:
    pass


_GAP, _LABEL_HEIGHT, _FONT_SIZE = 3, 20, 13
_WHITE, _INK = (255, 255, 255), (40, 44, 52)


def grid(
    images: Tensor,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """One picture of many, with labels beside rows and above columns.

    Args:
        images: (N, 3, H, W), laid out nearly square, or (rows, columns, 3, H, W); in [-1, 1].
        row_labels: One per row.
        column_labels: One per column.
        scale: Whole-numbered enlargement, without smoothing.

    Raises:
        UserError: Another shape, or labels of another number.
    """
    if images.dim() == 4:
        images = _squarish(images)
    if images.dim() != 5 or images.shape[2] != 3 or 0 in images.shape:
        raise UserError(
            f"a grid of images of shape {tuple(images.shape)} cannot be drawn; give (N, 3, H, W) or "
            "(rows, columns, 3, H, W)"
        )
    rows, columns, _, height, width = images.shape
    for name, labels, count in (("row", row_labels, rows), ("column", column_labels, columns)):
        if labels is not None and len(labels) != count:
            raise UserError(f"{len(labels)} {name} labels were given for {count} {name}s; give one for each")
    height, width = height * scale, width * scale
    font = ImageFont.load_default(_FONT_SIZE)
    left = _GAP + (max(int(font.getlength(each)) for each in row_labels or [""]) + 6 if row_labels else 0)
    top = _GAP + (_LABEL_HEIGHT if column_labels else 0)
    size = (left + columns * (width + _GAP), top + rows * (height + _GAP))
    canvas = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(canvas)
    pictures = to_uint8(images.flatten(0, 1)).numpy()
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        tile = Image.fromarray(picture)
        if scale != 1:
            tile = tile.resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(tile, (left + column * (width + _GAP), top + row * (height + _GAP)))
    for row, label in enumerate(row_labels or []):
        place = (_GAP, top + row * (height + _GAP) + height // 2)
        draw.text(place, label, _INK, font, anchor="lm")
    for column, label in enumerate(column_labels or []):
        shown = _fitting(label, font, width)
        place = (left + column * (width + _GAP) + width // 2, _LABEL_HEIGHT // 2 + 1)
        draw.text(place, shown, _INK, font, anchor="mm")
    return canvas


def _squarish(images: Tensor) -> Tensor:
    count = len(images)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    blank = images.new_ones(rows * columns - count, *images.shape[1:])
    return torch.cat([images, blank]).reshape(rows, columns, *images.shape[1:])


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def save_grid(
    images: Tensor,
    path: str | os.PathLike[str],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Path:
    """Writes `grid(...)` to a picture file, its format by the ending; gives back the path.

    Raises:
        UserError: As `grid`, or the ending is no picture's, or the file cannot be written.
    """
    path = Path(path)
    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise UserError(f"{str(path)!r} has no picture's ending; use .png")
    picture = grid(images, row_labels, column_labels, scale)
    with atomic(path) as draft:
        picture.save(draft, format=known[path.suffix.lower()])
    return path
