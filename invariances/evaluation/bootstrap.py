"""How sure is a number? 95 % intervals over pictures, by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from invariances.system.seeds import seeded

REPEATS = 2000
LEVEL = 0.95
_AT_ONCE = 1 << 22
"""Weights of resampled pictures that are held in memory."""

Statistic = Callable[[Tensor], Tensor]
"""Means (R, k) of R resampled sets of pictures to the number in question (R,); NaN where a set does not define it."""


def resampled_means(values: Tensor, seed: int = 0, repeats: int = REPEATS) -> Tensor:
    """Means over `repeats` sets of N pictures each, drawn with replacement: values (N, k) to (repeats, k).

    The sets are a function of N and the seed alone, so that numbers of two networks on the same pictures are paired.
    """
    count = len(values)
    rows = values.double().cpu().reshape(count, -1)
    generator = seeded("bootstrap", seed, count)
    parts = []
    step = max(1, _AT_ONCE // count)
    for start in range(0, repeats, step):
        size = min(step, repeats - start)
        chosen = torch.randint(count, (size, count), generator=generator)
        weights = torch.zeros(size, count, dtype=torch.float64)
        weights.scatter_add_(1, chosen, torch.ones(size, count, dtype=torch.float64))
        parts.append(weights @ rows / count)
    return torch.cat(parts)


def interval(
    values: Tensor, statistic: Statistic | None = None, seed: int = 0, repeats: int = REPEATS
) -> list[float] | None:
    """[low, high], which hold the number in 95 of 100 repetitions with other pictures (percentile bootstrap).

    Args:
        values: per picture, (N,) or (N, k).
        statistic: of their means; the mean itself by default.
        seed: of the resampling.
        repeats: resampled sets.

    Returns:
        None for fewer than two pictures, values that are not finite, or a statistic that over 2.5 % of the sets do not
        define.
    """
    if len(values) < 2 or not bool(values.isfinite().all()):
        return None
    means = resampled_means(values, seed, repeats)
    found = means[:, 0] if statistic is None else statistic(means)
    defined = found[found.isfinite()]
    tail = (1 - LEVEL) / 2
    if len(defined) < (1 - tail) * repeats:
        return None
    ends = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return [float(each) for each in ends]


def number(name: str, values: Tensor, statistic: Statistic | None = None, seed: int = 0) -> dict[str, Any]:
    """A number and how sure it is: `{name: value, name_interval: [low, high]}`; arguments as of `interval`.

    An interval is left out where there is none; the value is NaN where there are no pictures.
    """
    means = values.double().reshape(len(values), -1).mean(dim=0, keepdim=True)
    value = float((means[:, 0] if statistic is None else statistic(means))[0]) if len(values) else math.nan
    found = interval(values, statistic, seed)
    return {name: value} | ({} if found is None else {f"{name}_interval": found})


def missing(name: str, reason: str) -> dict[str, Any]:
    """A number that cannot be had, and why: `{name: None, name_reason: reason}`."""
    return {name: None, f"{name}_reason": reason}
