"""The velocity of a flow over small maps: a transformer over their places, told time and representation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.flow.config import HEADS

MOST_SIDE = 8
"""A map with longer sides is cut into patches, so that there are no more than 8 × 8 tokens."""
_FREQUENCIES = 32
_PARTS = 6


def patch_of(height: int, width: int) -> int:
    """Side of the patches that tokens are made of: the smallest power of two that leaves 8 × 8 tokens or fewer."""
    patch = 1
    while max(height, width) > MOST_SIDE * patch and height % (2 * patch) == 0 and width % (2 * patch) == 0:
        patch *= 2
    return patch


def grid_of(height: int, width: int) -> tuple[int, int]:
    """(h, w), how many tokens a map has."""
    patch = patch_of(height, width)
    return height // patch, width // patch


class MapVelocity(nn.Module):
    """x̂(y, s | e), (N, C, H, W): what a noisy map y = s x + (1 − s) ε is guessed to be without its noise.

    A transformer over tokens, one for each place (or patch) of the map. Each block attends, mixes neighbours by a 3×3
    depthwise convolution and passes an MLP; s and e's vector scale, shift and gate it, e's map is added to the tokens
    at first and again at each block. Sources: Peebles & Xie 2023 for the modulation; Li & He 2025, "Back to basics:
    let denoising generative models denoise", for guessing x.

    Args:
        channels: C.
        height: H.
        breadth: W.
        width: Of the tokens; a multiple of `HEADS`.
        blocks: How many.
    """

    frequencies: Tensor

    def __init__(self, channels: int, height: int, breadth: int, width: int, blocks: int) -> None:
        super().__init__()
        self.patch = patch_of(height, breadth)
        self.grid = grid_of(height, breadth)
        self.width = width
        entries = channels * self.patch**2
        turns = 2 * math.pi * np.logspace(-2, 1.2, _FREQUENCIES)
        self.register_buffer("frequencies", torch.from_numpy(turns.astype(np.float32)))
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(entries, width)
        self.place = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], width).uniform_(-0.035, 0.035))
        self.blocks = nn.ModuleList(_Block(width, self.grid) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.last = nn.Linear(width, entries)
        for each in (self.modulation, self.last):
            nn.init.zeros_(each.weight)
            nn.init.zeros_(each.bias)

    @property
    def condition(self) -> int:
        """E, entries of e: a vector of `width`, and as many for each token."""
        return self.width * (1 + self.grid[0] * self.grid[1])

    def forward(self, y: Tensor, time: Tensor, e: Tensor | None = None) -> Tensor:
        """(N, C, H, W) of y (N, C, H, W), times s (N,) in [0, 1] and e (N, E); None is told nothing."""
        phase = time[:, None] * self.frequencies
        given = self.time(torch.cat([phase.sin(), phase.cos()], dim=1))
        tokens = self.first(F.pixel_unshuffle(y, self.patch).flatten(2).transpose(1, 2)) + self.place
        spread = None
        if e is not None:
            given = given + e[:, : self.width]
            spread = e[:, self.width :].view(len(e), -1, self.width)
            tokens = tokens + spread
        given = F.silu(given)
        for block in self.blocks:
            tokens = block(tokens, given, spread)
        scale, shift = self.modulation(given)[:, None].chunk(2, dim=2)
        guess = self.last(self.norm(tokens) * (1 + scale) + shift)
        return F.pixel_shuffle(guess.transpose(1, 2).unflatten(2, self.grid), self.patch)


class _Block(nn.Module):
    """t + a · attention(m₁(t)), then t + conv(t), then t + b · MLP(m₂(t)); m normalises, scales and shifts."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, _PARTS * width)
        self.told = nn.Linear(width, width, bias=False)
        self.attention = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.neighbours = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        for each in (self.modulation, self.told, self.neighbours):
            nn.init.zeros_(each.weight)
        for bias in (self.modulation.bias, self.neighbours.bias):
            assert bias is not None
            nn.init.zeros_(bias)

    def forward(self, tokens: Tensor, given: Tensor, spread: Tensor | None) -> Tensor:
        """(N, T, width) to the same."""
        scale, shift, gate, scale_mlp, shift_mlp, gate_mlp = self.modulation(given)[:, None].chunk(_PARTS, 2)
        read = self.norm(tokens) * (1 + scale) + shift
        if spread is not None:
            read = read + self.told(spread)
        tokens = tokens + gate * self._attend(read)
        grid = tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid)
        tokens = tokens + self.neighbours(grid).flatten(2).transpose(1, 2)
        hidden = self.mlp(self.norm(tokens) * (1 + scale_mlp) + shift_mlp)
        out: Tensor = tokens + gate_mlp * hidden
        return out

    def _attend(self, tokens: Tensor) -> Tensor:
        count, places, width = tokens.shape
        q, k, v = self.attention(tokens).view(count, places, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        mixed: Tensor = self.mixed((weights @ v).transpose(1, 2).reshape(count, places, width))
        return mixed
