"""Networks of torchvision by name, with the weights that it publishes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from invariances.representation.given_weights import weighted
from invariances.representation.network import UNTRAINED, Network, Weights, recipe, seeded
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.torchvision_weights import fetched, published_entry
from invariances.system.errors import UserError
from invariances.system.weights import fit_weights


def torchvision_names() -> list[str]:
    """All names."""
    from torchvision import models

    return list(models.list_models())


def from_torchvision(given: str, name: str, weights: Weights) -> Network:
    """The network `name`; `given` is what the user called it.

    Raises:
        UserError: weights cannot be had, or do not fit.
    """
    from torchvision import models

    entry = published_entry(weights, name) if isinstance(weights, str) else None
    default = models.get_model_weights(name).__members__.get("DEFAULT")
    if weights is None:
        entry = default
    described = entry or default
    transform = {"transform_input": weights != UNTRAINED} if name in ("googlenet", "inception_v3") else {}

    def build(**classes: int) -> nn.Module:
        return untrained_torchvision(name, **transform, **classes)

    lacking: tuple[str, ...] = ()
    module = build()
    class_names = described.meta.get("categories") if described else None
    if weights == UNTRAINED:
        class_names = None
    elif entry:
        module = fit_weights(module, fetched(entry, name), entry.url, name).module
    elif weights is None:
        raise UserError(f"torchvision publishes no weights for {name}; pass weights=PATH or {UNTRAINED!r}.")
    else:
        module, class_names, lacking = weighted(
            module, weights, name, lambda classes: build(num_classes=classes), class_names
        )
    return Network(
        module, name, *recipe(given, weights), _preprocessing(described), class_names, lacking=lacking
    )


def untrained_torchvision(name: str, **options: Any) -> nn.Module:
    """The network, the same random weights every time."""
    from torchvision import models

    accepted = inspect.signature(models.get_model_builder(name)).parameters
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # scipy's truncated normal takes a minute
    if "weights_backbone" in accepted:
        options["weights_backbone"] = None
    return seeded(lambda: models.get_model(name, weights=None, **options))


def _preprocessing(entry: Any) -> Preprocessing:
    preset = entry.transforms() if entry else None
    size = getattr(preset, "crop_size", None) or getattr(preset, "resize_size", None) or [224]
    return Preprocessing.of(
        {
            "size": size if len(size) > 1 else size[0],
            "mean": getattr(preset, "mean", None),
            "std": getattr(preset, "std", None),
            "interpolation": getattr(getattr(preset, "interpolation", None), "value", None),
        }
    )
