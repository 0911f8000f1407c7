"""The VAE as a file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from invariances.autoencoder.vae import VAE
from invariances.system.errors import UserError
from invariances.system.network_file import read_network, save_network


def save_autoencoder(
    autoencoder: VAE, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Path:
    """Write weights and architecture to one safetensors file, whole or not at all; the path is returned.

    Args:
        autoencoder: the VAE to keep.
        path: the file to write; its folder is made.
        dtype: torch.float16 halves the file; loading gives float32 again.

    Raises:
        UserError: the place cannot be written to.
    """
    return save_network(path, {"name": "vae", **autoencoder.config}, autoencoder.state_dict(), dtype)


def load_vae(path: str | os.PathLike[str]) -> VAE:
    """The VAE in a file of `save_autoencoder`, float32, frozen, in eval mode.

    Raises:
        UserError: the file is missing, truncated, no safetensors file, or holds another kind of network.
    """
    architecture, tensors = read_network(
        path, "vae", "autoencoder", "train one with `invariances fit-autoencoder`"
    )
    try:
        vae = VAE(**architecture)
        vae.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"the weights in {path} do not fit the architecture it names; it is damaged: {error}"
        ) from error
    return vae.requires_grad_(False).eval()
