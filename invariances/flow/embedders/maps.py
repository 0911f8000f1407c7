"""The embedder of a flow over maps: a layer's maps are laid over the tokens, vectors are spread over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.flow.embedders.embedder import Embedder
from invariances.flow.layers import ActNorm

_HIDDEN, _SPREAD = 384, 16


class MapEmbedder(Embedder):
    """e = (a vector, a map over the tokens), flattened: (N, width · (1 + h · w)).

    Channels are normalised first, by the first batch seen in training mode. Maps pass a 1×1 convolution, are resized to
    twice the tokens (or to as many, where they have fewer), and pass a 3×3 convolution. Vectors pass two layers, whose
    outputs are the vector and 16 channels at each token.

    Args:
        shape: (C,) or (C, H, W).
        width: Of the tokens.
        grid: (h, w), how many there are.
        probabilities: As of `Embedder`.
    """

    def __init__(
        self, shape: Sequence[int], width: int, grid: tuple[int, int], probabilities: bool = False
    ) -> None:
        super().__init__(shape, width * (1 + grid[0] * grid[1]), probabilities)
        self.grid = grid
        self.norm = ActNorm(shape[0]).requires_grad_(False)
        self.maps = len(shape) == 3
        if self.maps:
            self.finer = max(shape[1:]) > max(grid)
            self.first: nn.Module = nn.Conv2d(shape[0], width, 1)
            self.over = nn.Conv2d(width, width, 3, 2 if self.finer else 1, padding=1)
            self.vector = nn.Linear(width, width)
        else:
            self.first = nn.Sequential(nn.Linear(shape[0], _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN))
            self.spread = nn.Linear(_HIDDEN, _SPREAD * grid[0] * grid[1])
            self.over = nn.Conv2d(_SPREAD, width, 1)
            self.vector = nn.Linear(_HIDDEN, width)

    def embed(self, read: Tensor) -> Tensor:
        """(N, width · (1 + h · w)) of what `read` gave."""
        normalised = self.norm(read)
        if self.maps:
            sides = [2 * side if self.finer else side for side in self.grid]
            hidden = F.interpolate(self.first(normalised), sides, mode="bilinear", antialias=True)
            hidden = F.silu(hidden)
            over, vector = self.over(hidden), self.vector(hidden.mean(dim=(2, 3)))
        else:
            hidden = F.silu(self.first(normalised))
            over = self.over(F.silu(self.spread(hidden)).view(-1, _SPREAD, *self.grid))
            vector = self.vector(hidden)
        return torch.cat([vector, over.flatten(2).transpose(1, 2).flatten(1)], dim=1)
