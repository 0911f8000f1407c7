"""Known truth without networks: z̄ ~ N(0, Σ) and z = A z̄ + noise have a posterior in closed form."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from invariances.evaluation.invariance import variance
from invariances.evaluation.likelihood import bits_per_dim
from invariances.features.stream import Features
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.embedders.regression import RegressionEmbedder
from invariances.flow.flow import ConditionalFlow
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor
from invariances.training.start import start_embedder

D, N = 4, 4000
Pair = tuple[Tensor, Tensor]
Draw = Callable[[int, torch.Generator], Pair]


class Pairs:
    """Held-out pairs as a source of features, with posteriors of no width."""

    def __init__(self, latent: Tensor, z: Tensor) -> None:
        self.latent, self.z, self.n = latent, z, len(latent)

    def shape(self, layer: str) -> tuple[int, ...]:
        return tuple(self.z.shape[1:])

    def batch(self, indices: Tensor, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        return self.latent[indices], torch.full_like(self.latent[indices], -30.0), self.z[indices]


def trained(
    draw: Draw, channels: int, steps: int = 1500, batch_size: int = 384, rate: float = 1.5e-2
) -> ConditionalFlow:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    flow = ConditionalFlow(FlowConfig(blocks=4, width=48, depth=1), (D,), (channels,))
    start_embedder(flow, Features(Pairs(*draw(N, generator)), "z"))
    matrices = [each for each in flow.embedder.parameters() if each.dim() > 1]
    optimizer = MuonAdam(flow.parameters(), matrices, lr=rate, betas=(0.5, 0.9), weight_decay=0.0, fused=True)
    learn(flow.log_prob, optimizer, partial(draw, batch_size, generator), steps)
    return flow.eval()


def learn(density: Callable[..., Tensor], optimizer: MuonAdam, pairs: Callable[[], Pair], steps: int) -> None:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor("cosine", steps // 10, steps))
    for _ in range(steps):
        loss = -density(*pairs()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 5.0)
        optimizer.step()
        schedule.step()


def covariance() -> Tensor:
    root = torch.tensor([[1.6, 0, 0, 0], [0.8, 1.1, 0, 0], [-0.5, 0.6, 1.3, 0], [0.3, -0.7, 0.4, 0.9]])
    return root @ root.T


def drawer(sigma: Tensor, matrix: Tensor, noise: float) -> Draw:
    root = torch.linalg.cholesky(sigma)

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        latent = torch.randn(n, D, generator=generator) @ root.T
        return latent, latent @ matrix.T + noise * torch.randn(n, len(matrix), generator=generator)

    return draw


def posterior_of(sigma: Tensor, matrix: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """E[z̄ | z] = G z and Cov(z̄ | z)."""
    seen = matrix @ sigma @ matrix.T + noise**2 * torch.eye(len(matrix))
    gain = sigma @ matrix.T @ torch.linalg.inv(seen)
    return gain, sigma - gain @ matrix @ sigma


def entropy(sigma: Tensor) -> float:
    return 0.5 * float(torch.logdet(sigma)) + 0.5 * D * math.log(2 * math.pi * math.e)


def assert_meets_truth(flow: ConditionalFlow, draw: Draw, sigma: Tensor, posterior: Tensor) -> None:
    """Remaining variance and E[log p(z̄ | z)] within 5 % of their closed forms."""
    features = Features(Pairs(*draw(N, torch.Generator().manual_seed(1))), "z")
    remaining = variance(flow, features, n=16)
    share = float(posterior.trace() / sigma.trace())
    assert remaining["variance_remaining"] == pytest.approx(share, rel=0.05)
    assert remaining["variance_unpredicted"] == pytest.approx(share, rel=0.05)
    bits = entropy(posterior) / D / math.log(2)
    assert bits_per_dim(flow, features) == pytest.approx(bits, rel=0.05)


def test_posterior_meets_its_closed_form() -> None:
    sigma, noise, n = covariance(), 0.5, 256
    matrix = torch.tensor([[1.0, 0.5, 0.0, -0.3], [0.0, 0.4, 1.0, 0.6]])
    draw = drawer(sigma, matrix, noise)
    gain, posterior = posterior_of(sigma, matrix, noise)
    flow = trained(draw, 2)
    assert_meets_truth(flow, draw, sigma, posterior)

    _, z = draw(1000, torch.Generator().manual_seed(1))
    samples = flow.sample(z, n, generator=torch.Generator().manual_seed(2))
    mean, truth = samples.mean(1), z @ gain.T
    chance = posterior.trace() / n
    error = (mean - truth).square().sum(1).mean() - chance
    assert float(error.clamp(min=0).sqrt() / truth.square().sum(1).mean().sqrt()) < 0.05
    centred = samples - mean[:, None]
    estimated = (centred.transpose(1, 2) @ centred).mean(0) / (n - 1)
    assert float((estimated - posterior).norm() / posterior.norm()) < 0.05


@pytest.mark.parametrize(("transform", "rate"), [("couplings", 1.5e-2), ("continuous", 5e-3)])
def test_a_regression_embedder_and_the_flow_given_it_meet_their_closed_forms(
    transform: Any, rate: float
) -> None:
    """A diagonal Gaussian is right about means and variances: its E[−log N] is the sum of the marginal entropies."""
    sigma, noise = covariance(), 0.5
    matrix = torch.tensor([[1.0, 0.5, 0.0, -0.3], [0.0, 0.4, 1.0, 0.6]])
    draw = drawer(sigma, matrix, noise)
    gain, posterior = posterior_of(sigma, matrix, noise)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    blocks = 4 if transform == "couplings" else 2
    config = FlowConfig(transform, blocks, 48, 1, EmbedderConfig("regression", width=4))
    flow = ConditionalFlow(config, (D,), (2,))
    net = flow.embedder
    assert isinstance(net, RegressionEmbedder)

    def guess(latent: Tensor, z: Tensor) -> Tensor:
        return net.log_prob(latent, flow.embed(z))

    matrices = [each for each in net.parameters() if each.dim() > 1]
    pairs = partial(draw, 384, generator)
    learn(guess, MuonAdam(net.parameters(), matrices, lr=0.02, betas=(0.9, 0.99)), pairs, 600)

    latent, z = draw(20_000, torch.Generator().manual_seed(1))
    marginal = 0.5 * float((2 * math.pi * math.e * posterior.diagonal()).log().sum())
    with torch.no_grad():
        assert -float(guess(latent, z).mean()) == pytest.approx(marginal, rel=0.02)
        mean = net.latent_norm.inverse(flow.embed(z)[:, :D])
    assert float((mean - z @ gain.T).square().mean() / (z @ gain.T).square().mean()) < 0.05**2

    before = [each.clone() for each in net.state_dict().values()]
    optimizer = MuonAdam(flow.transform.parameters(), [], lr=rate, betas=(0.5, 0.9))
    learn(lambda latent, z: -flow.loss(latent, generator, z), optimizer, pairs, 1200)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values()))
    assert_meets_truth(flow.eval(), draw, sigma, posterior)


def test_a_continuous_flow_meets_the_closed_form() -> None:
    sigma, noise, n = covariance(), 0.5, 256
    matrix = torch.tensor([[1.0, 0.5, 0.0, -0.3], [0.0, 0.4, 1.0, 0.6]])
    draw = drawer(sigma, matrix, noise)
    gain, posterior = posterior_of(sigma, matrix, noise)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    flow = ConditionalFlow(FlowConfig("continuous", blocks=2, width=64, depth=1), (D,), (2,))

    def matching(latent: Tensor, z: Tensor) -> Tensor:
        return -flow.loss(latent, generator, z)

    optimizer = MuonAdam(flow.parameters(), [], lr=5e-3, betas=(0.9, 0.99))
    learn(matching, optimizer, partial(draw, 384, generator), 1000)
    assert_meets_truth(flow.eval(), draw, sigma, posterior)

    _, z = draw(300, torch.Generator().manual_seed(1))
    samples = flow.sample(z, n, generator=torch.Generator().manual_seed(2))
    centred = samples - samples.mean(1, keepdim=True)
    estimated = (centred.transpose(1, 2) @ centred).mean(0) / (n - 1)
    assert float((estimated - posterior).norm() / posterior.norm()) < 0.05
    truth = z @ gain.T
    error = (samples.mean(1) - truth).square().sum(1).mean() - posterior.trace() / n
    assert float(error.clamp(min=0).sqrt() / truth.square().sum(1).mean().sqrt()) < 0.07


def test_nothing_known_means_that_everything_remains() -> None:
    sigma = covariance()
    draw = drawer(sigma, torch.zeros(2, D), 1.0)
    assert_meets_truth(trained(draw, 2, steps=300, rate=3e-3), draw, sigma, sigma)


def test_everything_known_means_that_nothing_remains() -> None:
    """z = z̄ but for noise of deviation 0.1, so that the density has a bound: 0.5 % of the variance remains."""
    sigma, noise = covariance(), 0.1
    draw = drawer(sigma, torch.eye(D), noise)
    _, posterior = posterior_of(sigma, torch.eye(D), noise)
    assert_meets_truth(trained(draw, D, steps=2000, rate=2e-2), draw, sigma, posterior)
