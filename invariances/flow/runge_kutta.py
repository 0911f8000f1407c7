"""The solver of ordinary differential equations: Runge-Kutta of fourth order in steps of one length."""

from __future__ import annotations

from collections.abc import Callable

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
