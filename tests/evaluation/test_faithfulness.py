import math

import pytest
import torch

from invariances.evaluation.classes import Classes, classes_of
from invariances.evaluation.faithfulness import Faithfulness, cosine, relative_l2
from invariances.evaluation.looking import Sampling, look
from invariances.evaluation.tables import STATISTICS


def faithfulness(interpreter, pictures, n=2, classes=None, **sampling):
    known = classes or classes_of(interpreter.representation)
    return look(interpreter, pictures, [Faithfulness(len(pictures), n, known)], Sampling(n, **sampling))


def test_a_sampler_that_knows_the_picture_is_as_good_as_the_reconstruction(world):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0, 0.0, 0.0]))
    found = faithfulness(interpreter, world.Pictures())
    assert found["faithfulness_cosine"] == pytest.approx(1)
    assert found["faithfulness_relative_l2"] == pytest.approx(1)
    assert found["faithfulness_cosine_interval"] == pytest.approx([1, 1])
    assert found["top1_agreement"] == 1
    assert found["top1_agreement_of"] == "classes"
    assert found["autoencoder_mae"] == pytest.approx(0, abs=1e-6)


def test_a_sampler_that_knows_nothing_is_as_good_as_a_random_picture(world):
    nothing = world.Gaussian([[0.0] * 3] * 3, [0.4, 0.4, 0.4])
    interpreter = world.interpreter(world.identity, nothing)
    found = faithfulness(interpreter, world.Pictures(1500), n=4, batch_size=256)
    assert found["faithfulness_cosine"] == pytest.approx(0, abs=0.06)
    low, high = found["faithfulness_cosine_interval"]
    assert low < found["faithfulness_cosine"] < high
    assert high - low < 0.15
    assert found["faithfulness_relative_l2"] == pytest.approx(0, abs=0.1)
    assert found["top1_agreement"] == pytest.approx(1 / 3, abs=0.03)
    assert found["top1_agreement_others"] == pytest.approx(1 / 3, abs=0.05)


def test_what_the_layer_ignores_costs_nothing(world):
    red = [[1.0, 0, 0]]
    flow = world.Gaussian([[1.0], [0.0], [0.0]], [0.0, 0.4, 0.4])
    found = faithfulness(world.interpreter(red, flow), world.Pictures(), n=4)
    assert found["faithfulness_relative_l2"] == pytest.approx(1, abs=1e-5)


def test_one_logit_agrees_by_its_sign(world):
    red = [[1.0, 0, 0]]
    half = world.Gaussian([[0.0], [0.0], [0.0]], [0.4, 0.4, 0.4])
    found = faithfulness(world.interpreter(red, half), world.Pictures(800), n=4)
    assert found["top1_agreement_of"] == "sign"
    assert found["top1_agreement"] == pytest.approx(0.5, abs=0.05)
    assert found["top1_agreement_reconstructions"] == 1


def test_what_has_no_classes_has_no_agreement(world):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.1] * 3))
    found = faithfulness(interpreter, world.Pictures(8), classes=Classes(None, "it has no classes"))
    for name in ("top1_agreement", "top1_agreement_reconstructions", "top1_agreement_others"):
        assert found[name] is None
        assert found[f"{name}_reason"] == "it has no classes"
        assert f"{name}_interval" not in found


def test_a_constant_layer_has_no_scale(world):
    flow = world.Gaussian([[0.0] * 3] * 3, [0.4, 0.4, 0.4])
    found = faithfulness(world.interpreter([[0.0] * 3] * 3, flow), world.Pictures())
    for measure in ("cosine", "relative_l2"):
        assert found[f"faithfulness_{measure}"] is None
        assert "no worse than the reconstructions" in found[f"faithfulness_{measure}_reason"]


def test_a_scale_that_has_lost_its_order_is_none(world):
    """Reconstructions that are all white are further from dark pictures than other dark pictures are."""
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0] * 3), shift=3.0)
    found = faithfulness(interpreter, world.Pictures(scale=0.05))
    assert found["relative_l2"]["others"] < found["relative_l2"]["reconstructions"]
    assert found["faithfulness_relative_l2"] is None
    assert "there is no scale" in found["faithfulness_relative_l2_reason"]
    assert "faithfulness_relative_l2_interval" not in found


@pytest.mark.parametrize("copies", [1, 6])
def test_copies_of_one_picture_have_no_random_other(world, copies):
    pictures = world.Pictures(1)
    pictures.colours = pictures.colours.expand(copies, 3)
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.1] * 3))
    found = faithfulness(interpreter, pictures)
    assert found["faithfulness_cosine"] is None
    assert "no random other" in found["faithfulness_cosine_reason"]
    assert found["cosine"]["others"] is None
    assert found["top1_agreement_others"] is None
    assert found["cosine"]["reconstructions"] == pytest.approx(1)


def test_reconstruction_error_is_the_mean_absolute_one(world):
    flow = world.Gaussian(world.identity, [0.0, 0.0, 0.0])
    found = faithfulness(world.interpreter(world.identity, flow, shift=0.25), world.Pictures(), n=1)
    assert found["autoencoder_mae"] == pytest.approx(0.25 / 4, abs=1e-6)


def test_scaled():
    def one(value, reconstruction, random, better):
        return float(STATISTICS[f"scaled_{better}"](torch.tensor([[value, reconstruction, random]]))[0])

    assert one(0.5, 1.0, 0.0, "higher") == 0.5
    assert one(0.2, 0.2, 0.6, "lower") == pytest.approx(1)
    assert math.isnan(one(0.3, 0.5, 0.5, "higher"))
    assert math.isnan(one(0.9, 0.5, 0.8, "higher"))
    assert math.isnan(one(0.1, 0.8, 0.5, "lower"))


def test_distances_of_known_vectors():
    z, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[-4.0, 3.0]])
    assert cosine(z, other).item() == pytest.approx(0)
    assert relative_l2(z, other).item() == pytest.approx(2**0.5)
    assert relative_l2(z, z).item() == 0
