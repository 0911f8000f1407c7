import pytest
import torch

from invariances.evaluation.faithfulness import cosine, derangement, faithfulness, relative_l2, scaled


def test_a_sampler_that_knows_the_picture_is_as_good_as_the_reconstruction(world):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0, 0.0, 0.0]))
    found = faithfulness(interpreter, world.Pictures(), n=2)
    assert found["faithfulness_cosine"] == pytest.approx(1)
    assert found["faithfulness_relative_l2"] == pytest.approx(1)
    assert found["top1_agreement"] == 1
    assert found["autoencoder_mae"] == pytest.approx(0, abs=1e-6)


def test_a_sampler_that_knows_nothing_is_as_good_as_a_random_picture(world):
    nothing = world.Gaussian([[0.0] * 3] * 3, [0.4, 0.4, 0.4])
    found = faithfulness(
        world.interpreter(world.identity, nothing), world.Pictures(1500), n=4, batch_size=256
    )
    assert found["faithfulness_cosine"] == pytest.approx(0, abs=0.06)
    assert found["faithfulness_relative_l2"] == pytest.approx(0, abs=0.1)
    assert found["top1_agreement"] == pytest.approx(1 / 3, abs=0.03)
    assert found["top1_agreement_others"] == pytest.approx(1 / 3, abs=0.05)


def test_what_the_layer_ignores_costs_nothing(world):
    red = [[1.0, 0, 0]]
    flow = world.Gaussian([[1.0], [0.0], [0.0]], [0.0, 0.4, 0.4])
    found = faithfulness(world.interpreter(red, flow), world.Pictures(), n=4)
    assert found["faithfulness_relative_l2"] == pytest.approx(1, abs=1e-5)


def test_a_constant_layer_has_no_scale(world):
    network = [[0.0] * 3] * 3
    flow = world.Gaussian([[0.0] * 3] * 3, [0.4, 0.4, 0.4])
    found = faithfulness(world.interpreter(network, flow), world.Pictures(), n=2)
    assert found["faithfulness_cosine"] is None
    assert found["faithfulness_relative_l2"] is None


def test_reconstruction_error_is_the_mean_absolute_one(world):
    flow = world.Gaussian(world.identity, [0.0, 0.0, 0.0])
    found = faithfulness(world.interpreter(world.identity, flow, shift=0.25), world.Pictures(), n=1)
    assert found["autoencoder_mae"] == pytest.approx(0.25, abs=1e-6)


def test_numbers_do_not_depend_on_the_batch_size(world):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.1, 0.2, 0.3]))
    one, many = (faithfulness(interpreter, world.Pictures(20), n=3, batch_size=size) for size in (1, 20))
    assert one["faithfulness_cosine"] == pytest.approx(many["faithfulness_cosine"], abs=1e-6)
    assert one["relative_l2"] == pytest.approx(many["relative_l2"], abs=1e-6)
    assert one["top1_agreement"] == pytest.approx(many["top1_agreement"])


def test_scaled():
    assert scaled(0.5, 0.0, 1.0) == 0.5
    assert scaled(0.2, 0.6, 0.2) == pytest.approx(1)
    assert scaled(0.3, 0.5, 0.5) is None


def test_others_are_others():
    for count in (2, 3, 50):
        others = derangement(count, 0)
        assert not (others == torch.arange(count)).any()
        assert torch.equal(others.sort().values, torch.arange(count))


def test_distances_of_known_vectors():
    z, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[-4.0, 3.0]])
    assert cosine(z, other).item() == pytest.approx(0)
    assert relative_l2(z, other).item() == pytest.approx(2**0.5)
    assert relative_l2(z, z).item() == 0
