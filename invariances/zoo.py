"""The registry of models: `zoo.json` says where each comes from and what it is; here they are built and loaded.

    invariances.zoo.names("flow")                       # registered names of a kind
    module = invariances.zoo.build("bigae_animals")     # its architecture, untrained
    invariances.zoo.load_published(module, state_dict)  # filled from a published state dict, strictly
    module = invariances.zoo.load("bigae_animals")      # downloaded once, verified, loaded, in eval mode

Published checkpoints lie below `$XDG_CACHE_HOME`, each at the `file` of its entry; models that ship with the package
have a `package` path instead of an address. A classifier carries `preprocessing` (size, mean, std, interpolation,
antialias) and `layer_aliases` (published layer name -> module name, `input`, `logits` or `softmax`) as attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn

KINDS = ("flow", "autoencoder", "generator", "classifier", "perceptual", "reader")


@cache
def registry() -> dict[str, dict[str, Any]]:
    """Name -> entry, in order: kind, title, address, md5 (or the start of sha256), size, file, architecture."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = json.loads(text)
    return entries


def names(kind: str | None = None) -> list[str]:
    """Registered names, all or of one kind.

    Raises:
        UserError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind {kind!r} is unknown; the kinds are {nearest(kind, KINDS)}.")
    return [name for name, each in registry().items() if kind in (None, each["kind"])]


def entry(name: str) -> dict[str, Any]:
    """What is registered under a name, with the name itself.

    Raises:
        UserError: the name is unknown; names the nearest.
    """
    if name not in registry():
        raise UserError(
            f"model {name!r} is unknown; the nearest names are {nearest(name, registry())}; "
            "`invariances models list` shows all."
        )
    return {"name": name, **registry()[name]}


def path(name: str) -> Path:
    """Where the model's file is, or would be after a download."""
    found = entry(name)
    if "package" in found:
        return Path(__file__).parent / str(found["package"])
    from .data.download import cache_folder

    return cache_folder() / str(found["file"])


def build(name: str) -> nn.Module:
    """The network with that checkpoint's architecture, untrained, in eval mode.

    Raises:
        UserError: the name is unknown, or belongs to a model that ships (`load` builds those from their own file).
    """
    found = entry(name)
    if "architecture" not in found:
        raise UserError(
            f"the architecture of {name!r} is written in its own file; use invariances.zoo.load({name!r})."
        )
    architecture = dict(found["architecture"])
    module = _BUILDERS[architecture.pop("name")](**architecture).eval()
    _describe(module, found)
    return module


def load_published(module: nn.Module, state_dict: Mapping[str, Any]) -> nn.Module:
    """Fill a module of `build` from a state dict with published names, strictly; see `published.load_published`."""
    from .published import load_published as load_into

    return load_into(module, state_dict)


def load(name: str, progress: bool = True) -> nn.Module:
    """The model of that name: downloaded once, verified, loaded, frozen, in eval mode.

    Raises:
        UserError: the name is unknown, or its file cannot be had, is damaged, or is of another architecture.
    """
    found = entry(name)
    if "package" in found:
        return _load_shipped(name, found)
    from .checkpoints import read_state_dict

    module = build(name)
    if found["kind"] == "perceptual":
        backbone, _ = read_state_dict(fetch(found["architecture"]["backbone"], progress))
        _fill_backbone(module, backbone)
    state, _ = read_state_dict(fetch(name, progress))
    try:
        load_published(module, state)
    except UserError as error:
        raise UserError(f"{path(name)} does not fit {name}: {error}") from error
    return module.requires_grad_(False)


def fetch(name: str, progress: bool = True) -> Path:
    """The model's file, downloaded if it is not there, and verified once.

    Raises:
        UserError: it cannot be had; says which file, with which checksum, to put where by hand.
    """
    found = entry(name)
    target = path(name)
    if "package" in found:
        if not target.is_file():
            raise UserError(
                f"{name} should come with the package and is not at {target}; install again, or run "
                f"`invariances models build {name}`."
            )
        return target
    from .data.download import download

    return download(
        found["address"],
        target,
        md5=found.get("md5"),
        sha256=found.get("sha256"),
        size=found.get("size"),
        progress=progress,
    )


def _load_shipped(name: str, found: Mapping[str, Any]) -> nn.Module:
    file = fetch(name)
    module: nn.Module
    if found["kind"] == "autoencoder":
        from .autoencoder import load_autoencoder

        module = load_autoencoder(file)
    elif found["kind"] == "reader":
        from .evaluation.factors import load_readers

        module = load_readers(file, ["reader"])["reader"]
    else:
        from .classifier import load_classifier

        module = load_classifier(file)
        _describe(module, found)
    return module.requires_grad_(False).eval()


def _describe(module: nn.Module, found: Mapping[str, Any]) -> None:
    """Attach what a Representation wants to know of a classifier."""
    for key, attribute in (("preprocessing", "preprocessing"), ("aliases", "layer_aliases")):
        if key in found:
            setattr(module, attribute, found[key])


def _fill_backbone(module: nn.Module, state: Mapping[str, Any]) -> None:
    backbone: Any = module.backbone
    backbone.load_state_dict(
        {
            name.removeprefix("features."): value
            for name, value in state.items()
            if name.startswith("features.")
        }
    )


def _flow(**architecture: Any) -> nn.Module:
    from .flow import ConditionalFlow

    return ConditionalFlow(**architecture)


def _bigae(**architecture: Any) -> nn.Module:
    from .autoencoder.bigae import BigAE

    return BigAE(**architecture)


def _biggan(**architecture: Any) -> nn.Module:
    from .autoencoder.biggan import BigGAN

    return BigGAN(**architecture)


def _dequantiser(**architecture: Any) -> nn.Module:
    from .autoencoder.dequantiser import Dequantiser

    return Dequantiser(**architecture)


def _lpips(backbone: str) -> nn.Module:
    from .autoencoder.lpips import LPIPS

    return LPIPS(backbone)


def _torchvision(name: str) -> Callable[..., nn.Module]:
    def make(classes: int) -> nn.Module:
        from torchvision import models

        module: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        return module

    return make


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "flow": _flow,
    "bigae": _bigae,
    "biggan": _biggan,
    "dequantiser": _dequantiser,
    "lpips": _lpips,
    **{name: _torchvision(name) for name in ("alexnet", "resnet50", "resnet101", "vgg16")},
}
