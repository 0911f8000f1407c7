"""A network under study by name: its module, weights, preprocessing and class names.

Names are looked up among the published and shipped classifiers (`invariances.zoo`, with the published preprocessing and
short layer names), then torchvision, then timm; `torchvision/NAME` and `timm/NAME` say which where several know one. A
name that ends in `.safetensors` is a file of `save_classifier`, such as quickstart leaves. Any nn.Module is taken too.
A module may say how it wants its images and what its layers and classes are called, by the attributes `preprocessing`
(a mapping with the fields of `Preprocessing`), `layer_aliases` (alias -> layer) and `class_names`.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invariances.representation.preprocessing import Preprocessing
from invariances.system.errors import UserError, nearest
from invariances.system.files import offline
from invariances.system.weights import fit_weights, load_weights

UNTRAINED = "random"


@dataclass(frozen=True)
class Network:
    """A frozen module in eval mode and what is known about it; `name` is None for a user's own module."""

    module: nn.Module
    title: str
    name: str | None = None
    weights: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: list[str] | None = None
    aliases: dict[str, str] = field(default_factory=dict)


def find(network: str | nn.Module, weights: str | os.PathLike[str] | None = None) -> Network:
    """The network of a name, or a private copy of a module: frozen, in eval mode, with its weights.

    Args:
        network: a name, a classifier's file, or any nn.Module, which is copied: the one given stays as it is.
        weights: path of a safetensors file or checkpoint; "random" for an untrained network (the same one every
            time); a torchvision weights name ("IMAGENET1K_V2"); None for the published weights, or a module's own.

    Raises:
        UserError: for unknown names, weights that cannot be had, and files that do not fit.
    """
    weights = None if weights is None else os.fspath(weights)
    if isinstance(network, nn.Module):
        found = _from_module(network, weights)
    elif isinstance(network, str):
        found = _by_name(network, weights)
    else:
        raise UserError(f"a network is a name or an nn.Module, not {type(network).__name__}.")
    found.module.eval().requires_grad_(False)
    return found


def names() -> list[str]:
    """Every name that `find` knows: published and shipped classifiers, torchvision's, timm's (where installed)."""
    return [*_zoo_names(), *dict.fromkeys([*_torchvision_names(), *_timm_names()])]


def _by_name(name: str, weights: str | None) -> Network:
    if name.endswith(".safetensors"):
        return _from_file(name, weights)
    source, _, rest = name.partition("/")
    if source == "torchvision" and rest in _torchvision_names():
        return _from_torchvision(name, rest, weights)
    if source == "timm" and _in_timm(rest):
        return _from_timm(name, rest, weights)
    if name in _zoo_names() and not _is_torchvision_weights(name, weights):
        return _from_zoo(name, weights)
    if name in _torchvision_names():
        return _from_torchvision(name, name, weights)
    if _in_timm(name):
        return _from_timm(name, name, weights)
    hint = "" if _timm() else "; more names come with `pip install timm`"
    raise UserError(f"network {name!r} is unknown; the nearest names are {nearest(name, names())}{hint}.")


def _from_file(path: str, weights: str | None) -> Network:
    from invariances.zoo.small_resnet import load_classifier

    if weights is not None:
        raise UserError(
            f"{path} comes with its weights; leave out weights={weights!r}, or give a network by name."
        )
    module = load_classifier(path)
    said = Preprocessing.of(module.preprocessing)
    return Network(module, Path(path).stem, path, preprocessing=said, class_names=_class_names(module))


def _from_module(module: nn.Module, weights: str | None) -> Network:
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    title = type(module).__name__
    try:
        module = copy.deepcopy(module)
    except Exception as error:
        raise UserError(
            f"the module {title} cannot be copied ({_short(error)}), and a Representation works on a copy so that "
            "yours stays as it is; call .detach() on tensors that it keeps, or build it anew."
        ) from error
    if weights == UNTRAINED:
        raise UserError(
            f"weights={UNTRAINED!r} needs a network by name; {title} has the weights that it has."
        )
    if weights is not None:
        module, _ = load_weights(module, weights, title)
    said = getattr(module, "preprocessing", None)
    if not isinstance(said, Mapping):
        said = _timm_preprocessing(module) or {}
    return Network(
        module,
        title,
        weights=weights,
        preprocessing=Preprocessing.of(said),
        class_names=_class_names(module),
        aliases=dict(getattr(module, "layer_aliases", {})),
    )


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models())


def _from_torchvision(given: str, name: str, weights: str | None) -> Network:
    from torchvision import models

    published = models.get_model_weights(name)
    named = published.__members__.get(weights or "DEFAULT", None)
    entry = named or published.__members__.get("DEFAULT")
    transform = {"transform_input": weights != UNTRAINED} if name in ("googlenet", "inception_v3") else {}

    def build(**classes: int) -> nn.Module:
        return _torchvision_module(name, **transform, **classes)

    module = build()
    class_names = entry.meta.get("categories") if entry else None
    if weights == UNTRAINED:
        class_names = None
    elif named:
        module = fit_weights(module, _fetched(named, name), named.url, name)
    elif weights is None:
        raise UserError(f"torchvision publishes no weights for {name}; pass weights=PATH or {UNTRAINED!r}.")
    else:
        module, class_names = _loaded(module, weights, name, lambda n: build(num_classes=n), class_names)
    return Network(module, name, given, weights, _torchvision_preprocessing(entry), class_names)


def _torchvision_module(name: str, **options: Any) -> nn.Module:
    """Untrained."""
    from torchvision import models

    accepted = inspect.signature(models.get_model_builder(name)).parameters
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # scipy's truncated normal takes a minute
    if "weights_backbone" in accepted:
        options["weights_backbone"] = None
    return _seeded(lambda: models.get_model(name, weights=None, **options))


def _is_torchvision_weights(name: str, weights: str | None) -> bool:
    from torchvision import models

    return name in _torchvision_names() and weights in models.get_model_weights(name).__members__


def _torchvision_preprocessing(entry: Any) -> Preprocessing:
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


def _fetched(entry: Any, name: str) -> Mapping[str, Tensor]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / entry.url.rsplit("/", 1)[-1]
    advice = f"put {entry.url} into {str(folder)!r} by hand, or pass weights=PATH (or {UNTRAINED!r})"
    if offline() and not file.exists():
        raise UserError(f"the weights of {name} are not here, and INVARIANCES_OFFLINE is set; {advice}.")
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # the network's, the file's, and whatever broken bytes lead the unpickler to
        raise UserError(f"the weights of {name} could not be fetched ({_short(error)}); {advice}.") from error
    return state


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        return None
    return timm


def _timm_names() -> list[str]:
    timm = _timm()
    return list(timm.list_models()) if timm else []


def _in_timm(name: str) -> bool:
    timm = _timm()
    return bool(timm and timm.is_model(name))


def _from_timm(given: str, name: str, weights: str | None) -> Network:
    timm = _timm()

    def build(**classes: int) -> nn.Module:
        return _seeded(lambda: timm.create_model(name, pretrained=False, **classes))

    module = build()
    class_names = _imagenet_names() if getattr(module, "num_classes", None) == 1000 else None
    if weights == UNTRAINED:
        class_names = None
    elif weights is None:
        module = _pretrained_timm(name, getattr(module, "pretrained_cfg", None) or {})
    else:
        module, class_names = _loaded(module, weights, name, lambda n: build(num_classes=n), class_names)
    return Network(
        module, name, given, weights, Preprocessing.of(_timm_preprocessing(module) or {}), class_names
    )


def _pretrained_timm(name: str, configuration: Mapping[str, Any]) -> nn.Module:
    where, url = configuration.get("hf_hub_id"), configuration.get("url")
    if not where and not url:
        raise UserError(f"timm publishes no weights for {name}; pass weights=PATH or {UNTRAINED!r}.")
    source = f"https://huggingface.co/{where}/resolve/main/model.safetensors" if where else url
    advice = f"fetch {source} by hand and pass weights=PATH (or {UNTRAINED!r})"
    if offline():
        raise UserError(f"INVARIANCES_OFFLINE is set, so timm may not fetch the weights of {name}; {advice}.")
    try:
        module: nn.Module = _timm().create_model(name, pretrained=True)
    except Exception as error:  # timm, its hub client and its transport raise kinds of their own
        raise UserError(f"the weights of {name} could not be fetched ({_short(error)}); {advice}.") from error
    return module


def _timm_preprocessing(module: nn.Module) -> dict[str, Any] | None:
    configuration = getattr(module, "pretrained_cfg", None)
    timm = _timm()
    if timm is None or not configuration:
        return None
    resolved = timm.data.resolve_data_config(pretrained_cfg=dict(configuration), model=module)
    return {"size": resolved["input_size"][1:], **{k: resolved[k] for k in ("mean", "std", "interpolation")}}


def _zoo_names() -> list[str]:
    from invariances import zoo

    return zoo.names("classifier")


def _from_zoo(name: str, weights: str | None) -> Network:
    from invariances import zoo

    entry = zoo.entry(name)
    architecture = entry.get("architecture", {})
    class_names = _imagenet_names() if architecture.get("classes") == 1000 and weights != UNTRAINED else None
    if weights is None:
        module = zoo.load(name)
    elif "package" in entry:
        raise UserError(
            f"{name} comes with its weights; leave out weights={weights!r}, or give another network."
        )
    else:
        module = _seeded(lambda: zoo.build(name))
    if weights not in (None, UNTRAINED):
        assert weights is not None
        module, class_names = _loaded(
            module,
            weights,
            name,
            lambda n: _torchvision_module(architecture["name"], num_classes=n),
            class_names,
        )
    said = entry.get("preprocessing") or getattr(module, "preprocessing", {})
    return Network(
        module,
        name,
        name,
        weights,
        Preprocessing.of(said),
        class_names or _class_names(module),
        dict(entry.get("aliases", {})),
    )


def untrained(network: str | nn.Module) -> str | None:
    """The `weights` with which a network can be had without a download: its own, if it ships, is a file or a module."""
    if isinstance(network, nn.Module) or network.endswith(".safetensors"):
        return None
    from invariances import zoo

    return None if network in _zoo_names() and "package" in zoo.entry(network) else UNTRAINED


def _class_names(module: nn.Module) -> list[str] | None:
    said = getattr(module, "class_names", None) or getattr(module, "classes", None)
    return [str(each) for each in said] if isinstance(said, (list, tuple)) else None


def _loaded(
    module: nn.Module,
    path: str,
    title: str,
    rebuild: Callable[[int], nn.Module],
    class_names: list[str] | None,
) -> tuple[nn.Module, list[str] | None]:
    """The module with a file's weights, and its class names where they are still true."""
    filled, metadata = load_weights(module, path, title, rebuild)
    if "classes" in metadata:
        class_names = [str(each) for each in json.loads(metadata["classes"])]
    elif filled is not module:
        class_names = None
    return filled, class_names


def _imagenet_names() -> list[str]:
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def _seeded(build: Callable[[], Any]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = build()
    return module


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
