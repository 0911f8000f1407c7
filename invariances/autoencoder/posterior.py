"""The autoencoder's posterior q(z̄ | x): a Gaussian with diagonal covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 10.0)


@dataclass
class DiagonalGaussian:
    """q(z̄ | x) = N(mean, diag(exp(logvar))), logvar clamped to [-30, 10].

    Attributes:
        mean: (N, D).
        logvar: (N, D), natural logarithm of the variance.
    """

    mean: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        self.logvar = self.logvar.clamp(*LOGVAR_RANGE)

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """The posterior whose mean and logvar are the two halves of `moments` (N, 2D)."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """z̄ = mean + exp(logvar / 2) · ε with ε ~ N(0, I); (N, D)."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + (0.5 * self.logvar).exp() * noise

    def mode(self) -> Tensor:
        """The most probable latent, the mean; (N, D)."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q ‖ N(0, I)) = ½ Σ (mean² + exp(logvar) − 1 − logvar), nats per picture; (N,)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=1)
