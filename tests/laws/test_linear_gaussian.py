"""Known truth without networks: z̄ ~ N(0, Σ) and z = A z̄ + noise have a posterior in closed form."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from invariances.evaluation.invariance import bits_per_dim, variance
from invariances.features import Features
from invariances.flow import ConditionalFlow

D, N = 4, 4000
Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


class Pairs:
    """Held-out pairs as a source of features, with posteriors of no width."""

    def __init__(self, latent: Tensor, z: Tensor) -> None:
        self.latent, self.z, self.n = latent, z, len(latent)

    def shape(self, layer: str) -> tuple[int, ...]:
        return tuple(self.z.shape[1:])

    def batch(self, indices: Tensor, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        return self.latent[indices], torch.full_like(self.latent[indices], -30.0), self.z[indices]


def trained(
    draw: Draw, channels: int, steps: int = 1000, batch_size: int = 384, rate: float = 3e-3
) -> ConditionalFlow:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    flow = ConditionalFlow(D, (channels,), blocks=4, width=48, depth=1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        loss = -flow.log_prob(*draw(batch_size, generator)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return flow.eval()


def covariance() -> Tensor:
    root = torch.tensor([[1.6, 0, 0, 0], [0.8, 1.1, 0, 0], [-0.5, 0.6, 1.3, 0], [0.3, -0.7, 0.4, 0.9]])
    return root @ root.T


def drawer(sigma: Tensor, matrix: Tensor, noise: float) -> Draw:
    root = torch.linalg.cholesky(sigma)

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        latent = torch.randn(n, D, generator=generator) @ root.T
        return latent, latent @ matrix.T + noise * torch.randn(n, len(matrix), generator=generator)

    return draw


def entropy(sigma: Tensor) -> float:
    return 0.5 * float(torch.logdet(sigma)) + 0.5 * D * math.log(2 * math.pi * math.e)


def test_posterior_variance_and_likelihood_meet_their_closed_forms() -> None:
    sigma, noise = covariance(), 0.5
    matrix = torch.tensor([[1.0, 0.5, 0.0, -0.3], [0.0, 0.4, 1.0, 0.6]])
    draw = drawer(sigma, matrix, noise)
    gain = sigma @ matrix.T @ torch.linalg.inv(matrix @ sigma @ matrix.T + noise**2 * torch.eye(2))
    posterior = sigma - gain @ matrix @ sigma
    flow = trained(draw, 2)

    latent, z = draw(N, torch.Generator().manual_seed(1))
    samples = flow.sample(z[:1000], 256, generator=torch.Generator().manual_seed(2))
    mean, truth = samples.mean(1), z[:1000] @ gain.T
    assert (
        float((mean - truth).norm() / truth.norm())
        < 0.05 + (float(posterior.trace() / 256 / sigma.trace())) ** 0.5
    )
    centred = samples - mean[:, None]
    estimated = (centred.transpose(1, 2) @ centred).mean(0) / 255
    assert float((estimated - posterior).norm() / posterior.norm()) < 0.05

    features = Features(Pairs(latent, z), "z")
    remaining = variance(flow, features, n=16)
    expected = float(posterior.trace() / sigma.trace())
    assert remaining["variance_remaining"] == pytest.approx(expected, rel=0.05)
    assert remaining["variance_unpredicted"] == pytest.approx(expected, rel=0.05)
    bits = entropy(posterior) / D / math.log(2)
    assert bits_per_dim(flow, features) == pytest.approx(bits, rel=0.05)


def test_nothing_known_means_that_everything_remains() -> None:
    sigma = covariance()
    draw = drawer(sigma, torch.zeros(2, D), 1.0)
    flow = trained(draw, 2, steps=300)
    features = Features(Pairs(*draw(N, torch.Generator().manual_seed(1))), "z")
    assert variance(flow, features, n=16)["variance_remaining"] == pytest.approx(1.0, abs=0.05)
    assert bits_per_dim(flow, features) == pytest.approx(entropy(sigma) / D / math.log(2), rel=0.05)


def test_everything_known_means_that_nothing_remains() -> None:
    """z = z̄ but for a posterior of deviation 0.1, so that the density has a bound."""
    sigma = covariance()
    draw = drawer(sigma, torch.eye(D), 0.1)
    flow = trained(draw, D)
    features = Features(Pairs(*draw(N, torch.Generator().manual_seed(1))), "z")
    remaining = variance(flow, features, n=16)
    assert remaining["variance_remaining"] < 0.06
    assert remaining["variance_unpredicted"] < 0.06
    assert bits_per_dim(flow, features) < entropy(sigma) / D / math.log(2) - 2
