"""Information, ranks, predictions and the most different samples, where the truth is known."""

import math

import pytest
import torch

from invariances.evaluation.classes import Classes, classes_of
from invariances.evaluation.diverse import diverse_samples
from invariances.evaluation.information import information, violations
from invariances.evaluation.likelihood import log_probs
from invariances.evaluation.looking import Sampling, look
from invariances.evaluation.predictions import PredictionKL
from invariances.evaluation.ranking import Ranking, reciprocal_rank
from invariances.evaluation.tables import Table
from invariances.features.stream import Features
from invariances.flow.diverse import most_different
from invariances.system.errors import UserError

NOISE = 0.5


class Pairs:
    """z̄ ~ N(0, 1) in two dimensions; z is the first one with noise."""

    def __init__(self, n, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.n, self.mean = n, torch.randn(n, 2, generator=generator)
        self.z = self.mean[:, :1] + NOISE * torch.randn(n, 1, generator=generator)

    def shape(self, layer):
        return (1,)

    def batch(self, indices, layer):
        return self.mean[indices], torch.full_like(self.mean[indices], -30.0), self.z[indices]


def bits(world, n, seed=0):
    share = 1 / (1 + NOISE**2)
    features = Features(Pairs(n, seed), "z")
    told = world.Gaussian([[share], [0.0]], [math.sqrt(1 - share), 1.0])
    untold = world.Gaussian([[0.0], [0.0]], [1.0, 1.0])
    return information(log_probs(told, features), log_probs(untold, features))


TRUTH = 0.5 * math.log2(1 + 1 / NOISE**2)
"""I(z̄; z) of a Gaussian channel."""


def test_information_is_that_of_a_gaussian_channel(world):
    found = bits(world, 20_000).told("bits")
    assert found["bits"] == pytest.approx(TRUTH, rel=0.05)
    low, high = found["bits_interval"]
    assert low < TRUTH < high


def test_intervals_of_information_hold_the_truth(world):
    held = 0
    for seed in range(100):
        low, high = bits(world, 150, seed).told("bits", seed)["bits_interval"]
        held += low < TRUTH < high
    assert 90 <= held <= 99


def test_a_layer_that_is_independent_holds_nothing(world):
    features = Features(Pairs(500), "z")
    untold = world.Gaussian([[0.0], [0.0]], [1.0, 1.0])
    found = information(log_probs(untold, features), log_probs(untold, features)).told("bits")
    assert found == {"bits": 0.0, "bits_interval": [0.0, 0.0]}


def test_growing_information_is_marked_where_it_is_sure():
    base = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    tables = {"a": Table(base), "b": Table(base - 1), "c": Table(base - 0.5), "d": Table(base - 0.5)}
    found = violations(tables, ["a", "b", "c", "d"])
    assert [(each["layer"], each["above"]) for each in found] == [("c", "b")]
    assert found[0]["difference"] == pytest.approx(0.5)


def test_ranks():
    known = torch.nn.functional.normalize(
        torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.0, 1.0]]), dim=1
    )
    assert reciprocal_rank(known, known).tolist() == pytest.approx([1, 1, 1 / 1.5, 1 / 1.5])
    far = known[[2, 0, 0, 0]]
    assert reciprocal_rank(known, far)[0].item() == pytest.approx(1 / 4)


def test_a_sampler_that_knows_ranks_first_and_one_that_does_not_ranks_by_chance(world):
    count = 200
    truth = {0.0: 1.0, 1.0: sum(1 / k for k in range(1, count + 1)) / count}
    for blind, expected in truth.items():
        matrix = [[(1 - blind) * (row == column) for column in range(3)] for row in range(3)]
        given = world.interpreter(world.identity, world.Gaussian(matrix, [0.4 * blind] * 3))
        found = look(given, world.Pictures(count), [Ranking(count, 4)], Sampling(4))
        assert found["source_rank"] == pytest.approx(expected, abs=0.02)
        assert found["source_rank_reconstructions"] == 1


def test_long_representations_rank_nearly_the_same(world, monkeypatch):
    monkeypatch.setattr("invariances.evaluation.ranking.EXACT", 512)
    z = torch.randn(50, 2000, generator=torch.Generator().manual_seed(0))
    ranking = Ranking(50, 1)
    known, asked = ranking._direction(z), ranking._direction(z + 0.5 * torch.randn_like(z))
    assert known.shape == (50, 256)
    assert reciprocal_rank(known, asked).mean() > 0.98


def test_predictions_of_two_bernoullis(world):
    """One logit: the picture's is its red; samples know nothing and are always black, of logit 0."""
    red = world.interpreter([[1.0, 0, 0]], world.Gaussian([[0.0]] * 3, [0.0] * 3))
    pictures = world.Pictures(50)
    found = look(red, pictures, [PredictionKL(50, 2, classes_of(red.representation))], Sampling(2))
    p = pictures.colours[:, 0].double().sigmoid()
    expected = (p * (2 * p).log() + (1 - p) * (2 * (1 - p)).log()).mean()
    assert found["prediction_kl"] == pytest.approx(float(expected), abs=1e-6)
    assert found["prediction_kl_reconstructions"] == pytest.approx(0, abs=1e-6)
    assert found["prediction_kl_others"] > found["prediction_kl"]


def test_no_classes_no_predictions(world):
    given = world.interpreter(world.identity, world.Gaussian(world.identity, [0.1] * 3))
    measure = PredictionKL(5, 2, Classes(None, "no classes"))
    assert measure.tables() == {}
    assert look(given, world.Pictures(5), [measure], Sampling(2))["prediction_kl_reason"] == "no classes"


def test_the_most_different_are_the_ends():
    points = torch.tensor([[0.0], [1.0], [1.1], [5.0], [9.0]])
    assert set(most_different(torch.cdist(points, points), 3)) == {0, 3, 4}
    assert len(set(most_different(torch.zeros(4, 4), 4))) == 4
    with pytest.raises(UserError, match="2 of 1"):
        most_different(torch.zeros(1, 1), 2)


@pytest.mark.parametrize("distance", [None, lambda a, b: (a - b).flatten(1).norm(dim=1)])
def test_diverse_samples_are_further_apart_than_others(world, distance):
    given = world.interpreter(world.identity, world.Gaussian(world.identity, [0.3] * 3))
    images = torch.zeros(2, 3, 8, 8)

    def drawn(seed=0):
        generator = torch.Generator().manual_seed(seed)
        if distance is None:
            return given.sample(images, 4, generator=generator, diverse=True)
        return diverse_samples(given, images, distance, 4, generator)

    found = drawn()
    assert found.shape == (2, 4, 3, 8, 8)
    assert torch.equal(found, drawn())
    usual = given.sample(images, 4, generator=torch.Generator().manual_seed(0))

    def apart(pictures):
        return float(torch.pdist(pictures[0].flatten(1)).min())

    assert apart(found) > 1.5 * apart(usual)


def test_one_diverse_sample_is_one_sample(world):
    given = world.interpreter(world.identity, world.Gaussian(world.identity, [0.3] * 3))
    assert given.sample(torch.zeros(1, 3, 8, 8), 1, diverse=True).shape == (1, 1, 3, 8, 8)
    with pytest.raises(UserError, match="n ≥ 1"):
        given.sample(torch.zeros(1, 3, 8, 8), 0, diverse=True)
