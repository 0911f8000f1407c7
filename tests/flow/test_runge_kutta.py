import math

import pytest
import torch

from invariances.flow.layers import LIMIT
from invariances.flow.runge_kutta import multistep, runge_kutta


def test_known_solutions_are_met_to_the_fourth_order_there_and_back():
    """dx/ds = x (1 + 2 s) has x(s) = x(0) exp(s + s²); beside it 3 s² is integrated."""
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)

    def slope(x, time, step):
        return x * (1 + 2 * time), x.new_full((1,), 3 * time**2)

    errors = []
    for steps in (8, 16):
        found, integral = runge_kutta(slope, x, 0.0, 1.0, steps)
        errors.append(float((found / x - math.exp(2)).abs().max()))
        assert float(integral) == pytest.approx(1)
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.25)
    back, integral = runge_kutta(lambda x, time, step: slope(x, time, 0), found, 1.0, 0.0, 16)
    assert torch.allclose(back, x, rtol=1e-4)
    assert float(integral) == pytest.approx(-1)


def test_the_step_is_told_and_values_are_held_within_the_limit():
    seen = []

    def slope(x, time, step):
        seen.append(step)
        return torch.full_like(x, 1e20), x.new_zeros(len(x))

    found, _ = runge_kutta(slope, torch.zeros(2, 3), 0.0, 1.0, 3)
    assert seen == [0] * 4 + [1] * 4 + [2] * 4
    assert found.eq(LIMIT).all()


@pytest.mark.parametrize("bend", [1, 0.6])
def test_one_question_a_step_meets_known_solutions_there_and_back(bend):
    """dx/ds = 2 (s + 1) x − x has x(s) = x(0) exp(s + s²)."""
    x, asked = torch.tensor([[1.0, -2.0]], dtype=torch.float64), []

    def aim(x, time):
        asked.append(time)
        return 2 * (1 + time) * x

    errors = []
    for steps in (16, 32):
        times = [1 - (1 - k / steps) ** bend for k in range(steps + 1)]
        found = multistep(aim, x, times)
        errors.append(float((found / x - math.exp(2)).abs().max()))
    assert asked[-32:] == times[:-1]
    assert errors[1] < 0.2
    assert errors[0] / errors[1] > 2.5
    assert torch.allclose(multistep(aim, found, times[::-1]), x, rtol=0.02)


def test_a_constant_aim_is_met_exactly_and_a_wild_one_held_within_the_limit():
    found = multistep(lambda x, s: torch.full_like(x, 3.0), torch.ones(2, 3), [0, 0.1, 1.5, 2])
    assert torch.allclose(found, torch.full_like(found, 3 - 2 * math.exp(-2)))
    assert multistep(lambda x, s: torch.full_like(x, 1e20), torch.ones(2, 3), [0, 0.1, 1.5]).eq(LIMIT).all()
