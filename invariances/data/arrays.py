"""8-bit pictures and images in [-1, 1]: one formula there, one back, and the squares that are cut out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invariances.system.errors import UserError

RANDOM_SIDE = (0.8, 1.0)
"""A random crop's side, as a share of the picture's shortest side."""

TOLERANCE = 1e-3
"""How far beyond [-1, 1] rounding may carry an image's values."""

Array = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]


def center_box(width: int, height: int) -> Box:
    """The largest square in the middle: left, upper, right, lower in pixels."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def random_box(width: int, height: int, random: np.random.Generator) -> Box:
    """A square of `RANDOM_SIDE` of the shortest side, anywhere."""
    side = max(1, round(min(width, height) * random.uniform(*RANDOM_SIDE)))
    left, upper = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
    return left, upper, left + side, upper + side


def to_array(picture: Image.Image, size: int, box: Box | None = None) -> Array:
    """Uint8 (size, size, 3): the box, by default the middle square, resized (bicubic, antialiased)."""
    if box is None:
        box = center_box(*picture.size)
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def from_uint8(pictures: Tensor) -> Tensor:
    """Images x / 127.5 - 1: 8-bit pictures (N, H, W, 3) as float32 (N, 3, H, W) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Pictures round(127.5 (x + 1)), clamped to 0 … 255: (N, 3, H, W) as uint8 (N, H, W, 3) on the CPU."""
    levels = images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def to_tensor(picture: Image.Image, size: int, box: Box | None = None) -> Tensor:
    """One picture as an image (3, size, size) in [-1, 1]: `box` (by default the middle square), resized."""
    return from_uint8(torch.from_numpy(to_array(picture, size, box))[None])[0]


def check_values(images: Tensor, what: str) -> None:
    """Refuses images with values outside of [-1, 1], or that are no numbers.

    Args:
        images: floats of any shape.
        what: whose image, at the beginning of the sentence.

    Raises:
        UserError: says which values were seen, and where they may come from.
    """
    if not images.numel():
        return
    low, high = (float(value) for value in torch.aminmax(images))
    if low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(
            f"{what} has values that are no finite numbers (NaN or infinite); give images in [-1, 1]"
        )
    if low >= 0 and high > 16:
        advice = "these look like 0 to 255: divide by 127.5 and subtract 1"
    elif high <= 1.5 and low >= -1.5:
        advice = "these go a little beyond: clamp them"
    else:
        advice = "these look normalised with a mean and a deviation: leave that step out, the network's own follows"
    raise UserError(f"{what} has values from {low:.4g} to {high:.4g}, and needs [-1, 1]; {advice}")
