"""The complete code z̄ = E(x) of a picture, and back: autoencoders trained here, and the published ones."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from .posterior import DiagonalGaussian
from .storage import load_vae, save_autoencoder
from .vae import VAE

__all__ = ["VAE", "DiagonalGaussian", "load_autoencoder", "save_autoencoder"]


def load_autoencoder(path: str | os.PathLike[str]) -> nn.Module:
    """The autoencoder at `path`, or of that name in the zoo: frozen, float32, in eval mode.

    It has `latent_dim`, `image_size`, `encode(images)` -> posterior, `decode(latents)` -> images in [-1, 1], and
    `fingerprint()`.

    Args:
        path: a file or folder of `fit-autoencoder`, or a name that `invariances models list` shows.

    Raises:
        UserError: there is no such file or name, or the file is damaged or of another kind.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "autoencoder.safetensors"
    if place.exists() or place.suffix or len(place.parts) > 1:
        return load_vae(place)
    from invariances import zoo

    autoencoder: nn.Module = zoo.load(str(path))
    return autoencoder
