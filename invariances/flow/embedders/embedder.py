"""The embedder: a representation of any shape becomes one vector that every block of the flow is told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.flow.embedders.residual import (
    Whitening,
    as_vectors,
    gives_maps,
    hidden_units,
    residual_network,
)
from invariances.flow.layers import LIMIT, ActNorm
from invariances.system.machine import bfloat16

EmbedderKind = Literal["published", "residual"]


VECTOR_DEPTH = 4


_LARGEST_LOG_VARIANCE = 10.0


_LEAST_PROBABILITY = 1e-12


def log_probabilities(representation: Tensor) -> Tensor:
    """The logarithm of probabilities, none below 1e-12: faint ones tell as much as strong ones."""
    return representation.clamp_min(_LEAST_PROBABILITY).log()


def halvings(height: int, width: int) -> int:
    """How often a map is halved, n = min(5, ⌊log2(size / 3)⌋), at least 0, for its shorter side."""
    return max(0, min(5, (min(height, width) // 3).bit_length() - 1))


class Pointwise(nn.Linear):
    """A 1×1 convolution of vectors (N, C).

    In eval mode on a CPU it runs as one, as in the published networks, whose rounding it thereby repeats to the
    bit: deep flows amplify a last digit, and long ones with random weights make a whole number of it. Training
    takes the matrix product, which is twice as fast.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C) → (N, O)."""
        if self.training or input.device.type != "cpu":
            return super().forward(input)
        return F.conv2d(input[:, :, None, None], self.weight[:, :, None, None], self.bias).flatten(1)


class VectorEmbedder(nn.Sequential):
    """C → … → D, `depth` widths linspace(C, D, depth): linear layers, ActNorm and LeakyReLU(0.2) between."""

    def __init__(self, channels: int, outputs: int, depth: int = VECTOR_DEPTH) -> None:
        step = (outputs - channels) / (depth - 1)
        widths = [channels, *(int(channels + i * step) for i in range(1, depth - 1)), outputs]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [Pointwise(i, o), ActNorm(o), nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-2])


class MapEmbedder(nn.Sequential):
    """(C, H, W) → D by n strided 4×4 convolutions and one convolution as large as what is left.

    The strided ones have no bias, widths 64, 128, 256, … (at most 1024), each with ActNorm and
    LeakyReLU(0.2); n is `halvings(H, W)`, 0 for maps below 6 px.
    """

    def __init__(self, channels: int, height: int, width: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        n = halvings(height, width)
        for i in range(n):
            inner = min(1024, 64 * 2**i)
            layers += [
                nn.Conv2d(channels, inner, 4, stride=2, padding=1, bias=False),
                ActNorm(inner),
                nn.LeakyReLU(0.2),
            ]
            channels = inner
        left = (height >> n, width >> n)
        super().__init__(*layers, nn.Conv2d(channels, outputs, left), nn.Flatten())


class ResidualEmbedder(nn.Module):
    """e = W (μ(z), log σ²(z)): what the best diagonal Gaussian says of the latent, N(z̄; μ(z), σ²(z)), mixed by W.

    A residual network regresses the latent first, by its `log_prob`; a few hundred steps of it find what the published
    embedder, which learns from the flow's loss, finds in ten times as many or never (docs/shapes.md). The couplings
    then bend the Gaussian into the posterior. Their loss goes on teaching the network where it reads vectors; where it
    reads maps, which take most of a step's time, it is `still` (no gradient passes it in training mode) and W alone
    learns. In training on processors that compute in bfloat16 maps are read in it.

    A continuous transform is told mean and variance as they are, normalised (`mixes` is false), and beside them what
    the regression's last hidden layer for vectors holds and the whitened vectors (of maps, with `statistics`, those of
    `as_vectors`): its own network finds more there than two moments say. The regression is still then, whatever it
    reads.

    With auxiliary values a (what the network saw at shallower layers, `ChannelStatistics`) their Gaussian,
    N(a; μ_a(z), σ_a²(z)), is learned beside the latent's, and W mixes both.

    Args:
        shape: Of the representation without batch.
        outputs: D, of the latent and of e; where `mixes` is false, e has the length 2 D + 2 S, and of vectors or
            `statistics` 16 · `width` more, and as many as are whitened.
        width: Of the `residual_network`.
        auxiliary: S, of a.
        mixes: Whether W mixes what is told.
        statistics: As of `residual_network`: finds fainter textures in maps, given thousands of pictures; of hundreds
            it learns them by heart (docs/results.md).
    """

    last: nn.Module

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        width: int,
        auxiliary: int = 0,
        mixes: bool = True,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        moments = 2 * (outputs + auxiliary)
        self.regression = residual_network(shape, width, moments, "group", statistics)
        self.maps, self.hidden = gives_maps(shape), hidden_units(width)
        self.beside = not mixes and (statistics or not self.maps)
        whitened = 0 if self.whitening is None else self.whitening.mean.numel()
        self.told = told = moments + (self.hidden + whitened if self.beside else 0)
        self.latent_norm = ActNorm(outputs)
        self.auxiliary_norm = ActNorm(auxiliary) if auxiliary else None
        self.last = Pointwise(told, outputs) if mixes else ActNorm(told)
        self.still = self.maps or not mixes

    @property
    def whitening(self) -> Whitening | None:
        """What vectors, or statistics of maps, pass first; there is none for long ones."""
        return next((each for each in self.regression.modules() if isinstance(each, Whitening)), None)

    def forward(self, representation: Tensor) -> Tensor:
        """(N, E) of (N, *shape)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.still and self.training)):
            gaussian = self.gaussian(representation)
        return self.mixed(gaussian)

    def regression_parameters(self) -> list[nn.Parameter]:
        """What `log_prob` teaches first."""
        return [*self.regression.parameters(), *self._norm_parameters()]

    def done_parameters(self) -> list[nn.Parameter]:
        """Those of them that the flow's loss leaves alone."""
        return self.regression_parameters() if self.still else self._norm_parameters()

    def _norm_parameters(self) -> list[nn.Parameter]:
        norms = [self.latent_norm, *([] if self.auxiliary_norm is None else [self.auxiliary_norm])]
        return [each for norm in norms for each in norm.parameters()]

    def mixed(self, gaussian: Tensor) -> Tensor:
        """The embedding e, (N, E), of what `gaussian` gives."""
        embedding: Tensor = self.last(gaussian)
        return embedding

    def gaussian(self, representation: Tensor) -> Tensor:
        """(μ, log σ²) of the normalised latent, then (μ_a, log σ_a²) of normalised auxiliary values; (N, 2 D + 2 S).

        For a continuous transform the hidden layer for vectors and the whitened vectors follow.
        """
        half = self.maps and self.training and representation.device.type == "cpu" and bfloat16()
        if half:
            representation = representation.contiguous(memory_format=torch.channels_last)
        with torch.autocast(representation.device.type, torch.bfloat16, enabled=half):
            hidden = self.regression[:-1](representation)
            gaussian: Tensor = self.regression[-1](hidden)
        told = [gaussian.to(representation.dtype)]
        if self.beside:
            told.append(hidden[:, -self.hidden :])
            if self.whitening is not None:
                told.append(self.whitening(as_vectors(representation)))
        return torch.cat(told, dim=1)

    def log_prob(self, latent: Tensor, gaussian: Tensor) -> Tensor:
        """Log N(z̄; μ, σ²) in nats, (N,), of latents (N, D) and what `gaussian` gave."""
        return _log_prob(self.latent_norm, latent, gaussian[:, : 2 * latent.shape[1]])

    def auxiliary_log_prob(self, auxiliary: Tensor, gaussian: Tensor) -> Tensor:
        """Log N(a; μ_a, σ_a²) in nats, (N,), of auxiliary values (N, S) and what `gaussian` gave."""
        assert self.auxiliary_norm is not None
        start = 2 * self.latent_norm.loc.numel()
        return _log_prob(self.auxiliary_norm, auxiliary, gaussian[:, start : start + 2 * auxiliary.shape[1]])


def _log_prob(norm: ActNorm, values: Tensor, gaussian: Tensor) -> Tensor:
    """Log-density in nats, (N,), of values (N, K) whose `norm` has the Gaussian (μ, log σ²), (N, 2 K)."""
    mean, log_variance = gaussian.chunk(2, dim=1)
    log_variance = log_variance.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
    squared = (norm(values) - mean).square() * (-log_variance).exp()
    density: Tensor = -0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(dim=1)
    return density + norm.log_det()


class Embedder(nn.Module):
    """e = embed(z): (N, C) or (N, C, H, W) → (N, E); (N, 0) for a flow without representation.

    Args:
        shape: of the representation without batch: (C,), (C, H, W) or ().
        outputs: D.
        kind: "published", or "residual", which a regression teaches first; see `ResidualEmbedder`.
        depth: of a vector's published embedder (widths, ends included).
        width: of a residual one.
        auxiliary: values that a residual one guesses beside the latent.
        mixes: as of `ResidualEmbedder`; E is D but where that is false.
        statistics: as of `ResidualEmbedder`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        kind: EmbedderKind = "published",
        depth: int = VECTOR_DEPTH,
        width: int = 64,
        auxiliary: int = 0,
        mixes: bool = True,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        self.outputs = outputs if shape else 0
        self.net: nn.Module
        if not shape:
            self.net = nn.Identity()
        elif kind == "residual":
            self.net = ResidualEmbedder(shape, outputs, width, auxiliary, mixes, statistics)
            self.outputs = outputs if mixes else self.net.told
        elif len(shape) == 1:
            self.net = VectorEmbedder(shape[0], outputs, depth)
        else:
            self.net = MapEmbedder(shape[0], shape[1], shape[2], outputs)

    def forward(self, representation: Tensor) -> Tensor:
        """(N, E) from a representation of the shape announced; |e| is held below 1e12."""
        embedding: Tensor = self.net(representation)
        return embedding.clamp(-LIMIT, LIMIT)
