"""A network under study by name: its module, weights, preprocessing and class names.

Names are looked up among the published and shipped classifiers (`invariances.zoo`, with the published preprocessing and
short layer names), then torchvision, then timm. `torchvision/NAME` and `timm/NAME` say which where several know one;
`hf_hub:OWNER/NAME` is a network of timm's on the Hugging Face hub. A name that ends in `.safetensors` is a file of
`save_classifier`, such as quickstart leaves. Any nn.Module is taken too. It may say how it wants its images and what
its layers and classes are called, by the attributes `preprocessing` (a mapping with the fields of `Preprocessing`),
`layer_aliases` (alias -> layer) and `class_names`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from invariances.representation.given_weights import weighted, weights_of
from invariances.representation.network import (
    UNTRAINED,
    Network,
    Weights,
    class_names_of,
    freeze,
    imagenet_names,
    recipe,
    seeded,
    short,
)
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.timm_networks import (
    HUB,
    from_timm,
    in_timm,
    timm_names,
    timm_or_none,
    timm_preprocessing,
)
from invariances.representation.torchvision_networks import (
    from_torchvision,
    torchvision_names,
    untrained_torchvision,
)
from invariances.representation.torchvision_weights import published_entry
from invariances.system.errors import UserError, nearest

_HUB = re.compile(r"hf[-_]hub[:/](.+)")


def find(network: Any, weights: Any = None) -> Network:
    """The network of a name, or a private copy of a module: frozen, in eval mode, with its weights.

    Args:
        network: a name, a classifier's file, or any nn.Module, which is copied: the one given stays as it is.
        weights: path of a safetensors file or checkpoint; a state dict; "random" for an untrained network (the same
            one every time); torchvision's weights as an enum or its name ("IMAGENET1K_V2"); None for the published
            weights, or a module's own.

    Raises:
        UserError: for unknown names, weights that cannot be had, and files that do not fit.
    """
    given = weights_of(weights)
    if isinstance(network, nn.Module):
        found = _from_module(network, given)
    elif isinstance(network, str):
        found = _by_name(network, given)
    elif isinstance(network, type) and issubclass(network, nn.Module):
        raise UserError(f"{network.__name__} is a class; give a network of it: {network.__name__}(…).")
    else:
        raise UserError(f"a network is a name or an nn.Module, not {type(network).__name__}.")
    freeze(found.module)
    return found


def names() -> list[str]:
    """Every name that `find` knows: published and shipped classifiers, torchvision's, timm's (where installed)."""
    return [*_zoo_names(), *dict.fromkeys([*torchvision_names(), *timm_names()])]


def _by_name(name: str, weights: Weights) -> Network:
    if name.endswith(".safetensors"):
        return _from_file(name, weights)
    hub = _HUB.fullmatch(name)
    source, _, rest = (hub[1] if hub else name).partition("/")
    if source == "timm" and in_timm(rest):
        return from_timm(name, rest, weights)
    if hub:
        return from_timm(name, HUB + hub[1], weights)
    if source == "torchvision" and rest in torchvision_names():
        return from_torchvision(name, rest, weights)
    if name in _zoo_names() and not _is_torchvision_weights(name, weights):
        return _from_zoo(name, weights)
    if name in torchvision_names():
        return from_torchvision(name, name, weights)
    if in_timm(name):
        return from_timm(name, name, weights)
    hint = "" if timm_or_none() else "; more names come with `pip install timm`"
    raise UserError(f"network {name!r} is unknown; the nearest names are {nearest(name, names())}{hint}.")


def _from_file(path: str, weights: Weights) -> Network:
    from invariances.zoo.small_resnet import load_classifier

    if weights is not None:
        shown = "a state dict" if isinstance(weights, Mapping) else repr(weights)
        raise UserError(
            f"{path} comes with its weights; leave out weights={shown}, or give a network by name."
        )
    module = load_classifier(path)
    said = Preprocessing.of(module.preprocessing)
    return Network(module, Path(path).stem, path, preprocessing=said, class_names=class_names_of(module))


def bare(module: nn.Module) -> nn.Module:
    """The module inside of what torch.compile, DataParallel and DistributedDataParallel wrap around it."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _unwrap_children(module: nn.Module) -> None:
    """Takes wrappers out of a module, so that its layers have their own names."""
    for name, child in module.named_children():
        inner = bare(child)
        if inner is not child:
            setattr(module, name, inner)
        _unwrap_children(inner)


def _from_module(module: nn.Module, weights: Weights) -> Network:
    module = bare(module)
    title = type(module).__name__
    tensors = [*module.parameters(), *module.buffers()]
    if any(is_lazy(each) for each in tensors):
        raise UserError(
            f"{title} has lazy layers without weights; run it once on a batch before you give it."
        )
    if any(each.is_meta for each in tensors):
        raise UserError(f"{title} is on the meta device, where weights have no values; load them first.")
    try:
        with torch.no_grad():  # a copy of TorchScript's parameters would otherwise depend on them
            module = copy.deepcopy(module)
    except Exception as error:
        raise UserError(
            f"the module {title} cannot be copied ({short(error)}), and a Representation works on a copy so that "
            "yours stays as it is; call .detach() on tensors that it keeps, or build it anew."
        ) from error
    _unwrap_children(module)
    if weights == UNTRAINED:
        raise UserError(
            f"weights={UNTRAINED!r} needs a network by name; {title} has the weights that it has."
        )
    lacking: tuple[str, ...] = ()
    class_names = class_names_of(module)
    if weights is not None:
        module, class_names, lacking = weighted(module, weights, title, class_names=class_names)
    said = getattr(module, "preprocessing", None)
    if not isinstance(said, Mapping):
        said = timm_preprocessing(module) or {}
    return Network(
        module,
        title,
        weights=weights if isinstance(weights, str) else None,
        preprocessing=Preprocessing.of(said),
        class_names=class_names,
        aliases=dict(getattr(module, "layer_aliases", {})),
        lacking=lacking,
    )


def _is_torchvision_weights(name: str, weights: Weights) -> bool:
    if not isinstance(weights, str) or name not in torchvision_names():
        return False
    return published_entry(weights, name) is not None


def _zoo_names() -> list[str]:
    from invariances import zoo

    return zoo.names("classifier")


def _from_zoo(name: str, weights: Weights) -> Network:
    from invariances import zoo

    entry = zoo.entry(name)
    architecture = entry.get("architecture", {})
    class_names = imagenet_names() if architecture.get("classes") == 1000 and weights != UNTRAINED else None
    lacking: tuple[str, ...] = ()
    if weights is None:
        module = zoo.load(name)
    elif "package" in entry:
        shown = "a state dict" if isinstance(weights, Mapping) else repr(weights)
        raise UserError(f"{name} comes with its weights; leave out weights={shown}, or give another network.")
    else:
        module = seeded(lambda: zoo.build(name))
        if weights != UNTRAINED:
            module, class_names, lacking = weighted(
                module,
                weights,
                name,
                lambda classes: untrained_torchvision(architecture["name"], num_classes=classes),
                class_names,
            )
    said = entry.get("preprocessing") or getattr(module, "preprocessing", {})
    return Network(
        module,
        name,
        *recipe(name, weights),
        Preprocessing.of(said),
        class_names or class_names_of(module),
        dict(entry.get("aliases", {})),
        lacking,
    )


def untrained(network: str | nn.Module) -> str | None:
    """The `weights` with which a network can be had without a download: its own, if it ships, is a file or a module."""
    if not isinstance(network, str) or network.endswith(".safetensors"):
        return None
    from invariances import zoo

    return None if network in _zoo_names() and "package" in zoo.entry(network) else UNTRAINED
