"""Networks of this project as files: safetensors whose metadata names the architecture."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from invariances.system.errors import UserError
from invariances.system.files import atomic


def save_network(
    path: str | os.PathLike[str],
    architecture: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write tensors, architecture and notes to one safetensors file, whole or not at all.

    Args:
        path: the file to write; its folder is made.
        architecture: JSON-able, with the kind of network as `name`.
        tensors: a state dict.
        dtype: of the floating-point tensors in the file; torch.float16 halves it.
        notes: JSON-able facts to keep beside the architecture (a test accuracy, a recipe).

    Returns:
        The path.

    Raises:
        UserError: the place cannot be written to.
    """
    path = Path(path)
    metadata = {"architecture": json.dumps(architecture), "notes": json.dumps(notes or {})}
    stored = {
        name: each.detach().cpu().to(dtype if each.is_floating_point() else each.dtype).contiguous()
        for name, each in tensors.items()
    }
    try:
        with atomic(path) as draft:
            save_file(stored, draft, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} cannot be written: {error}") from error
    return path


def read_network(
    path: str | os.PathLike[str], name: str | Collection[str], kind: str, remedy: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The architecture and the tensors, floating-point ones as float32, of `save_network`'s file.

    Args:
        path: the file.
        name: the architecture's name that it must have, or several: the architecture then keeps its `name`.
        kind: what the file should hold, for errors.
        remedy: how to come by one, for errors.

    Raises:
        UserError: the file is missing, truncated, no safetensors file, or holds another kind of network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no {kind} at {path}; {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            architecture = _described(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); {remedy}") from error
    names = [name] if isinstance(name, str) else list(name)
    found = architecture.get("name")
    if isinstance(name, str):
        architecture.pop("name", None)
    if found not in names:
        raise UserError(f"{path} holds no {kind}; {remedy}")
    return architecture, {
        key: each.float() if each.is_floating_point() else each for key, each in tensors.items()
    }


def _described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The architecture in a file's metadata; nothing where others wrote it, who mean other things by the word."""
    try:
        said = json.loads(metadata.get("architecture", "{}"))
    except json.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}
