import pytest
import torch
from torch import nn

from invariances.representation.representation import Representation, Representations
from invariances.system.errors import UserError
from invariances.training.auxiliary import ChannelStatistics, auxiliary_targets, shallower


@pytest.fixture
def vector():
    """The last layer of a small network, a vector; its layers 0 and 1 give maps."""
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 2)
    return Representation(nn.Sequential(*layers), "4", size=32)


def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_channel_statistics_are_mean_and_deviation_over_the_places_of_each_channel(vector):
    maps = vector.at("1")
    found = ChannelStatistics(maps, "1")(images())
    places = maps(images()).flatten(2)
    assert found.shape == (5, 10)
    assert torch.allclose(found, torch.cat([places.mean(2), places.std(2, correction=0)], 1), atol=1e-6)


def test_channel_statistics_run_beside_their_layer_in_one_pass_and_are_told_from_it(vector):
    statistics = ChannelStatistics(vector, "0")
    both = Representations([vector, vector.at("0"), statistics])(images())
    assert both.keys() == {"4", "0", "0 statistics"}
    assert torch.equal(both["0 statistics"], statistics(images()))
    assert torch.equal(both["4"], vector(images()))
    assert statistics.fingerprint() != vector.at("0").fingerprint()
    assert statistics.fingerprint() == ChannelStatistics(vector.at("1"), "0").fingerprint()


@pytest.mark.parametrize(
    ("layers", "embedder", "expected"),
    [
        (["0"], "published", "residual embedders"),
        (["0", "0"], "residual", "different"),
        (["4"], "residual", "'4' gives no maps"),
        (["2"], "residual", "'2' gives no maps"),
        (["nine"], "residual", "'nine'"),
    ],
)
def test_auxiliary_layers_that_cannot_be_get_a_sentence(vector, layers, embedder, expected):
    with pytest.raises(UserError, match=expected):
        auxiliary_targets(vector, layers, embedder)


def test_no_auxiliary_layers_suit_any_embedder(vector):
    assert auxiliary_targets(vector, [], "published") == []


SHAPES = {
    "input": (3, 64, 64),
    "stage1": (16, 32, 32),
    "stage1.0": (16, 32, 32),
    "stage2": (32, 16, 16),
    "stage3": (64, 8, 8),
    "pool": (64,),
    "logits": (8,),
}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("input", ()),
        ("stage1", ()),
        ("stage1.0", ("stage1",)),
        ("stage2", ("stage1",)),
        ("pool", ("stage1", "stage2")),  # with stage3 they would be more than 128 values
        ("logits", ("stage1", "stage2")),
    ],
)
def test_the_first_stages_before_a_layer_are_its_shallower_ones(layer, expected):
    assert shallower(SHAPES, layer) == expected


def test_a_first_stage_may_be_wide_alone():
    assert shallower({"layer1": (256, 56, 56), "layer2": (512, 28, 28), "fc": (1000,)}, "fc") == ("layer1",)
