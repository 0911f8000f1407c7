"""The complete code z̄ = E(x) of a picture, and back."""

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.autoencoder.storage import load_saved, save_autoencoder
from invariances.autoencoder.vae import VAE

__all__ = ["VAE", "DiagonalGaussian", "load_saved", "save_autoencoder"]
