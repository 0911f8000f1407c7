"""What every transform of a flow can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError


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

    def invariance(self, x: Tensor, e: Tensor) -> Tensor:
        """`forward` without the log-determinant; continuous transforms are several times faster so."""
        v: Tensor = self(x, e)[0]
        return v

    def drawn(self, v: Tensor, e: Tensor) -> Tensor:
        """The latents of fresh v: `inverse`, or what is as good where no way back is wanted."""
        return self.inverse(v, e)

    def exchanged(self, x: Tensor, e: Tensor, instead: Tensor) -> Tensor:
        """The latents of x's invariances with other embeddings; nearly x where these are x's own."""
        return self.inverse(self.invariance(x, e), instead)

    def guided(self, v: Tensor, e: Tensor, guidance: float) -> Tensor:
        """The latents of v where the embedding's say is multiplied by `guidance`: more typical, no samples of p(x | e).

        Raises:
            UserError: It was not learnt without embeddings too.
        """
        raise UserError(
            f"guidance is {guidance}, and a flow of {type(self).__name__.lower()} takes 1 only; "
            "flows over maps can be guided"
        )

    @abstractmethod
    def loss(self, x: Tensor, e: Tensor, generator: torch.Generator) -> Tensor:
        """What it learns by, (N,); `generator`, on the CPU, draws what chance there is."""
