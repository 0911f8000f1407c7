"""Cached features as training data: latents sampled anew at every step, in an order that a seed decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.flow.flow import ConditionalFlow
from invariances.system.seeds import seeded

Batch = tuple[Tensor, Tensor, Tensor]
"""Latents (B, D), representations (B, ...), and which items these are (B,)."""


class Source(Protocol):
    """What features come from: a `FeatureCache`, or anything with the same three names."""

    @property
    def n(self) -> int:
        """Number of items."""

    def shape(self, layer: str) -> tuple[int, ...]:
        """Shape of a layer's representation, without batch."""

    def batch(self, indices: Tensor, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape) and representation (B, ...) of some items, float32."""

    def moments(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape) of some items, float32."""


class FeatureSource(Protocol):
    """Items of moments and of what a flow is told of them: representations, or embeddings of these."""

    n: int

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(D,), or (C, H, W) where latents are maps."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape), and what is told (B, ...), of some items."""

    def chunks(self, size: int = 256, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, ...]]:
        """All items in order as (indices, mean, logvar, told); every `world`-th chunk only."""


class Features:
    """One or several sources end to end, cut at one layer: item i is (mean, logvar, z).

    Attributes:
        n: Number of items.
    """

    def __init__(self, sources: Source | Sequence[Source], layer: str) -> None:
        self.sources = list(sources) if isinstance(sources, Sequence) else [sources]
        self.layer = layer
        self.starts = torch.tensor([0, *(each.n for each in self.sources)]).cumsum(0)
        self.n = int(self.starts[-1])
        self.shape = tuple(self.sources[0].shape(layer))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(D,), or (C, H, W) where latents are maps."""
        return tuple(self.moments(torch.zeros(1, dtype=torch.long))[0].shape[1:])

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape) and representation (B, ...) of the items at `indices` (B,), float32."""
        mean, logvar, z = self._of_owners(indices, lambda source, own: source.batch(own, self.layer))
        return mean, logvar, z

    def moments(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape) of the items at `indices` (B,), float32."""
        mean, logvar = self._of_owners(indices, lambda source, own: source.moments(own))
        return mean, logvar

    def _of_owners(
        self, indices: Tensor, read: Callable[[Source, Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What each source reads of its own items, in the order of `indices`."""
        if len(self.sources) == 1:
            return read(self.sources[0], indices)
        owners = torch.bucketize(indices, self.starts, right=True) - 1
        places = [(owners == owner).nonzero()[:, 0] for owner in range(len(self.sources))]
        parts = [
            read(source, indices[own] - start)
            for source, own, start in zip(self.sources, places, self.starts.tolist())
            if len(own)
        ]
        back = torch.cat(places).argsort()
        return tuple(torch.cat(each)[back] for each in zip(*parts))

    def chunks(self, size: int = 256, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, ...]]:
        """All items in order, `size` at a time, as (indices, mean, logvar, z); every `world`-th chunk only."""
        for start in range(rank * size, self.n, world * size):
            indices = torch.arange(start, min(start + size, self.n))
            yield (indices, *self.batch(indices))


class FeatureStream:
    """Batches (latent, representation, index); order and noise are functions of (seed, step), nothing else.

    Several ranks together read and draw what one would with a batch as large as all of theirs.

    An epoch is one pass over all items in a fresh order, without the incomplete last batch. Lightning asks for
    `state_dict` when it saves, so that a resumed run goes on with the very next batch.

    Args:
        features: What to read.
        batch_size: Items per step and rank; at most all items.
        seed: Of order and noise.
        rank: Which of `world` processes this is; each sees its own part of every step's items and noise.
        world: Number of processes.
    """

    def __init__(
        self, features: FeatureSource, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.features, self.seed, self.rank, self.world = features, seed, rank, world
        self.batch_size = min(batch_size, math.ceil(features.n / world))
        self.step = 0
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return max(1, self.features.n // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch that the next step belongs to."""
        epoch = self.step // len(self)
        while self.step // len(self) == epoch:
            batch = self.at(self.step)
            self.step += 1
            yield batch

    def at(self, step: int) -> Batch:
        """The batch of one step: latents drawn from the posteriors, representations, and which items these are."""
        indices = self.indices(step)
        mean, logvar, z = self.features.batch(indices)
        noise = self.noise("latent", step, mean.shape[1:])
        return _latents(mean, logvar, noise), z, indices

    def noise(self, purpose: str, step: int, shape: Sequence[int]) -> Tensor:
        """This rank's rows (B, *shape) of the standard normal noise of all ranks' batches."""
        count = self.batch_size
        whole = torch.randn(count * self.world, *shape, generator=seeded(purpose, self.seed, step, 0))
        return whole[self.rank * count : (self.rank + 1) * count]

    def drawn(self, features: FeatureSource, purpose: str, step: int) -> Batch:
        """As many items of other features, this rank's of all ranks' that are chosen with replacement."""
        count = self.batch_size
        draws = seeded(purpose, self.seed, step)
        chosen = torch.randint(features.n, (count * self.world,), generator=draws)
        indices = chosen[self.rank * count : (self.rank + 1) * count]
        mean, logvar, z = features.batch(indices)
        noise = self.noise(f"{purpose} latent", step, mean.shape[1:])
        return _latents(mean, logvar, noise), z, indices

    def indices(self, step: int) -> Tensor:
        """Which items step number `step` reads on this rank; (B,)."""
        epoch, position = divmod(step, len(self))
        if self._order[0] != epoch:
            order = torch.randperm(self.features.n, generator=seeded("order", self.seed, epoch))
            self._order = (epoch, order)
        start = (position * self.world + self.rank) * self.batch_size
        places = torch.arange(start, start + self.batch_size) % self.features.n
        return self._order[1][places]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.step = int(state["step"])


def _latents(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    posterior = DiagonalGaussian(mean, logvar)
    return posterior.mean + (0.5 * posterior.logvar).exp() * noise


@torch.inference_mode()
def negative_log_likelihood(
    flow: ConditionalFlow, features: Features, *, rank: int = 0, world: int = 1
) -> Tensor:
    """(Σ −log p(z̄ | z) in nats, number of items), float64 (2,), over one rank's share of `features`.

    Each latent is one draw from its posterior, the same one at every call.
    """
    device = next(flow.parameters()).device
    total = torch.zeros(2, dtype=torch.float64)
    flow.eval()
    for indices, mean, logvar, z in features.chunks(rank=rank, world=world):
        latent = DiagonalGaussian(mean, logvar).sample(seeded("held out", int(indices[0])))
        nll = -flow.log_prob(latent.to(device), z.to(device))
        total += torch.tensor([float(nll.double().sum()), float(len(nll))], dtype=torch.float64)
    return total
