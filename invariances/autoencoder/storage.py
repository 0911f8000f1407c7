"""Autoencoders of this project as files."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from invariances.autoencoder.spatial import SpatialAutoencoder
from invariances.autoencoder.tiny import TinyAutoencoder
from invariances.autoencoder.vae import VAE
from invariances.system.errors import UserError
from invariances.system.network_file import read_network, save_network

Own = VAE | SpatialAutoencoder | TinyAutoencoder
KINDS: dict[str, type[Own]] = {"vae": VAE, "spatial": SpatialAutoencoder, "tiny": TinyAutoencoder}


def save_autoencoder(
    autoencoder: Own,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write weights and architecture to one safetensors file, whole or not at all; the path is returned.

    Args:
        autoencoder: what to keep.
        path: the file to write; its folder is made.
        dtype: torch.float16 halves the file; loading gives float32 again.

    Raises:
        UserError: the place cannot be written to, or the autoencoder is of no kind that has a file.
    """
    kind = next((name for name, each in KINDS.items() if type(autoencoder) is each), None)
    if kind is None:
        raise UserError(
            f"a {type(autoencoder).__name__} has no file format here; keep it yourself, and give it again as a module"
        )
    return save_network(path, {"name": kind, **autoencoder.config}, autoencoder.state_dict(), dtype)


def load_saved(path: str | os.PathLike[str]) -> Own:
    """The autoencoder in a file of `save_autoencoder`, float32, frozen, in eval mode.

    Raises:
        UserError: the file is missing, truncated, no safetensors file, or holds another kind of network.
    """
    architecture, tensors = read_network(
        path, list(KINDS), "autoencoder", "train one with `invariances fit-autoencoder`"
    )
    try:
        autoencoder = KINDS[architecture.pop("name")](**architecture)
        autoencoder.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"the weights in {path} do not fit the architecture it names; it is damaged: {error}"
        ) from error
    return autoencoder.requires_grad_(False).eval()
