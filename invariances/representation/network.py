"""A network under study and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from invariances.representation.preprocessing import Preprocessing

UNTRAINED = "random"

Weights = str | Mapping[str, Any] | None
"""A path, a torchvision weights name, "random", a state dict, or None for the published ones or a module's own."""


@dataclass(frozen=True)
class Network:
    """A frozen module in eval mode and what is known about it.

    Args:
        module: the network.
        title: its name without a collection's or folder's before it, or a module's class.
        name: by which it can be had again; None for a user's own module.
        weights: with which it can be had again.
        preprocessing: how it wants its images.
        class_names: in the order of its logits, where they are known.
        aliases: other names of layers.
        lacking: weights that were not in its file and are NaN.
    """

    module: nn.Module
    title: str
    name: str | None = None
    weights: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: list[str] | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()


def recipe(name: str, weights: Weights) -> tuple[str | None, str | None]:
    """Name and weights as `Network` has them: a state dict cannot be had again, and so neither can the network."""
    return (None, None) if isinstance(weights, Mapping) else (name, weights)


def freeze(module: nn.Module) -> None:
    """Eval mode, no gradients to weights; a module's own `train` and `eval` may return what they like."""
    module.eval()
    for each in module.parameters():
        if each.requires_grad:  # asked, since the answer may not be changed inside of vmap
            each.requires_grad_(False)


def class_names_of(module: nn.Module) -> list[str] | None:
    """The names that a module has for its classes."""
    said = getattr(module, "class_names", None) or getattr(module, "classes", None)
    return [str(each) for each in said] if isinstance(said, (list, tuple)) else None


def imagenet_names() -> list[str]:
    """ImageNet's 1000 classes."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def seeded(build: Callable[[], Any]) -> nn.Module:
    """What `build` gives, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = build()
    return module


def short(error: BaseException) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
