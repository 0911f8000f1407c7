"""Pictures as the published system resizes them: the shortest side to `size`, bilinear and without antialiasing.

The arithmetic is OpenCV's for 8-bit pictures: weights of 11 bits in each direction, the sum shifted back in three
steps. Only the pixels that the crop keeps are computed.
"""

from __future__ import annotations

import numpy as np

from invariances.data.arrays import Array

_ONE = 1 << 11


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the shortest side is `size`."""
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def _taps(length: int, target: int, first: int, count: int) -> tuple[Array, Array, Array]:
    """Left neighbours, right neighbours and weights (count, 2) of the target's pixels from `first` on."""
    scale = length / target
    place = (np.arange(first, first + count) + 0.5) * scale - 0.5
    place = place.astype(np.float32)
    left = np.floor(place).astype(np.int64)
    share = place - left
    share[(left < 0) | (left >= length - 1)] = 0
    left = left.clip(0, length - 1)
    weights = np.stack([np.rint((1 - share) * _ONE), np.rint(share * _ONE)], 1).astype(np.int64)
    return left, np.minimum(left + 1, length - 1), weights


def square(picture: Array, size: int, along: float = 0.5) -> Array:
    """The square of side `size` out of a resized picture, uint8 (size, size, 3).

    Args:
        picture: Uint8 (H, W, 3).
        size: Its shortest side after resizing, and the square's.
        along: Where along the longer side, from 0 to 1; 0.5 is the middle.
    """
    height, width = picture.shape[:2]
    high, wide = resized_shape(height, width, size)
    top, left = (int((side - size) * along) for side in (high, wide))
    if (high, wide) == (height, width):
        return np.ascontiguousarray(picture[top : top + size, left : left + size])
    upper, lower, vertical = _taps(height, high, top, size)
    west, east, horizontal = _taps(width, wide, left, size)
    rows = np.concatenate([upper, lower])
    near = picture[rows[:, None], west[None]].astype(np.int32)
    far = picture[rows[:, None], east[None]].astype(np.int32)
    weights = horizontal.astype(np.int32)
    across = near * weights[None, :, :1] + far * weights[None, :, 1:]
    above, below = across[:size] >> 4, across[size:] >> 4
    down = vertical.astype(np.int32)
    total = (above * down[:, :1, None] >> 16) + (below * down[:, 1:, None] >> 16) + 2 >> 2
    kept: Array = total.clip(0, 255).astype(np.uint8)
    return kept
