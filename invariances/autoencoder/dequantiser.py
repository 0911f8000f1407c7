"""The dequantising VAE: class embeddings are 1000 points; its samples spread them into a density."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.flow.layers import mlp


class Dequantiser(nn.Module):
    """e' = D(z), z ~ q(z | e): a VAE of vectors, four MLPs of hidden depth 2 (decoder 3).

    A flow over latents that hold a discrete class embedding needs them spread out; this is how the published
    268-d code of BigGAN-256 was. Source: Rombach et al. 2020, appendix.

    Args:
        inputs: entries of e.
        latent_dim: entries of z.
        width: of the hidden layers.
    """

    def __init__(self, inputs: int = 128, latent_dim: int = 128, width: int = 4096) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = mlp(inputs, width, 2, inputs)
        self.mean = mlp(inputs, width, 2, latent_dim)
        self.logvar = mlp(inputs, width, 2, latent_dim)
        self.decoder = mlp(latent_dim, width, 3, inputs)

    def encode(self, embedding: Tensor) -> DiagonalGaussian:
        """The posterior of embeddings (N, D) or (N, D, 1, 1)."""
        h = self.encoder(embedding.flatten(1))
        return DiagonalGaussian(self.mean(h), self.logvar(h))

    def decode(self, latents: Tensor) -> Tensor:
        """Embeddings (N, D) of latents (N, latent_dim) or (N, latent_dim, 1, 1)."""
        embedding: Tensor = self.decoder(latents.flatten(1))
        return embedding

    def forward(self, embedding: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The embeddings (N, D), dequantised."""
        return self.decode(self.encode(embedding).sample(generator))
