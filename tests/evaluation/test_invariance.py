import math

import pytest
import torch

from invariances.evaluation.invariance import variance
from invariances.evaluation.likelihood import bits_per_dim
from invariances.features.stream import Features

NOISE = 0.5
POSTERIOR_VARIANCE = NOISE**2 / (1 + NOISE**2)


class LinearGaussian:
    """z̄ ~ N(0, I) in 4 dimensions, as a posterior of half the variance around half of it; z is 2 of them, noisy."""

    def __init__(self, n=20_000, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.n = n
        self.mean = torch.randn(n, 4, generator=generator)
        self.z = self.mean[:, :2] + NOISE * torch.randn(n, 2, generator=generator)

    def shape(self, layer):
        return (2,)

    def batch(self, indices, layer):
        mean = self.mean[indices]
        return mean, torch.full_like(mean, -30.0), self.z[indices]


SHRINK = 1 / (1 + NOISE**2)
MATRIX = [[SHRINK, 0.0], [0.0, SHRINK], [0.0, 0.0], [0.0, 0.0]]
STD = [POSTERIOR_VARIANCE**0.5] * 2 + [1.0, 1.0]


@pytest.fixture(scope="module")
def features():
    return Features(LinearGaussian(), "z")


def test_the_true_posterior_has_the_closed_forms(world, features):
    flow = world.Gaussian(MATRIX, STD)
    found = variance(flow, features, n=8)
    expected = (2 * POSTERIOR_VARIANCE + 2) / 4
    assert found["variance_remaining"] == pytest.approx(expected, rel=0.02)
    assert found["variance_unpredicted"] == pytest.approx(expected, rel=0.02)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + 0.25 * math.log(POSTERIOR_VARIANCE)
    assert bits_per_dim(flow, features) == pytest.approx(entropy / math.log(2), rel=0.02)


def test_memory_does_not_grow_with_the_number_of_samples(world):
    flow, sizes = world.Gaussian(MATRIX, STD), []
    real = flow.inverse
    flow.inverse = lambda noise, **told: sizes.append(len(noise)) or real(noise, **told)
    few, many = (variance(flow, Features(LinearGaussian(100), "z"), n=n) for n in (2, 512))
    assert max(sizes) <= 1024
    assert few["variance_remaining"] == pytest.approx(many["variance_remaining"], rel=0.2)


def test_intervals_hold_the_closed_form_in_95_of_100_repetitions(world):
    flow, truth = world.Gaussian(MATRIX, STD), (2 * POSTERIOR_VARIANCE + 2) / 4
    held = {"variance_remaining": 0, "variance_unpredicted": 0}
    for seed in range(100):
        found = variance(flow, Features(LinearGaussian(120, 1000 + seed), "z"), n=4, seed=seed)
        for name in held:
            low, high = found[f"{name}_interval"]
            held[name] += low < truth < high
    assert all(90 <= count <= 99 for count in held.values()), held


def test_an_overconfident_flow_shows(world, features):
    flow = world.Gaussian(MATRIX, [each / 2 for each in STD])
    found = variance(flow, features, n=8)
    truth = (2 * POSTERIOR_VARIANCE + 2) / 4
    assert found["variance_remaining"] == pytest.approx(truth / 4, rel=0.02)
    assert found["variance_unpredicted"] > 0.85 * truth
    assert bits_per_dim(flow, features) > bits_per_dim(world.Gaussian(MATRIX, STD), features) + 0.5


def test_a_layer_that_keeps_everything_leaves_nothing(world):
    class Everything(LinearGaussian):
        def batch(self, indices, layer):
            mean, logvar, _ = super().batch(indices, layer)
            return mean, logvar, mean

    identity = torch.eye(4).tolist()
    found = variance(world.Gaussian(identity, [1e-3] * 4), Features(Everything(500), "z"))
    assert found["variance_remaining"] < 1e-4
    assert found["variance_unpredicted"] < 1e-4


def test_a_layer_that_keeps_nothing_leaves_everything(world, features):
    flow = world.Gaussian([[0.0, 0.0]] * 4, [1.0] * 4)
    found = variance(flow, features)
    assert found["variance_remaining"] == pytest.approx(1, rel=0.02)
    assert found["variance_unpredicted"] == pytest.approx(1, rel=0.02)


def test_the_posteriors_own_noise_counts(world):
    class Noisy(LinearGaussian):
        def batch(self, indices, layer):
            mean, _, z = super().batch(indices, layer)
            return mean, torch.zeros_like(mean), z

    flow = world.Gaussian([[0.0, 0.0]] * 4, [1.0] * 4)
    found = variance(flow, Features(Noisy(), "z"))
    assert found["variance_remaining"] == pytest.approx(0.5, rel=0.02)
    assert found["variance_unpredicted"] == pytest.approx(1, rel=0.02)


def test_a_single_picture_has_no_variance(world):
    found = variance(world.Gaussian(MATRIX, STD), Features(LinearGaussian(1), "z"))
    assert found["variance_remaining"] is None
    assert found["variance_remaining_reason"] == "one picture has no variance"
