"""What an autoencoder must have to stand in an interpreter: bring your own."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from invariances.autoencoder.posterior import DiagonalGaussian


@runtime_checkable
class Autoencoder(Protocol):
    """The complete code z̄ = E(x) of a picture, and D(z̄) back; an nn.Module, so that it moves to a device.

    Any module with these is taken wherever the package takes an autoencoder: `fit(..., autoencoder=module)`,
    `Interpreter(representation, module, flow)`. Its weights are frozen and never saved by the package.

        class Mine(nn.Module):
            image_size, latent_shape, latent_dim = 64, (4, 8, 8), 256

            def encode(self, images):
                mean = self.network.encode(images)
                return DiagonalGaussian(mean, torch.full_like(mean, -6))

            def decode(self, latents):
                return self.network.decode(latents).clamp(-1, 1)

            def fingerprint(self):
                return "mine, of 28 November"

    Attributes:
        image_size: Side of its pictures in pixels.
        latent_shape: (D,) or (C, H, W), of a latent without batch.
        latent_dim: D, numbers of a latent.
    """

    @property
    def image_size(self) -> int:
        """Side of its pictures in pixels."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(D,) or (C, H, W)."""

    @property
    def latent_dim(self) -> int:
        """The product of `latent_shape`."""

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior of pictures (N, 3, S, S) in [-1, 1]; its moments have the shape (N, *latent_shape)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) in [-1, 1] of latents (N, *latent_shape)."""

    def fingerprint(self) -> str:
        """Equal for equal behaviour alone: by it a cache and a saved flow know their autoencoder."""
