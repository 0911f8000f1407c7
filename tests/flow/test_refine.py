"""Refined samples agree better with the layer; none asked for, nothing changes."""

import pytest
import torch
from torch import nn

from invariances import Interpreter, UserError
from invariances.autoencoder.spatial import SpatialAutoencoder
from invariances.flow.config import FlowConfig
from invariances.flow.layered import LayeredFlow
from invariances.flow.refine import refined
from invariances.representation.representation import Representation

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def interpreter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.Conv2d(6, 4, 3, 2), nn.Flatten())
    network.preprocessing = {"size": 16, "mean": 0.5, "std": 0.5}
    layers = Representation.many(network, ["1", "3"])
    flow = LayeredFlow(FlowConfig("maps", 1, 8), (4, 2, 2), {each.layer: each.shape for each in layers})
    return Interpreter(next(iter(layers)), SpatialAutoencoder(16, 4), flow).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def drawn(interpreter, images, **options):
    return interpreter.sample(images, 2, generator=torch.Generator().manual_seed(1), **options)


@pytest.mark.parametrize("layer", ["1", "3"])
def test_the_layer_agrees_better_with_refined_samples(interpreter, images, layer):
    at = interpreter.at(layer)
    z = at.represent(images)[:, None].flatten(2)

    def far(samples):
        return (at.represent(samples.flatten(0, 1)).reshape(3, 2, -1) - z).square().sum(dim=2)

    before, few, more = (far(drawn(interpreter, images, layer=layer, refine=n)) for n in (0, 3, 20))
    assert (few < before).all()
    assert (more < few).all()
    assert torch.equal(
        drawn(interpreter, images, layer=layer, refine=3), drawn(interpreter, images, layer=layer, refine=3)
    )


def test_not_asked_for_it_changes_nothing(interpreter, images):
    generator = torch.Generator().manual_seed(1)
    plain = interpreter.decode(interpreter.flow.sample(interpreter.represent(images), 2, 1.0, generator))
    assert torch.equal(drawn(interpreter, images), plain)
    assert torch.equal(drawn(interpreter, images, refine=0), plain)


def test_it_works_where_gradients_are_off_and_leaves_none(interpreter, images):
    with torch.inference_mode():
        found = drawn(interpreter, images, refine=2, diverse=True)
    assert found.isfinite().all()
    assert not drawn(interpreter, images, refine=2).requires_grad
    assert all(each.grad is None for each in interpreter.autoencoder.parameters())


def test_a_latent_is_refined_by_itself_and_reaches_what_can_be_seen():
    generator = torch.Generator().manual_seed(0)
    latents, change = torch.randn(2, 40, 16, generator=generator)
    goals = latents + 0.3 * change
    whole = refined(latents, goals, lambda y: y, 100)
    assert float((whole - goals).norm()) < 0.05 * float((latents - goals).norm())
    assert torch.allclose(refined(latents[35:37], goals[35:37], lambda y: y, 100), whole[35:37], atol=1e-5)


def test_it_is_never_farther_than_at_the_start():
    start, goal = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, -1.0]])
    assert torch.equal(refined(start, goal, lambda y: y, 5), start)


@pytest.mark.parametrize("steps", [-1, 1.5, True, 10**9])
def test_impossible_steps_get_a_sentence(interpreter, images, steps):
    with pytest.raises(UserError, match="refine is"):
        interpreter.sample(images, refine=steps)
