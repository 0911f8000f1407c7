"""The embedder: a representation of any shape becomes one vector that every block of the flow is told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from .layers import LIMIT, ActNorm

VECTOR_DEPTH = 4
WIDE_MAP, WIDE_VECTOR = 256, 1024
"""Least width of a wide embedder's hidden layers; for the convolutions of maps 4 × their inputs, where that is less."""
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
    """C → … → D, `depth` widths linspace(C, D, depth): linear layers, ActNorm and LeakyReLU(0.2) between.

    Where `least` is given, C → max(C, `least`) → D: one hidden layer, which no direction is too faint for.
    """

    def __init__(self, channels: int, outputs: int, depth: int = VECTOR_DEPTH, least: int = 0) -> None:
        step = (outputs - channels) / (depth - 1)
        hidden = [int(channels + i * step) for i in range(1, depth - 1)]
        widths = [channels, *([max(channels, least)] if least else hidden), outputs]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [Pointwise(i, o), ActNorm(o), nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-2])


class MapEmbedder(nn.Sequential):
    """(C, H, W) → D by n strided 4×4 convolutions and one convolution as large as what is left.

    The strided ones have no bias, widths 64, 128, 256, … (at most 1024), each with ActNorm and
    LeakyReLU(0.2); n is `halvings(H, W)`, 0 for maps below 6 px. None is narrower than min(`least`, 4 × its inputs).
    """

    def __init__(self, channels: int, height: int, width: int, outputs: int, least: int = 0) -> None:
        layers: list[nn.Module] = []
        n = halvings(height, width)
        for i in range(n):
            inner = max(min(1024, 64 * 2**i), min(least, 4 * channels))
            layers += [
                nn.Conv2d(channels, inner, 4, stride=2, padding=1, bias=False),
                ActNorm(inner),
                nn.LeakyReLU(0.2),
            ]
            channels = inner
        left = (height >> n, width >> n)
        super().__init__(*layers, nn.Conv2d(channels, outputs, left), nn.Flatten())


class Embedder(nn.Module):
    """e = embed(z): (N, C) or (N, C, H, W) → (N, D); (N, 0) for a flow without representation.

    Args:
        shape: of the representation without batch: (C,), (C, H, W) or ().
        outputs: D.
        depth: of a vector's embedder (widths, ends included).
        wide: hidden layers have at least `WIDE_MAP` channels or `WIDE_VECTOR` units; the published ones can be as
            narrow as the representation or the latent, and then pass on only its strongest directions.
    """

    def __init__(
        self, shape: Sequence[int], outputs: int, depth: int = VECTOR_DEPTH, wide: bool = False
    ) -> None:
        super().__init__()
        self.outputs = outputs if shape else 0
        self.net: nn.Module
        if not shape:
            self.net = nn.Identity()
        elif len(shape) == 1:
            self.net = VectorEmbedder(shape[0], outputs, depth, WIDE_VECTOR if wide else 0)
        else:
            self.net = MapEmbedder(shape[0], shape[1], shape[2], outputs, WIDE_MAP if wide else 0)

    def forward(self, representation: Tensor) -> Tensor:
        """(N, D) from a representation of the shape announced; |e| is held below 1e12."""
        embedding: Tensor = self.net(representation)
        return embedding.clamp(-LIMIT, LIMIT)
