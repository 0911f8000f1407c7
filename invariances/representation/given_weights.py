"""Weights as users give them: files, state dicts, torchvision's enums and their names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from torch import nn

from invariances.representation.network import UNTRAINED, Weights
from invariances.representation.torchvision_weights import fetched, published_entry
from invariances.system.errors import UserError
from invariances.system.weights import fit_weights, load_weights, state_dict_in


def weights_of(given: Any) -> Weights:
    """The weights that a user gave, as this room passes them on.

    Raises:
        UserError: it is nothing of the kind.
    """
    if given is None or isinstance(given, Mapping):
        return given
    if isinstance(given, Enum) and published_entry(named := f"{type(given).__name__}.{given.name}"):
        return named
    if isinstance(given, (str, os.PathLike)) and os.fspath(given):
        return os.fspath(given)
    advice = "its state_dict()" if isinstance(given, nn.Module) else "None for the published ones"
    kind = type(given).__name__ if isinstance(given, nn.Module) else repr(given)
    raise UserError(
        f"weights is {kind}; give the path of a file, a state dict, a torchvision weights enum, {UNTRAINED!r}, or "
        f"{advice}."
    )


def weighted(
    module: nn.Module,
    weights: str | Mapping[str, Any],
    title: str,
    rebuild: Callable[[int], nn.Module] | None = None,
    class_names: list[str] | None = None,
) -> tuple[nn.Module, list[str] | None, tuple[str, ...]]:
    """The module with weights of a file, a state dict or a torchvision enum.

    Args:
        module: untrained, or with weights that are replaced.
        weights: as of `Weights`.
        title: the network's, for errors.
        rebuild: gives the module for another number of classes.
        class_names: those that are true where the file says nothing and has as many classes.

    Returns:
        The module, its class names, and the weights that were missing.
    """
    if isinstance(weights, str) and (entry := published_entry(weights)):
        filled = fit_weights(module, fetched(entry, str(entry)), entry.url, title, rebuild)
        class_names = list(entry.meta.get("categories") or []) or None
        return filled.module, class_names, filled.lacking
    if isinstance(weights, Mapping):
        source = "the given state dict"
        filled = fit_weights(module, state_dict_in(weights, source), source, title, rebuild)
    else:
        filled = load_weights(module, weights, title, rebuild)
    said = _said_classes(filled.metadata)
    if said is not None:
        class_names = said
    elif filled.module is not module:
        class_names = None
    return filled.module, class_names, filled.lacking


def _said_classes(metadata: Mapping[str, str]) -> list[str] | None:
    """The names in a file's metadata, where they are a list as this package writes it; others mean other things."""
    try:
        said = json.loads(metadata.get("classes", ""))
    except json.JSONDecodeError:
        return None
    return [str(each) for each in said] if isinstance(said, list) else None
