"""Building and loading what is registered."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invariances.system.checks import text
from invariances.system.errors import UserError
from invariances.zoo.registry import entry, fetch, path, registry

if TYPE_CHECKING:
    from torch import nn


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
    from invariances.zoo.published import load_published as load_into

    return load_into(module, state_dict)


def load(name: str, progress: bool = True) -> nn.Module:
    """The model of that name: downloaded once, verified, loaded, frozen, in eval mode.

    Raises:
        UserError: the name is unknown, or its file cannot be had, is damaged, or is of another architecture.
    """
    found = entry(name)
    if "package" in found:
        return _load_shipped(name, found)
    from invariances.system.weights import read_state_dict

    if found.get("architecture", {}).get("name") == "tiny":
        from invariances.autoencoder.tiny import TinyAutoencoder

        return TinyAutoencoder.from_file(fetch(name, progress))
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


def _load_shipped(name: str, found: Mapping[str, Any]) -> nn.Module:
    if found["kind"] == "interpreter":
        raise UserError(
            f"{name} holds flows for several layers; use Interpreter.load({name!r}, layer={found['layers'][0]!r})"
        )
    file = fetch(name)
    module: nn.Module
    if found["kind"] == "autoencoder":
        from invariances.zoo.loading import load_autoencoder

        module = load_autoencoder(file)
    elif found["kind"] == "reader":
        from invariances.zoo.factor_reader import load_readers

        module = load_readers(file, ["reader"])["reader"]
    else:
        from invariances.zoo.small_resnet import load_classifier

        module = load_classifier(file)
        _describe(module, found)
    return module.requires_grad_(False).eval()


def _describe(module: nn.Module, found: Mapping[str, Any]) -> None:
    """Attach what a Representation wants to know of a classifier."""
    for key, attribute in (
        ("preprocessing", "preprocessing"),
        ("aliases", "layer_aliases"),
        ("class_names", "class_names"),
    ):
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


def _flow(
    latent_dim: int, representation_shape: Sequence[int], embedder_depth: int = 4, **sizes: Any
) -> nn.Module:
    from invariances.flow.config import EmbedderConfig, FlowConfig
    from invariances.flow.flow import ConditionalFlow

    config = FlowConfig(**sizes, embedder=EmbedderConfig(depth=embedder_depth))
    return ConditionalFlow(config, (latent_dim,), representation_shape)


def _bigae(**architecture: Any) -> nn.Module:
    from invariances.autoencoder.bigae import BigAE

    return BigAE(**architecture)


def _biggan(**architecture: Any) -> nn.Module:
    from invariances.autoencoder.biggan import BigGAN

    return BigGAN(**architecture)


def _tiny(**architecture: Any) -> nn.Module:
    from invariances.autoencoder.tiny import TinyAutoencoder

    return TinyAutoencoder(**architecture)


def _dequantiser(**architecture: Any) -> nn.Module:
    from invariances.autoencoder.dequantiser import Dequantiser

    return Dequantiser(**architecture)


def _lpips(backbone: str) -> nn.Module:
    from invariances.autoencoder.lpips import LPIPS

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
    "tiny": _tiny,
    "lpips": _lpips,
    **{name: _torchvision(name) for name in ("alexnet", "resnet50", "resnet101", "vgg16")},
}


def load_autoencoder(path: str | os.PathLike[str]) -> nn.Module:
    """The autoencoder at `path`, or of that name in the zoo: frozen, float32, in eval mode.

    What it has, `invariances.autoencoder.interface.Autoencoder` says.

    Args:
        path: a name that `invariances models list` shows, or `pixels`, of 64 or (`pixels32`) any other side; or a file
            or folder of `fit-autoencoder`, or a published file of taesd or taef2. A folder of a name is `./NAME`.
            `hf_hub:OWNER/MODEL@SIZE` is one of diffusers' (extra `hub`), as is a folder of its `save_pretrained`.

    Raises:
        UserError: there is no such file or name, or the file is damaged or of another kind.
    """
    from invariances.autoencoder.hub import is_diffusers, load_hub

    name, place = os.fspath(path), Path(path)
    text("autoencoder", name)
    if is_diffusers(name):
        return load_hub(name)
    pixels = re.fullmatch(r"pixels(\d*)", name)
    named = pixels is not None or name in registry()
    if named and place.exists():
        print(f"{name} is the autoencoder of that name; what lies here is ./{name}", file=sys.stderr)
    if place.is_dir():
        place = place / "autoencoder.safetensors"
    if not named and (place.exists() or place.suffix or len(place.parts) > 1):
        from invariances.autoencoder.storage import load_saved
        from invariances.autoencoder.tiny import TinyAutoencoder, is_tiny

        return TinyAutoencoder.from_file(place) if is_tiny(place) else load_saved(place)
    autoencoder: nn.Module
    if pixels:
        from invariances.autoencoder.pixels import Pixels

        autoencoder = Pixels(int(pixels[1] or 64)).eval()
    else:
        autoencoder = load(name)
    autoencoder.published_name = name  # type: ignore[assignment]
    return autoencoder
