"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from invariances.training.config import Schedule


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
