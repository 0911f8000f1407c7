"""Pixels as their own code: nothing is lost, for small pictures and for checks of exactness."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.system.errors import UserError

_STEP = 2 / 255
"""Between two grey levels."""


class Pixels(nn.Module):
    """E(x) = x and D(z̄) = z̄, exactly; a latent that is drawn lies within a grey level or so of its pixel.

    The posterior has the variance of uniform dequantisation, (2/255)² / 12: −log₂ p(z̄) / D + log₂ 127.5 then compares
    with the bits per dimension of grey levels that are usual for densities of pictures.

    Args:
        size: Side of the pictures.
    """

    place: Tensor

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"pictures of size {size} are not possible; give at least 1")
        self.config = {"size": size}
        self.register_buffer("place", torch.zeros(()), persistent=False)

    @property
    def image_size(self) -> int:
        """Side of its pictures in pixels."""
        return self.config["size"]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return 3, self.image_size, self.image_size

    @property
    def latent_dim(self) -> int:
        """Numbers of a picture."""
        return math.prod(self.latent_shape)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The pictures (N, 3, S, S), as a posterior's mean."""
        return DiagonalGaussian(images, torch.full_like(images, math.log(_STEP**2 / 12)))

    def decode(self, latents: Tensor) -> Tensor:
        """The latents (N, 3, S, S), as they are: outside [-1, 1] too."""
        return latents

    def forward(self, images: Tensor) -> Tensor:
        """The pictures."""
        return images

    def fingerprint(self) -> str:
        """Says its size."""
        return f"pixels {self.image_size}, dequantised"
