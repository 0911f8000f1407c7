"""What depends on the step alone: the learning rate, and when to look."""

from __future__ import annotations

import math
from collections.abc import Callable

from invariances.training.config import Schedule

_LAST_POWER = 512


def rate_factor(schedule: Schedule, warmup: float, steps: float) -> Callable[[int], float]:
    """The learning rate's factor at each step: min(1, (step + 1) / warmup), times ½(1 + cos) for "cosine".

    Args:
        schedule: "constant" or "cosine".
        warmup: Steps of the rise; 0 for none.
        steps: Of the whole schedule.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if schedule == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return factor


def due(step: int, every: int) -> bool:
    """Whether to look at a step: 0, 2, 4, 8, … 512 as far as they lie below `every`, then its multiples."""
    if step % every == 0:
        return True
    return 2 <= step <= _LAST_POWER and step < every and step & (step - 1) == 0
