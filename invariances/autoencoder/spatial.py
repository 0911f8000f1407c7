"""An autoencoder whose latents are small maps: an eighth of the picture's side, some numbers at each place."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.system.errors import UserError
from invariances.system.weights import weights_hash

NOISE = 0.05
"""Standard deviation of the posterior, which is the same everywhere."""
BOUND = 4.0
"""Latents lie in (-BOUND, BOUND)."""
FACTOR = 8
_WIDTHS = (48, 96, 128)
"""Channels at a half, a quarter and an eighth of the picture's side."""


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3×3; x itself at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class SpatialAutoencoder(nn.Module):
    """E(x) = N(B tanh(e(x) / B), NOISE²), D(z̄), both fully convolutional: (N, 3, H, W) to (N, C, H/8, W/8) and back.

    Most of its work is done at a quarter and an eighth of the picture's side.

    Args:
        size: Usual side of the pictures in pixels, a multiple of 8; others are encoded and decoded as well.
        channels: C.

    Raises:
        UserError: `size` is no multiple of 8, or `channels` not positive.
    """

    def __init__(self, size: int = 64, channels: int = 32) -> None:
        super().__init__()
        if size < FACTOR or size % FACTOR:
            raise UserError(
                f"a spatial autoencoder of size {size} is not possible; give a multiple of {FACTOR}"
            )
        if channels < 1:
            raise UserError(f"channels is {channels}; give at least 1")
        self.config: dict[str, Any] = {"size": size, "channels": channels}
        a, b, c = _WIDTHS
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, a, 3, padding=1),
            Residual(a),
            nn.Conv2d(a, b, 2, 2),
            Residual(b),
            Residual(b),
            nn.Conv2d(b, c, 2, 2),
            Residual(c),
            Residual(c),
            nn.Conv2d(c, channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, c, 3, padding=1),
            Residual(c),
            Residual(c),
            Residual(c),
            nn.Conv2d(c, 4 * b, 1),
            nn.PixelShuffle(2),
            Residual(b),
            Residual(b),
            nn.Conv2d(b, 4 * a, 1),
            nn.PixelShuffle(2),
            Residual(a),
            nn.ReLU(),
            nn.Conv2d(a, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.to(memory_format=torch.channels_last)

    @property
    def image_size(self) -> int:
        """Usual side of its pictures in pixels."""
        return int(self.config["size"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, size / 8, size / 8)."""
        side = self.image_size // FACTOR
        return int(self.config["channels"]), side, side

    @property
    def latent_dim(self) -> int:
        """Numbers of a latent at the usual size."""
        return math.prod(self.latent_shape)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior of pictures (N, 3, H, W) in [-1, 1], sides multiples of 8; its moments are maps.

        Raises:
            UserError: A side is no multiple of 8.
        """
        if images.shape[-1] % FACTOR or images.shape[-2] % FACTOR:
            raise UserError(
                f"pictures of {images.shape[-2]} × {images.shape[-1]} pixels cannot be encoded; sides must be "
                f"multiples of {FACTOR}"
            )
        raw = self.encoder(images.contiguous(memory_format=torch.channels_last)).float()
        mean = BOUND * torch.tanh(raw / BOUND)
        return DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(NOISE)))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] of latents (N, C, H/8, W/8)."""
        pictures: Tensor = self.decoder(latents)
        return pictures.clamp(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction D(mode of E(x)), in [-1, 1]."""
        return self.decode(self.encode(images).mode())

    def fingerprint(self) -> str:
        """A hash of architecture and weights: equal for equal behaviour, so that a cache knows its autoencoder."""
        return weights_hash(repr(sorted(self.config.items())), self.state_dict())
