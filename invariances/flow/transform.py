"""What every transform of a flow can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Transform(nn.Module, ABC):
    """v = t(x | e): latents (N, *latent_shape) to invariances of the same shape, given embeddings (N, E), and back.

    An item's invariance, log-determinant and latent depend on that item alone, never on its batch.

    Attributes:
        likelihood: Whether `loss` is the negative log-likelihood, in nats but for the constant D/2 · log 2π.
    """

    likelihood: ClassVar[bool]

    @abstractmethod
    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """(v (N, *latent_shape), log |det ∂v/∂x| (N,)) of latents x and embeddings e."""

    @abstractmethod
    def inverse(self, v: Tensor, e: Tensor) -> Tensor:
        """The latents that forward maps to v."""

    @abstractmethod
    def loss(self, x: Tensor, e: Tensor, generator: torch.Generator) -> Tensor:
        """What it learns by, (N,); `generator`, on the CPU, draws what chance there is."""
