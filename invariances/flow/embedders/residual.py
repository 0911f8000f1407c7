"""Residual networks that read a representation of any shape: for embedders that regress latents, and for probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from invariances.flow.layers import ActNorm
from invariances.flow.residual_block import ResidualBlock
from invariances.system.errors import UserError

Norm = Literal["batch", "group"]
_LARGEST = 32
"""Maps larger than this are halved by the first block already."""
_LONGEST = 2048
"""Longer vectors are not whitened: the matrix alone would outweigh the network."""


class Whitening(nn.Module):
    """y = W (x − μ) of vectors (N, C): never learns, W = I and μ = 0 until `whiten_embedder` sets them.

    A gradient barely speaks of directions in which the inputs barely vary; as strong as the others, they are found in
    fewer steps (docs/shapes.md).
    """

    weight: Tensor
    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(channels, channels).fill_diagonal_(1.0))
        self.register_buffer("mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) → (N, C)."""
        return (x - self.mean) @ self.weight.T

    def extra_repr(self) -> str:
        """Channels."""
        return f"{self.mean.numel()}"


def gives_maps(shape: Sequence[int]) -> bool:
    """Whether a representation of this shape (without batch) is one of maps, not a vector."""
    return len(shape) == 3 and tuple(shape[1:]) != (1, 1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels or more."""
    groups = max(1, channels // 16)
    return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)


def residual_network(shape: Sequence[int], width: int, outputs: int, norm: Norm) -> nn.Sequential:
    """(N, *shape) → (N, outputs), the last layer linear.

    Maps are never pooled: residual blocks, most of stride 2, lead to less than 8×8 (of 64×64 to 4×4), which one linear
    layer reads as they are. Vectors pass two hidden layers of 16 · `width` units; with "group", after a `Whitening`.

    Args:
        shape: (C, H, W) or (C,).
        width: Of the first of the halving blocks; later ones have up to four times as many channels.
        outputs: Length of what is read.
        norm: "batch" normalises by the batch; "group" each item by itself, after an ActNorm of the input.

    Raises:
        UserError: `shape` is of neither kind.
    """
    if len(shape) not in (1, 3):
        raise UserError(f"a representation has the shape (C,) or (C, H, W), not {tuple(shape)}")
    if gives_maps(shape):
        layers, length = _of_maps(shape, width, norm)
    else:
        layers, length = [nn.Flatten(), *_of_vectors(shape[0], width, norm)], hidden_units(width)
    return nn.Sequential(*layers, nn.Linear(length, outputs))


def hidden_units(width: int) -> int:
    """In the layers that vectors pass."""
    return 16 * width


def _of_vectors(inputs: int, width: int, norm: Norm) -> list[nn.Module]:
    hidden = hidden_units(width)

    def layer(inputs: int) -> list[nn.Module]:
        after: nn.Module = nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden)
        return [nn.Linear(inputs, hidden), after, nn.ReLU()]

    first: list[nn.Module]
    if norm == "batch":
        first = [nn.BatchNorm1d(inputs, affine=False)]
    else:
        whitened = [Whitening(inputs)] if inputs <= _LONGEST else []
        first = [*whitened, ActNorm(inputs)]
    return [*first, *layer(inputs), *layer(hidden)]


def _of_maps(shape: Sequence[int], width: int, norm: Norm) -> tuple[list[nn.Module], int]:
    """The layers up to a flat one, and its length."""
    channels, side, across = shape
    each = nn.BatchNorm2d if norm == "batch" else group_norm
    layers: list[nn.Module] = [
        nn.BatchNorm2d(channels, affine=False) if norm == "batch" else ActNorm(channels)
    ]
    if channels > 3:
        stride = 2 if min(side, across) > _LARGEST else 1
        layers.append(ResidualBlock(channels, 2 * width, stride, each))
        channels, side, across = 2 * width, -(-side // stride), -(-across // stride)
    stage = 0
    while min(side, across) >= 8:
        wide = width * min(2**stage, 4)
        if channels <= 3:
            layers += [nn.Conv2d(channels, wide, 3, 2, 1), each(wide), nn.ReLU()]
        else:
            layers.append(ResidualBlock(channels, wide, 2, each))
        channels, side, across, stage = wide, (side + 1) // 2, (across + 1) // 2, stage + 1
    layers.append(ResidualBlock(channels, 4 * width, 1, each))
    return [*layers, nn.Flatten()], 4 * width * side * across
