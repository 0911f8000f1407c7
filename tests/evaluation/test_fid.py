import pytest
import torch
from torch import nn

from invariances.evaluation.fid import Distance, FeatureSpace, Vectors, feature_space, fid
from invariances.representation.representation import Representation
from invariances.system.errors import UserError


def colours(n, seed, shift=0.0, scale=0.15):
    generator = torch.Generator().manual_seed(seed)
    found = (
        torch.randn(n, 3, 1, 1, generator=generator) * scale + torch.tensor([shift, 0.0, 0.0])[:, None, None]
    )
    return found.clamp(-1, 1).expand(-1, -1, 8, 8)


@pytest.fixture
def space(world):
    return FeatureSpace("colour", Vectors(Representation(world.Colour(world.identity), "fc")))


def test_the_same_pictures_are_at_distance_zero(space):
    pictures = colours(200, 0)
    assert fid(space, [pictures], [pictures]) == pytest.approx(0, abs=1e-4)


def test_a_shifted_mean_is_its_squared_length(space):
    real, shifted = colours(4000, 0), colours(4000, 1, shift=0.3)
    assert fid(space, [real], [shifted]) == pytest.approx(0.09, rel=0.05)


def test_a_wider_spread_is_the_squared_difference_of_deviations(space):
    real, wide = colours(6000, 0, scale=0.1), colours(6000, 1, scale=0.2)
    assert fid(space, [real], [wide]) == pytest.approx(3 * 0.1**2, rel=0.05)


def test_batches_do_not_matter(space):
    real, other = colours(100, 0), colours(100, 1, shift=0.2)
    whole = fid(space, [real], [other])
    assert fid(space, real.split(7), other.split(1)) == pytest.approx(whole, rel=1e-5)


def test_the_extractor_stays_in_eval_mode_and_out_of_its_owner():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    network.preprocessing = {"size": 8}
    vectors = Vectors(Representation(network, "2"))
    distance = Distance(FeatureSpace("maps", vectors))
    distance.metric.train()
    pictures = colours(16, 0)
    distance.add(pictures, True)
    distance.add(pictures[:8], False)
    distance.add(pictures[8:], False)
    assert distance.value() == pytest.approx(0, abs=1e-4)
    assert vectors.num_features == 4
    assert not any(each.training for each in vectors.representation.network.modules())


def test_fewer_than_two_pictures_have_no_distance(space):
    assert fid(space, [colours(1, 0)], [colours(5, 0)]) is None


def test_without_inception_the_network_itself_is_named(monkeypatch, world, tmp_path, capsys):
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    subject = Representation(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "0"
    )
    found = feature_space("auto", subject)
    assert found.name.endswith(":2")
    assert "no Inception" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be had"):
        feature_space("inception", subject)
    with pytest.raises(UserError, match="names no feature space"):
        feature_space("somewhere", subject)
