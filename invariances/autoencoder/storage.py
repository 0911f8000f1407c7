"""Autoencoders as files: safetensors whose metadata names the architecture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from invariances.errors import UserError

from .vae import VAE


def save_autoencoder(
    autoencoder: VAE, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Path:
    """Write weights and architecture to one safetensors file, whole or not at all.

    Args:
        autoencoder: the VAE to keep.
        path: the file to write; its folder is made.
        dtype: torch.float16 halves the file; loading gives float32 again.

    Returns:
        The path.

    Raises:
        UserError: the place cannot be written to.
    """
    path = Path(path)
    metadata = {"architecture": json.dumps({"name": "vae", **autoencoder.config})}
    tensors = {
        name: each.detach().cpu().to(dtype).contiguous() for name, each in autoencoder.state_dict().items()
    }
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the autoencoder cannot be written to {path}: {error}") from error
    return path


def load_vae(path: str | os.PathLike[str]) -> VAE:
    """The VAE in a file of `save_autoencoder`, float32, frozen, in eval mode.

    Raises:
        UserError: the file is missing, truncated, no safetensors file, or holds another kind of network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no autoencoder at {path}; train one with `invariances fit-autoencoder`")
    try:
        with safe_open(path, framework="pt") as file:
            architecture: dict[str, Any] = json.loads((file.metadata() or {}).get("architecture", "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); train or copy the autoencoder again"
        ) from error
    if architecture.pop("name", None) != "vae":
        raise UserError(f"{path} holds no VAE of this project; give a file that `fit-autoencoder` wrote")
    try:
        vae = VAE(**architecture)
        vae.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"the weights in {path} do not fit the architecture it names; it is damaged: {error}"
        ) from error
    return vae.requires_grad_(False).eval()
