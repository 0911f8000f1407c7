"""Laws of flows over maps."""

import pytest
import torch

from invariances import UserError
from invariances.flow import maps
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layered import LayeredFlow
from invariances.flow.map_velocity import grid_of
from invariances.flow.maps import Maps

torch.set_num_threads(1)
SMALL = FlowConfig("maps", 1, 8)
LAYERS = {"early": (3, 5, 5), "late": (4,), "chances": (4,)}


def shaken(module, seed=0):
    """Its zeros too hold something, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in module.parameters():
            each.add_(0.1 * torch.randn(each.shape, generator=generator))
    return module.eval()


def flow_of(latent_shape, shape=(), **options):
    torch.manual_seed(0)
    return shaken(ConditionalFlow(SMALL, latent_shape, shape, **options))


def told(flow, count, seed=1):
    return torch.rand(count, *flow.representation_shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 2), (3, 7, 7)])
@pytest.mark.parametrize("latent_shape", [(2, 2, 2), (3, 4, 2)])
def test_there_and_back(latent_shape, shape):
    flow = flow_of(latent_shape, shape).double()
    z = told(flow, 3).double() if shape else None
    latent = torch.randn(3, *latent_shape, dtype=torch.double)
    invariance, log_det = flow(latent, z)
    assert invariance.shape == latent.shape
    assert log_det.shape == (3,)
    assert torch.allclose(flow.invariance(latent, z), invariance, rtol=0, atol=1e-12)
    assert float((flow.inverse(invariance, z) - latent).abs().max()) < 1e-2
    assert float((invariance - latent).abs().max()) > 0.05


def test_half_precision_stays_close_and_leaves_densities_alone():
    flow, latent = flow_of((3, 4, 2), (5,)), torch.randn(2, 3, 4, 2)
    z = told(flow, 2)
    exact = [flow.inverse(latent, z), flow.invariance(latent, z), flow.log_prob(latent, z)]
    flow.transform.fast = True
    rough = [flow.inverse(latent, z), flow.invariance(latent, z), flow.log_prob(latent, z)]
    for one, other in zip(exact[:2], rough[:2]):
        assert one.dtype == other.dtype == torch.float32
        assert 0 < float((one - other).abs().max()) < 0.15 * float(one.std())
    assert torch.equal(exact[2], rough[2])


def test_exchanged_latents_are_those_of_the_invariances(monkeypatch):
    flow, latent = flow_of((3, 4, 2), (5,)), torch.randn(2, 3, 4, 2)
    z = told(flow, 2)
    with torch.no_grad():
        exact = flow.inverse(flow.invariance(latent, z), z.flip(0))
        errors = []
        for passes in (16, 64):
            monkeypatch.setattr(maps, "PASSES", passes)
            found = flow.exchanged(latent, z, z.flip(0))
            errors.append(float((found - exact).abs().mean() / exact.std()))
            assert torch.allclose(flow.exchanged(latent[:1], z[:1], z[1:]), found[:1], atol=1e-3)
    assert errors[0] > 2 * errors[1]
    assert errors[1] < 0.1


def test_log_det_is_that_of_the_jacobian():
    flow = flow_of((2, 2, 2), (5,)).double()
    z, latent = told(flow, 2).double(), torch.randn(2, 2, 2, 2, dtype=torch.double)
    _, log_det = flow(latent, z)
    for k in range(2):

        def one(x, k=k):
            return flow(x.view(1, 2, 2, 2), z[k : k + 1])[0].flatten()

        jacobian = torch.autograd.functional.jacobian(one, latent[k].flatten())
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert float(log_det[k]) == pytest.approx(float(expected), rel=1e-3)


def test_an_item_depends_on_itself_alone():
    flow = flow_of((2, 4, 4), (3, 6, 6))
    z, latent = told(flow, 4), torch.randn(4, 2, 4, 4)
    whole, log_det = flow(latent, z)
    one, its_log_det = flow(latent[2:3], z[2:3])
    torch.testing.assert_close(one, whole[2:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(its_log_det, log_det[2:3], atol=1e-3, rtol=1e-3)


def test_samples_have_the_latents_shape_and_follow_the_generator():
    flow = flow_of((2, 4, 4), (5,))
    z = told(flow, 2)
    a, b = (flow.sample(z, 3, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert a.shape == (2, 3, 2, 4, 4)
    assert torch.equal(a, b)
    assert a.isfinite().all()


def test_it_learns_where_the_latents_lie():
    """Two kinds, told apart by the representation: samples of each come to lie near its mean."""
    torch.manual_seed(0)
    flow = ConditionalFlow(FlowConfig("maps", 1, 16), (1, 2, 2), (2,)).train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([each for each in flow.parameters() if each.requires_grad], 3e-3)
    for _ in range(250):
        kind = torch.randint(2, (64,), generator=generator)
        latent = (2.0 * kind - 1).view(-1, 1, 1, 1) + 0.1 * torch.randn(64, 1, 2, 2, generator=generator)
        z = torch.nn.functional.one_hot(kind, 2).float()
        loss = flow.loss(latent, generator, z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    samples = flow.eval().sample(torch.eye(2), 50, generator=generator).flatten(2).mean(dim=2)
    assert float(samples[0].mean()) == pytest.approx(-1, abs=0.15)
    assert float(samples[1].mean()) == pytest.approx(1, abs=0.15)
    assert float(samples.std(dim=1).max()) < 0.4


def test_the_loss_is_the_error_of_the_velocity():
    """Of an untrained transform, which guesses nothing: E‖x‖² / (1 − s)² over times, of these draws."""
    torch.manual_seed(0)
    transform = Maps(SMALL, (2, 4, 4))
    x, nothing = torch.randn(5, 2, 4, 4), torch.zeros(5, 0)
    found = transform.eval().loss(x, nothing, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.randn(x.shape, generator=generator)
    times = (torch.randn(5, generator=generator) - 0.3).sigmoid()
    expected = x.flatten(1).square().mean(dim=1) / (1 - times).clamp(min=0.05) ** 2
    torch.testing.assert_close(found, expected)


def test_long_sides_are_cut_into_patches():
    assert grid_of(8, 8) == (8, 8)
    assert grid_of(64, 64) == (8, 8)
    assert grid_of(12, 12) == (6, 6)
    flow = flow_of((3, 16, 16))
    assert flow.sample(n=2).shape == (1, 2, 3, 16, 16)


def test_vectors_are_refused():
    with pytest.raises(UserError, match=r"needs latents that are maps"):
        ConditionalFlow(SMALL, (8,), (3,))
    with pytest.raises(UserError, match="multiple of 4"):
        FlowConfig("maps", 2, 10)


def layered():
    torch.manual_seed(0)
    return shaken(LayeredFlow(SMALL, (2, 4, 4), LAYERS, ["chances"]))


def representations(count):
    generator = torch.Generator().manual_seed(5)
    made = {name: torch.rand(count, *shape, generator=generator) for name, shape in LAYERS.items()}
    return made | {"chances": made["chances"].softmax(dim=1)}


def test_every_layer_is_a_flow_of_its_own_and_shares_the_transform():
    flow, z = layered(), representations(2)
    latent = torch.randn(2, 2, 4, 4)
    found = {name: flow.at(name)(latent, z[name])[0] for name in LAYERS}
    assert float((found["early"] - found["late"]).abs().max()) > 1e-3
    alone, _ = flow.at(None)(latent)
    assert float((alone - found["late"]).abs().max()) > 1e-3
    assert flow.at("late").transform is flow.at(None).transform
    assert flow.at("chances").probabilities


def test_a_layers_items_count_as_its_flow_counts_them():
    flow, z = layered(), representations(2)
    latents = torch.randn(6, 2, 4, 4)
    places = torch.arange(6).view(3, 2)
    items = {name: (places[k], z[name]) for k, name in enumerate(LAYERS)}
    found = flow.loss(latents, items, torch.Generator().manual_seed(1))
    e = torch.cat([flow.embedder(name)(z[name]) for name in LAYERS])
    torch.testing.assert_close(found, flow.transform.loss(latents, e, torch.Generator().manual_seed(1)))


def test_told_nothing_is_the_flow_without_representation():
    flow = layered()
    y, time = torch.randn(3, 2, 4, 4), torch.rand(3)
    nothing = torch.zeros(3, flow.transform.velocity.condition)
    torch.testing.assert_close(
        flow.transform.velocity(y, time, nothing),
        flow.transform.velocity(y, time, None),
        atol=1e-5,
        rtol=1e-5,
    )


def test_a_layered_flow_is_restored_from_its_spec():
    flow = layered()
    again = LayeredFlow.restored(flow.spec(), flow.state_dict()).eval()
    latent, z = torch.randn(2, 2, 4, 4), representations(2)
    assert torch.equal(again.at("early")(latent, z["early"])[0], flow.at("early")(latent, z["early"])[0])
    with pytest.raises(UserError, match="another architecture"):
        LayeredFlow.restored(flow.spec() | {"latent_shape": [3, 4, 4]}, flow.state_dict())
    with pytest.raises(UserError, match="it has"):
        flow.at("middle")


def test_the_density_integrates_to_one():
    """In two dimensions, over a grid where the samples lie."""
    flow = flow_of((1, 1, 2))
    samples = flow.sample(n=500, generator=torch.Generator().manual_seed(0))[0].view(-1, 2)
    mean, std = samples.mean(dim=0), samples.std(dim=0)
    side = torch.linspace(-7, 7, 57)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).view(-1, 2)
    density = flow.log_prob((mean + std * grid).view(-1, 1, 1, 2)).exp()
    total = density.sum() * std.prod() * (side[1] - side[0]) ** 2
    assert float(total) == pytest.approx(1, abs=0.03)
