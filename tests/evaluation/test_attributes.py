"""Readers of attributes and the share that samples keep, where the truth is known."""

import math

import pytest
import torch

from invariances.data.attributes import Attribute
from invariances.evaluation.attributes import KeptAttributes, probed
from invariances.evaluation.looking import Sampling, look
from invariances.training.attributes import fit_attribute_reader

COUNT = 1500


def known(latents):
    """Red as a number, whether green is above 0, an angle of the two, and a coin."""
    coin = torch.randint(2, (len(latents),), generator=torch.Generator().manual_seed(5))
    turns = (torch.atan2(latents[:, 1], latents[:, 0]) / (2 * math.pi)).remainder(1.0)
    return {
        "red": Attribute(latents[:, 0].double()),
        "green": Attribute((latents[:, 1] > 0).long(), ("dark", "light")),
        "turn": Attribute(turns.double(), circular=True),
        "coin": Attribute(coin, ("heads", "tails")),
    }


@pytest.fixture(scope="module")
def latents():
    return 0.4 * torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reader(latents):
    return fit_attribute_reader(lambda places: latents[places], (3,), known(latents), progress=False)


def test_a_reader_reads_what_can_be_read_and_nothing_else(reader):
    others = 0.4 * torch.randn(1000, 3, generator=torch.Generator().manual_seed(1))
    found = probed(reader, [(torch.arange(1000), others)], known(others))
    told = {name: table.told(name)[name] for name, table in found.items()}
    assert told["red"] > 0.98
    assert told["green"] > 0.9
    assert told["turn"] > 0.85
    low, high = found["coin"].told("coin")["coin_interval"]
    assert low < 0 < high < 0.1


def test_what_is_not_known_of_a_picture_is_left_out(latents):
    truth = known(latents)
    half = torch.arange(COUNT) % 2 == 0
    red = Attribute(torch.where(half, truth["red"].values, math.nan))
    green = Attribute(torch.where(half, truth["green"].values, -1), ("dark", "light"))
    told = {"red": red, "green": green}
    found = fit_attribute_reader(lambda places: latents[places], (3,), told, progress=False)
    tables = probed(found, [(torch.arange(COUNT), latents)], told)
    assert len(tables["red"].values) == int(half.sum())
    assert tables["red"].told("red")["red"] > 0.95
    assert tables["green"].told("green")["green"] > 0.85


def test_samples_keep_what_the_layer_sees(world, reader):
    """A layer that sees red alone, as it is: green is by chance, red is fixed, and half of a turn is told."""
    keep = [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]
    given = world.interpreter(keep, world.Gaussian(keep, [0.0, 0.4, 0.4]))
    measure = KeptAttributes(reader, 400, 8)
    look(given, world.Pictures(400), [measure], Sampling(8))
    tables = measure.tables()
    assert tables["red"].told("red")["red"] == pytest.approx(1, abs=1e-3)
    low, high = tables["green"].told("green")["green_interval"]
    assert low < 0.03
    assert high > -0.03
    assert abs(tables["green"].told("green")["green"]) < 0.06
    assert 0.2 < tables["turn"].told("turn")["turn"] < 0.7


def test_a_noisy_layer_keeps_the_share_that_regression_would(world, reader):
    """z̄ ~ N(0, 0.16), samples of N(ρ² z̄ + ρ √(1 − ρ²) noise): the pair (z̄, z̄') has correlation ρ²."""
    share = 0.6
    matrix = [[share if row == column else 0.0 for column in range(3)] for row in range(3)]
    # z is z̄ itself here, so that a sample has mean share z̄ and the variance that keeps it at 0.16
    flow = world.Gaussian(matrix, [0.4 * math.sqrt(1 - share**2)] * 3)
    measure = KeptAttributes(reader, 600, 8)
    look(world.interpreter(world.identity, flow), world.Pictures(600), [measure], Sampling(8))
    found = measure.tables()["red"].told("red")
    assert found["red"] == pytest.approx(share, abs=0.05)


def test_readers_repeat_to_the_bit(latents):
    few = latents[:200]
    truth = {"red": known(few)["red"]}
    one, other = (
        fit_attribute_reader(lambda places: few[places], (3,), truth, progress=False)(few[:9])
        for _ in range(2)
    )
    assert torch.equal(one, other)
