"""What holds of continuous flows alone."""

import math

import pytest
import torch
from torch import nn

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.continuous import STEPS, probes
from invariances.flow.flow import ConditionalFlow
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor

torch.set_num_threads(1)


def continuous(latent_dim, shape, width=8, **built):
    return ConditionalFlow(FlowConfig("continuous", width=width, **built), (latent_dim,), shape)


def moved(latent_dim, shape, seed=0, batch=3):
    """A flow whose every weight moved far from where it began, and a batch; float64, in eval mode."""
    torch.manual_seed(seed)
    flow = continuous(latent_dim, shape, width=24, blocks=2, depth=1).double()
    latent, z = 1 + 2 * torch.randn(batch, latent_dim).double(), torch.randn(batch, *shape).double()
    flow.loss(latent, torch.Generator(), z)
    with torch.no_grad():
        for each in flow.parameters():
            each.add_(0.2 * torch.randn_like(each))
    return flow.eval(), latent, z


@pytest.mark.parametrize("dim", [3, 8, 13, 16, 17, 64, 100, 1000])
def test_probes_are_signs_that_are_orthogonal_where_they_can_be(dim):
    signs = probes(dim)
    assert signs.abs().eq(1).all()
    assert torch.equal(signs, probes(dim))
    assert not torch.equal(signs, probes(dim, seed=2))
    if dim <= 16:  # tr A = mean of ε · A ε for any A, at each step
        expected = torch.eye(dim).expand(STEPS, -1, -1)
        assert torch.equal(torch.einsum("ski,skj->sij", signs, signs) / signs.shape[1], expected)
    else:
        assert signs.shape == (STEPS, 4, dim)
    if dim <= 64:  # and over all steps
        rows = signs.flatten(0, 1)
        assert torch.allclose(rows.T @ rows / len(rows), torch.eye(dim))


@torch.no_grad()
def test_estimates_of_many_dimensions_have_no_bias_and_are_closer_than_single_probes(monkeypatch):
    flow, latent, z = moved(40, (3,))
    jacobian = torch.autograd.functional.jacobian
    truth = [
        torch.linalg.slogdet(jacobian(lambda x, i=i: flow(x[None], z[i : i + 1])[0][0], latent[i])).logabsdet
        for i in range(3)
    ]
    truth = torch.stack(truth)

    def error(draw, count):
        found = []
        for seed in range(count):
            monkeypatch.setattr("invariances.flow.continuous.probes", lambda dim, seed=seed: draw(dim, seed))
            found.append(flow(latent, z)[1] - truth)
        found = torch.stack(found)
        return found.mean(0), found.std(0)

    mean, deviation = error(lambda dim, seed: probes(dim, seed=seed), 25)
    assert (mean.abs() < 4 * deviation / math.sqrt(25) + 2e-3).all()
    _, single = error(lambda dim, seed: probes(dim, seed=seed)[:1, :1].expand(STEPS, 1, dim), 25)
    assert (deviation < 0.25 * single).all()


def test_the_same_latents_get_the_same_estimate_at_every_call():
    flow, latent, z = moved(40, (3,))
    assert torch.equal(flow.log_prob(latent, z), flow.log_prob(latent, z))
    with torch.inference_mode():
        assert torch.allclose(flow.log_prob(latent, z), flow.log_prob(latent.clone(), z.clone()))


def test_a_velocity_of_zero_loses_what_noise_and_latents_spread():
    """E‖0 − (x − ε)‖² / D = E x² + 1, of latents normalised by the first batch."""
    flow = continuous(4, (), blocks=1)
    last = flow.transform.velocity.last
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    latent = 3 + 5 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    loss = flow.train().loss(latent, torch.Generator().manual_seed(1))
    assert loss.shape == (20_000,)
    assert float(loss.detach().mean()) == pytest.approx(2, rel=0.02)


def test_the_times_of_a_batch_are_spread_evenly_and_only_training_is_in_bfloat16(monkeypatch):
    monkeypatch.setattr("invariances.flow.continuous.bfloat16", lambda: True)
    flow, seen = continuous(4, (), blocks=1), []
    flow.transform.velocity.register_forward_hook(lambda _, given, out: seen.append((given[1], out.dtype)))
    for mode in (True, False):
        flow.train(mode).loss(torch.randn(50, 4), torch.Generator().manual_seed(0))
    assert torch.equal((50 * seen[0][0]).floor(), torch.arange(50.0))
    assert [dtype for _, dtype in seen] == [torch.bfloat16, torch.float32]


def test_flow_matching_teaches_the_velocity_and_what_normalises_for_it_and_nothing_else():
    flow = continuous(4, (5,), blocks=1, embedder=EmbedderConfig("regression", width=2))
    latent, z = torch.randn(6, 4), torch.randn(6, 5)
    flow.loss(latent, torch.Generator().manual_seed(0), z).sum().backward()
    still = {*flow.embedder.parameters(), *flow.transform.norm.parameters()}
    assert {each for each in flow.parameters() if each.grad is None} == still


def test_embeddings_of_any_scale_are_normalised_first():
    flow = continuous(4, (5,), blocks=1)
    e = torch.randn(64, 4) * torch.tensor([1e-3, 1.0, 1e3, 1e6]) + 7
    flow.train().loss(torch.randn(64, 4), torch.Generator(), embedding=e)
    norm = flow.transform.condition_norm
    assert torch.allclose(norm(e).std(0), torch.ones(4), atol=1e-2)


def test_two_modes_are_drawn_as_often_as_they_are_likely_and_nothing_between_them():
    """z̄ = ±m + small noise, z the sign with noise: p(+ | z) = sigmoid(2 z / σ²)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    modes, sigma, small, dim = torch.tensor([1.0, -1.0, 0.5, 1.0]), 1.5, 0.1, 4

    def draw(n):
        sign = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1
        latent = sign * modes + small * torch.randn(n, dim, generator=generator)
        return latent, sign + sigma * torch.randn(n, 1, generator=generator)

    flow = continuous(dim, (1,), blocks=2, width=64, depth=1).train()
    steps = 800
    optimizer = MuonAdam(flow.parameters(), [], lr=3e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor("cosine", 60, steps))
    for _ in range(steps):
        latent, z = draw(512)
        loss = flow.loss(latent, generator, z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    z = torch.tensor([[-2.0], [-0.5], [0.0], [1.0], [3.0]])
    samples = flow.eval().sample(z, 2000, generator=generator)
    along = samples @ modes / modes.square().sum()
    share = (along > 0).double().mean(1)
    assert torch.allclose(share, torch.sigmoid(2 * z[:, 0] / sigma**2).double(), atol=0.06)
    assert float((along.abs() < 0.6).double().mean()) < 0.01
