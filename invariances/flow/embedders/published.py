"""The published embedder, which learns with the flow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from invariances.flow.config import EmbedderConfig
from invariances.flow.embedders.embedder import Embedder
from invariances.flow.layers import ActNorm, Pointwise


class PublishedEmbedder(Embedder):
    """e = net(z), of the latent's length D: a `VectorEmbedder` or a `MapEmbedder`, as the representation's shape says.

    Args:
        config: `depth` of a vector's.
        shape: (C,) or (C, H, W).
        latent_dim: D.
        probabilities: As of `Embedder`.
    """

    def __init__(
        self, config: EmbedderConfig, shape: Sequence[int], latent_dim: int, probabilities: bool = False
    ) -> None:
        super().__init__(shape, latent_dim, probabilities)
        self.net: nn.Sequential
        if len(shape) == 1:
            self.net = VectorEmbedder(shape[0], latent_dim, config.depth)
        else:
            self.net = MapEmbedder(shape[0], shape[1], shape[2], latent_dim)

    def embed(self, read: Tensor) -> Tensor:
        """(N, D)."""
        embedding: Tensor = self.net(read)
        return embedding


def halvings(height: int, width: int) -> int:
    """How often a map is halved, n = min(5, ⌊log2(size / 3)⌋), at least 0, for its shorter side."""
    return max(0, min(5, (min(height, width) // 3).bit_length() - 1))


class VectorEmbedder(nn.Sequential):
    """C → … → D, `depth` widths linspace(C, D, depth): linear layers, ActNorm and LeakyReLU(0.2) between."""

    def __init__(self, channels: int, outputs: int, depth: int) -> None:
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
