import pytest
import torch

from invariances.evaluation.bootstrap import interval, missing, number


def drawn(n, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def test_the_interval_of_a_mean_is_two_standard_errors():
    low, high = interval(drawn(400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_ninety_five_of_hundred_intervals_hold_the_truth():
    held = 0
    for seed in range(100):
        low, high = interval(3 + drawn(60, seed), seed=seed, repeats=500)
        held += low < 3 < high
    assert 90 <= held <= 99


def test_a_difference_of_paired_numbers_is_far_surer_than_the_numbers():
    a = drawn(200)
    b = a + 0.1 + 0.01 * drawn(200, 1)
    pair = torch.stack([a, b], dim=1)
    low, high = interval(pair, lambda means: means[:, 1] - means[:, 0])
    assert 0.09 < low < 0.1 < high < 0.11
    assert interval(a)[1] - interval(a)[0] > 0.2


def test_it_repeats_to_the_bit_and_follows_the_seed():
    values = drawn(50)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_a_ratio_that_many_sets_do_not_define_has_no_interval():
    values = drawn(50)
    positive = interval(values, lambda means: torch.where(means[:, 0] > 0, means[:, 0], torch.nan))
    assert positive is None
    assert interval(values[:1]) is None
    assert interval(torch.tensor([1.0, float("nan")])) is None


def test_memory_holds_no_more_than_some_sets():
    low, high = interval(drawn(20_000), repeats=400)
    assert low < high


def test_numbers_tell_value_and_interval():
    found = number("x", torch.tensor([1.0, 3.0]))
    assert found["x"] == 2
    assert found["x_interval"] == pytest.approx([1, 3])
    assert number("x", torch.tensor([1.0])) == {"x": 1.0}
    assert missing("x", "because") == {"x": None, "x_reason": "because"}
