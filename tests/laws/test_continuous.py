"""Laws that a continuous flow obeys, and densities of which the truth is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from invariances import UserError
from invariances.flow.embedders.residual import as_vectors
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layers import ActNorm
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor

torch.set_num_threads(1)

CONFIGS = st.fixed_dictionaries(
    {
        "latent_dim": st.integers(2, 7),
        "representation_shape": st.sampled_from([(), (3,), (2, 5, 4)]),
        "blocks": st.integers(1, 3),
        "width": st.integers(1, 16),
        "depth": st.integers(0, 2),
        "embedder": st.sampled_from(["published", "residual"]),
        "embedder_width": st.integers(1, 5),
        "embedder_statistics": st.booleans(),
    }
)
SEEDS = st.integers(0, 2**20)
law = settings(max_examples=8, deadline=None, derandomize=True)


def make(config, seed, batch=6, dtype=torch.float64):
    """A flow whose every weight moved from where it began, in eval mode, and a batch it is initialised on."""
    torch.manual_seed(seed)
    flow = ConditionalFlow(**config, transform="continuous").to(dtype)
    shape = config["representation_shape"]
    latent = 1 + 2 * torch.randn(batch, config["latent_dim"], dtype=dtype)
    z = torch.randn(batch, *shape, dtype=dtype) if shape else None
    flow.train()
    with torch.no_grad():
        flow(latent, z)
        for each in flow.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return flow.eval(), latent, z


@law
@given(CONFIGS, SEEDS)
@torch.no_grad()
def test_inverse_undoes_forward_but_for_the_error_of_the_steps(config, seed):
    flow, latent, z = make(config, seed, dtype=torch.float32)
    invariance, _ = flow(latent, z)
    assert (flow.inverse(invariance, z) - latent).abs().max() < 1e-3 * latent.abs().max()


@law
@given(CONFIGS, SEEDS)
@torch.no_grad()
def test_an_items_invariance_does_not_depend_on_its_batch(config, seed):
    flow, latent, z = make(config, seed, batch=2)
    invariance, _ = flow(latent, z)
    for i in range(len(latent)):
        alone, _ = flow(latent[i : i + 1], None if z is None else z[i : i + 1])
        assert torch.allclose(alone[0], invariance[i], rtol=1e-9, atol=1e-9)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
def test_the_mean_log_determinant_is_that_of_the_jacobian(config, seed):
    flow, latent, z = make(config, seed, batch=2)
    for i in range(2):
        told = None if z is None else z[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, z=told: flow(x[None], z)[0][0], latent[i])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        with torch.no_grad():
            _, estimates = flow(latent[i].expand(1000, -1), told)
        error = float(estimates.std()) / math.sqrt(1000)
        assert float(estimates.mean()) == pytest.approx(float(expected), abs=4 * error + 1e-3)


def test_the_same_latents_get_the_same_estimate_at_every_call():
    flow, latent, z = make({"latent_dim": 5, "representation_shape": (3,), "blocks": 2, "width": 8}, 0)
    assert torch.equal(flow.log_prob(latent, z), flow.log_prob(latent, z))
    with torch.inference_mode():
        assert torch.allclose(flow.log_prob(latent, z), flow.log_prob(latent.clone(), z.clone()))


def test_gradients_pass_forward_and_inverse():
    flow, latent, z = make({"latent_dim": 5, "representation_shape": (3,), "blocks": 2, "width": 8}, 0)
    for direction in (lambda x: flow(x, z)[0], lambda x: flow.inverse(x, z), lambda x: flow.log_prob(x, z)):
        x = latent.clone().requires_grad_()
        direction(x).sum().backward()
        assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("far", [1e2, 1e6, 1e18])
def test_samples_are_finite_far_from_all_that_was_seen(far):
    config = {"latent_dim": 5, "representation_shape": (3,), "blocks": 2, "width": 8, "embedder": "residual"}
    flow, _, z = make({**config, "embedder_width": 2}, 0, dtype=torch.float32)
    samples = flow.sample(far * z, 3)
    assert samples.shape == (6, 3, 5)
    assert samples.isfinite().all()


def test_a_velocity_of_zero_loses_what_noise_and_latents_spread():
    """E‖0 − (x − ε)‖² / D = E x² + 1, of latents normalised by the first batch."""
    flow = ConditionalFlow(4, (), blocks=1, width=8, transform="continuous")
    last = flow.blocks[0].velocity.last
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    latent = 3 + 5 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    loss = flow.train().matching_loss(latent, None, None, torch.Generator().manual_seed(1))
    assert loss.shape == (20_000,)
    assert float(loss.detach().mean()) == pytest.approx(2, rel=0.02)


def test_flow_matching_teaches_the_velocity_and_what_normalises_for_it_and_nothing_else():
    config = {"latent_dim": 4, "representation_shape": (5,), "blocks": 1, "width": 8}
    flow, latent, z = make({**config, "embedder": "residual", "embedder_width": 2}, 0, dtype=torch.float32)
    net = flow.residual_embedder
    net.whitening.weight.mul_(3)
    flow.train().matching_loss(latent, z, None, torch.Generator().manual_seed(0)).sum().backward()
    still = {*net.done_parameters(), *flow.blocks[0].norm.parameters()}
    assert {each for each in flow.parameters() if each.grad is None} == still
    told = flow.gaussian(z)
    flow.eval()
    assert torch.equal(flow(latent, z)[0], flow(latent, gaussian=told)[0])
    # mean and log-variance of four latents, the 16 · 2 hidden units that give them, and the vector itself, none mixed
    hidden = told[:, 8 : 8 + 32]
    torch.testing.assert_close(net.regression[-1](hidden), told[:, :8])
    assert torch.equal(told[:, 8 + 32 :], net.whitening(z))
    assert flow.embed(z).shape == (6, 8 + 32 + 5)


def test_of_maps_a_continuous_flow_is_told_what_the_statistics_of_their_channels_give():
    residual = {"embedder": "residual", "embedder_width": 2, "transform": "continuous"}
    plain = ConditionalFlow(4, (3, 8, 8), blocks=1, width=8, **residual)
    assert plain.embed(torch.randn(6, 3, 8, 8)).shape == (6, 8)
    flow = ConditionalFlow(4, (3, 8, 8), blocks=1, width=8, embedder_statistics=True, **residual)
    z = torch.randn(6, 3, 8, 8)
    branch = flow.residual_embedder.regression[0].branches[1]
    told = flow.eval().gaussian(z)
    torch.testing.assert_close(told[:, 8 : 8 + 32], branch(z))
    torch.testing.assert_close(told[:, 8 + 32 :], flow.residual_embedder.whitening(as_vectors(z)))
    assert flow.embed(z).shape == (6, 8 + 32 + 6)


def test_vectors_too_long_to_be_whitened_are_told_by_the_hidden_layer_alone():
    flow = ConditionalFlow(
        4, (3000,), blocks=1, width=8, embedder="residual", embedder_width=2, transform="continuous"
    )
    assert flow.residual_embedder.whitening is None
    assert flow.embed(torch.randn(6, 3000)).shape == (6, 8 + 32)


def test_an_unknown_transform_gets_a_sentence():
    with pytest.raises(UserError, match="'coupling' or 'continuous'"):
        ConditionalFlow(4, (3,), transform="spline")


def test_two_modes_are_drawn_as_often_as_they_are_likely_and_nothing_between_them():
    """z̄ = ±m + small noise, z the sign with noise: p(+ | z) = sigmoid(2 z / σ²)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    modes, sigma, small, dim = torch.tensor([1.0, -1.0, 0.5, 1.0]), 1.5, 0.1, 4

    def draw(n):
        sign = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1
        latent = sign * modes + small * torch.randn(n, dim, generator=generator)
        return latent, sign + sigma * torch.randn(n, 1, generator=generator)

    flow = ConditionalFlow(dim, (1,), blocks=2, width=64, depth=1, transform="continuous").train()
    steps = 800
    optimizer = MuonAdam(flow.parameters(), [], lr=3e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor("cosine", 60, steps))
    for _ in range(steps):
        latent, z = draw(512)
        loss = flow.matching_loss(latent, z, None, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert isinstance(flow.blocks[0].norm, ActNorm)

    z = torch.tensor([[-2.0], [-0.5], [0.0], [1.0], [3.0]])
    samples = flow.eval().sample(z, 2000, generator=generator)
    along = samples @ modes / modes.square().sum()
    share = (along > 0).double().mean(1)
    assert torch.allclose(share, torch.sigmoid(2 * z[:, 0] / sigma**2).double(), atol=0.06)
    assert float((along.abs() < 0.6).double().mean()) < 0.01
