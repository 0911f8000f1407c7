"""Solvers of ordinary differential equations: Runge-Kutta, and one that asks once a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from invariances.flow.layers import LIMIT

Slope = Callable[[Tensor, float, int], tuple[Tensor, Tensor]]
"""(dx/ds (N, D), and what is integrated beside it (N,)) at x (N, D), at time s, in the step of this number."""


def runge_kutta(slope: Slope, x: Tensor, start: float, stop: float, steps: int) -> tuple[Tensor, Tensor]:
    """The x (N, D) at time `stop` of what it is at `start`, and the integral (N,) of the slope's second part.

    |x| is held below `LIMIT` after each step, so that even a slope far from all that was learned ends finite.
    """
    length, integral = (stop - start) / steps, x.new_zeros(len(x))
    for step in range(steps):
        time = start + step * length
        a, part_a = slope(x, time, step)
        b, part_b = slope(x + length / 2 * a, time + length / 2, step)
        c, part_c = slope(x + length / 2 * b, time + length / 2, step)
        d, part_d = slope(x + length * c, time + length, step)
        x = (x + length / 6 * (a + 2 * b + 2 * c + d)).clamp(-LIMIT, LIMIT)
        integral = integral + length / 6 * (part_a + 2 * part_b + 2 * part_c + part_d)
    return x, integral


def multistep(aim: Callable[[Tensor, float], Tensor], x: Tensor, times: Sequence[float]) -> Tensor:
    """The x (N, ...) at the last of `times` of what it is at the first, where dx/ds = aim(x, s) − x.

    The −x is integrated exactly, the aim by the line through its last two values; once the aim is known at a step's
    end, the step is mended by the parabola through three. The aim is asked once a step; |x| is held below `LIMIT`.
    Source: Zhao et al. 2023, "UniPC: a unified predictor-corrector framework", for the mending.
    """
    aims = [aim(x, times[0]).to(x.dtype)]
    for number, (start, stop) in enumerate(pairwise(times)):
        nodes = times[max(0, number - 1) : number + 1]
        guess = _stepped(x, aims, nodes, start, stop)
        if number + 2 == len(times):
            return guess
        aims = [*aims, aim(guess, stop).to(x.dtype)]
        x = _stepped(x, aims, [*nodes, stop], start, stop)
        aims = aims[-2:]
    return x


def _stepped(x: Tensor, aims: Sequence[Tensor], nodes: Sequence[float], start: float, stop: float) -> Tensor:
    """X(stop) where the aim is the polynomial in s that takes these values at these nodes."""
    length = stop - start
    moments = [1 - math.exp(-length)]  # ∫ (s − start)ᵏ exp(s − stop) ds
    for power in range(1, len(nodes)):
        moments.append(length**power - power * moments[-1])
    powers = np.vander([node - start for node in nodes], increasing=True)
    x = math.exp(-length) * x
    for weight, each in zip(np.linalg.solve(powers.T, np.array(moments)), aims):
        x = x + float(weight) * each
    return x.clamp(-LIMIT, LIMIT)
