import pytest
import torch

from invariances.evaluation.looking import Sampling, look
from invariances.evaluation.spread import InFeatures, Map, Spread, in_pixels
from invariances.evaluation.tables import difference
from invariances.representation.representation import Representation


def interpreter(world, blind=(1, 2), deviation=0.4):
    """A layer that sees all colours but the blind ones, whose flow knows just that."""
    keep = [[float(row == column and row not in blind) for column in range(3)] for row in range(3)]
    stds = [deviation if channel in blind else 0.0 for channel in range(3)]
    return world.interpreter(keep, world.Gaussian(keep, stds))


def spread(world, blind, distance=in_pixels):
    pictures = world.Pictures(600)
    found = look(interpreter(world, blind), pictures, [Spread("pixels", distance, 600)], Sampling(4))
    return found["pixels"], found["pixels_interval"]


@pytest.mark.parametrize(("blind", "truth"), [((), 0.0), ((0,), 1 / 3), ((0, 1), 2 / 3), ((0, 1, 2), 1.0)])
def test_the_share_of_variance_is_the_share_of_dropped_channels(world, blind, truth):
    value, (low, high) = spread(world, blind)
    assert value == pytest.approx(truth, abs=0.08)
    assert low <= value <= high


def test_another_network_sees_only_its_own_colour(world):
    red = InFeatures(Representation(world.Colour([[1.0, 0, 0]]), "fc"))
    assert spread(world, (0,), red)[0] == pytest.approx(1, abs=0.2)
    assert spread(world, (1, 2), red)[0] == pytest.approx(0, abs=1e-6)


def test_one_sample_has_no_spread_but_a_reason(world):
    found = look(interpreter(world), world.Pictures(8), [Spread("pixels", in_pixels, 8)], Sampling(1))
    assert found["pixels"] is None
    assert found["pixels_reason"]


def test_the_map_points_at_the_region_that_is_free(world, monkeypatch):
    given = interpreter(world, blind=(1,), deviation=0.4)

    def decode(latents):
        left, right = latents[:, :1], latents[:, 1:2]
        row = torch.cat([left.expand(-1, 4), right.expand(-1, 4)], dim=1)
        return (row / 4)[:, None, None, :].expand(-1, 3, 8, 8)

    monkeypatch.setattr(given.autoencoder, "decode", decode)
    where = Map([3], n=64)
    look(given, world.Pictures(20), [where], Sampling(64, batch_size=7))
    for found in (where.mean(), where.own[3]):
        assert float(found[:, :4].max()) == pytest.approx(0, abs=1e-6)
        assert float(found[:, 4:].mean()) == pytest.approx(0.1, rel=0.2)
    assert set(where.own) == {3}
    assert where.count == 20


def test_two_networks_that_differ_in_one_planted_blind_spot_differ_there_alone(world):
    """One sees red and green, the other red alone: the difference is all of green's variance, and none of red's."""
    pictures, tables = world.Pictures(300), []
    for blind in ((2,), (1, 2)):
        colours = {
            name: InFeatures(Representation(world.Colour([[float(k == channel) for k in range(3)]]), "fc"))
            for channel, name in enumerate(("red", "green", "blue"))
        }
        measures = [Spread(name, distance, 300) for name, distance in colours.items()]
        look(interpreter(world, blind), pictures, measures, Sampling(4))
        tables.append({name: each.tables()[name] for name, each in zip(colours, measures)})
    found = {name: difference(tables[0][name], tables[1][name]) for name in tables[0]}
    assert found["red"]["difference"] == pytest.approx(0, abs=1e-6)
    assert found["blue"]["difference"] == pytest.approx(0, abs=1e-6)
    low, high = found["green"]["difference_interval"]
    assert 0.5 < low < found["green"]["difference"] < high
    assert found["green"]["difference"] == pytest.approx(1, abs=0.25)
