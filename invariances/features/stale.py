"""Whether cached rows are what the networks give today."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_TRIED = 4
_ROUNDING = 2e-2
"""Differences up to this share of a row's largest value come of float16, bfloat16, other devices and batches."""

_FLIPS = 0.01
"""The share of values that may differ more: near ties, rounding decides whole numbers."""


def rows_to_try(there: Sequence[int]) -> list[int]:
    """Some of the rows that are there, evenly spaced, first and last among them."""
    return sorted({int(there[round(k * (len(there) - 1) / (_TRIED - 1))]) for k in range(_TRIED)})


def differs(stored: Tensor, now: Tensor) -> bool:
    """Whether rows are others than rounding explains.

    Args:
        stored: rows of a cache.
        now: the same rows as they are computed now.
    """
    if stored.shape != now.shape:
        return True
    if not now.numel():
        return False
    kept, fresh = stored.flatten(1).float(), now.flatten(1).float()
    if not bool(torch.isfinite(fresh).all()):
        return True
    largest = torch.maximum(kept.abs().amax(1), fresh.abs().amax(1))
    apart = (kept - fresh).abs() > _ROUNDING * largest[:, None]
    return bool((apart.float().mean(1) > _FLIPS).any())
