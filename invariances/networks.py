"""A network under study by name: its module, weights, preprocessing and class names.

Names are looked up among the published and shipped classifiers (`invariances.zoo`), then torchvision, then timm;
`torchvision/NAME` and `timm/NAME` say which where both know one. Any nn.Module is taken too. A module may say how it
wants its images and what its layers and classes are called, by the attributes `preprocessing` (a mapping with the
fields of `Preprocessing`), `layer_aliases` (alias -> layer) and `class_names`.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import fit_weights, load_weights
from .errors import UserError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
UNTRAINED = "random"


@dataclass(frozen=True)
class Preprocessing:
    """From images in [-1, 1] of any size to what a network takes: the whole picture resized, then normalised.

    Args:
        size: side in pixels, or (height, width).
        mean, std: of each channel, for values in [0, 1].
        interpolation: nearest, bilinear or bicubic.
        antialias: smooth before making images smaller.
    """

    size: int | tuple[int, int] = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"interpolation {self.interpolation!r} is unknown; use {nearest(self.interpolation, INTERPOLATIONS)}."
            )
        if min(self.shape) < 1 or min(self.std) <= 0 or not {len(self.mean), len(self.std)} <= {1, 3}:
            raise UserError(
                f"preprocessing to size {self.size} with mean {self.mean} and std {self.std} is impossible: give a "
                "size of at least 1, and one or three means and positive standard deviations."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, images: Tensor) -> Tensor:
        """(resize((images + 1) / 2) - mean) / std: (N, 3, H, W) in [-1, 1] to network inputs; differentiable."""
        x = images
        if tuple(x.shape[-2:]) != self.shape:
            smooth = self.interpolation != "nearest"
            x = nn.functional.interpolate(
                x,
                self.shape,
                mode=self.interpolation,
                align_corners=False if smooth else None,
                antialias=self.antialias and smooth,
            )
        mean, std = (x.new_tensor(each).view(1, -1, 1, 1) for each in (self.mean, self.std))
        return ((x + 1) / 2 - mean) / std

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From a mapping with some of the fields; others keep their defaults."""
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in values.items() if key in known and value is not None}
        size = values.get("size", cls.size)
        if not isinstance(size, int):
            sides = tuple(int(side) for side in size)
            values["size"] = sides[0] if len(set(sides)) == 1 else sides
        for key in ("mean", "std"):
            if key in values:
                given = values[key]
                values[key] = (
                    tuple(float(v) for v in given) if isinstance(given, Sequence) else (float(given),)
                )
        return cls(**values)


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
        network: a name, or any nn.Module, which is copied: the one given stays as it is.
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
    source, _, rest = name.partition("/")
    if source == "torchvision" and rest in _torchvision_names():
        return _from_torchvision(name, rest, weights)
    if source == "timm" and _in_timm(rest):
        return _from_timm(name, rest, weights)
    if name in _zoo_names():
        return _from_zoo(name, weights)
    if name in _torchvision_names():
        return _from_torchvision(name, name, weights)
    if _in_timm(name):
        return _from_timm(name, name, weights)
    hint = "" if _timm() else "; more names come with `pip install timm`"
    raise UserError(f"network {name!r} is unknown; the nearest names are {nearest(name, names())}{hint}.")


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
    class_names = getattr(module, "class_names", None)
    return Network(
        module,
        title,
        weights=weights,
        preprocessing=Preprocessing.of(said),
        class_names=list(class_names) if class_names else None,
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
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "transform_input": weights != UNTRAINED}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options = {"weights_backbone": None}

    def build(**classes: int) -> nn.Module:
        return _seeded(lambda: models.get_model(name, weights=None, **options, **classes))

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
    if _offline() and not file.exists():
        raise UserError(f"the weights of {name} are not here, and INVARIANCES_OFFLINE is set; {advice}.")
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
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
    if _offline():
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
    return []


def _from_zoo(name: str, weights: str | None) -> Network:
    raise NotImplementedError(name)


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


def _offline() -> bool:
    return os.environ.get("INVARIANCES_OFFLINE", "").lower() not in ("", "0", "false")


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
