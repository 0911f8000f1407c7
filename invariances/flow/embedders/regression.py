"""The regression embedder: taught first to guess the latent, then frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from invariances.flow.config import EmbedderConfig
from invariances.flow.embedders.embedder import Embedder
from invariances.flow.embedders.residual import Whitening, gives_maps, hidden_units, residual_network
from invariances.flow.layers import ActNorm
from invariances.system.machine import bfloat16

_LARGEST_LOG_VARIANCE = 10.0


class RegressionEmbedder(Embedder):
    """e = (μ(z), log σ²(z), …): what the best diagonal Gaussian says of the normalised latent, N(z̄; μ(z), σ²(z)).

    A residual network regresses the latent, by `log_prob`; a few hundred steps of it find what the published embedder,
    which learns from the flow's loss, finds in ten times as many or never. Of vectors e goes on with the network's last
    hidden layer and the whitened vector: a transform finds more there than two moments say.

    Frozen afterwards: no gradient of the flow's loss passes it. In training mode, on processors that compute in
    bfloat16, maps are read in it.

    Args:
        config: `width` of the `residual_network`.
        shape: (C,) or (C, H, W).
        latent_dim: D.
        probabilities: As of `Embedder`.
    """

    taught_first = True

    def __init__(
        self, config: EmbedderConfig, shape: Sequence[int], latent_dim: int, probabilities: bool = False
    ) -> None:
        super().__init__(shape, 2 * latent_dim, probabilities)
        self.regression = residual_network(shape, config.width, 2 * latent_dim, "group")
        self.latent_norm = ActNorm(latent_dim)
        self.maps = gives_maps(shape)
        if not self.maps:
            whitened = 0 if self.whitening is None else self.whitening.mean.numel()
            self.outputs += hidden_units(config.width) + whitened

    @property
    def whitening(self) -> Whitening | None:
        """What vectors pass first; there is none for maps and for long vectors."""
        return next((each for each in self.regression if isinstance(each, Whitening)), None)

    def embed(self, read: Tensor) -> Tensor:
        """(N, 2 D), of vectors longer."""
        half = self.maps and self.training and read.device.type == "cpu" and bfloat16()
        x = read.contiguous(memory_format=torch.channels_last) if half else read
        with torch.autocast(read.device.type, torch.bfloat16, enabled=True) if half else nullcontext():
            hidden = self.regression[:-1](x)
            moments: Tensor = self.regression[-1](hidden)
        if self.maps:
            return moments
        whitened = [] if self.whitening is None else [self.whitening(read.flatten(1))]
        return torch.cat([moments, hidden, *whitened], dim=1)

    def log_prob(self, latent: Tensor, embedding: Tensor) -> Tensor:
        """Log N(z̄; μ, σ²) in nats, (N,), of latents (N, *latent_shape) and their embeddings: what it learns by."""
        latent = latent.flatten(1)
        mean, log_variance = embedding[:, : 2 * latent.shape[1]].chunk(2, dim=1)
        log_variance = log_variance.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
        squared = (self.latent_norm(latent) - mean).square() * (-log_variance).exp()
        density: Tensor = -0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(dim=1)
        return density + self.latent_norm.log_det()
