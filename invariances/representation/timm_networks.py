"""Networks of timm by name, and those that others put on the Hugging Face hub for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from invariances.representation.given_weights import weighted
from invariances.representation.network import (
    UNTRAINED,
    Network,
    Weights,
    imagenet_names,
    recipe,
    seeded,
    short,
)
from invariances.representation.preprocessing import Preprocessing
from invariances.system.errors import UserError
from invariances.system.files import offline

HUB = "hf-hub:"


def timm_or_none() -> Any:
    """The library, where it is installed."""
    try:
        import timm
    except ImportError:
        return None
    return timm


def timm_names() -> list[str]:
    """All names."""
    timm = timm_or_none()
    return list(timm.list_models()) if timm else []


def in_timm(name: str) -> bool:
    """Whether timm can build the network."""
    timm = timm_or_none()
    return bool(timm and timm.is_model(name))


def from_timm(given: str, name: str, weights: Weights) -> Network:
    """The network `name`, or `hf-hub:OWNER/NAME`; `given` is what the user called it.

    Raises:
        UserError: it or its weights cannot be had, or do not fit.
    """
    timm = timm_or_none()

    def build(**classes: int) -> nn.Module:
        return seeded(lambda: timm.create_model(name, pretrained=False, **classes))

    module = _from_hub(name, weights is None) if name.startswith(HUB) else build()
    class_names = imagenet_names() if getattr(module, "num_classes", None) == 1000 else None
    lacking: tuple[str, ...] = ()
    if weights == UNTRAINED:
        class_names = None
    elif weights is None:
        if not name.startswith(HUB):
            module = _pretrained(name, getattr(module, "pretrained_cfg", None) or {})
    else:
        module, class_names, lacking = weighted(
            module, weights, name, lambda classes: build(num_classes=classes), class_names
        )
    return Network(
        module,
        name.rsplit("/", 1)[-1],
        *recipe(given, weights),
        Preprocessing.of(timm_preprocessing(module) or {}),
        class_names,
        lacking=lacking,
    )


def _from_hub(name: str, pretrained: bool) -> nn.Module:
    """A network whose description lies on the hub beside its weights."""
    where = f"https://huggingface.co/{name.removeprefix(HUB)}"
    timm = timm_or_none()
    if timm is None:
        raise UserError(f"{name!r} is a network of timm's; install it by `pip install timm`")
    if offline():
        raise UserError(
            f"INVARIANCES_OFFLINE is set, so {name!r} may not be fetched; give a network by a name of timm's and "
            f"weights=PATH of the model.safetensors of {where}"
        )
    try:
        return seeded(lambda: timm.create_model(name, pretrained=pretrained))
    except Exception as error:  # timm, its hub client and its transport raise kinds of their own
        raise UserError(f"{where} could not be fetched as a network of timm's ({short(error)})") from error


def _pretrained(name: str, configuration: Mapping[str, Any]) -> nn.Module:
    where, url = configuration.get("hf_hub_id"), configuration.get("url")
    if not where and not url:
        raise UserError(f"timm publishes no weights for {name}; pass weights=PATH or {UNTRAINED!r}.")
    source = f"https://huggingface.co/{where}/resolve/main/model.safetensors" if where else url
    advice = f"fetch {source} by hand and pass weights=PATH (or {UNTRAINED!r})"
    if offline():
        raise UserError(f"INVARIANCES_OFFLINE is set, so timm may not fetch the weights of {name}; {advice}.")
    try:
        module: nn.Module = timm_or_none().create_model(name, pretrained=True)
    except Exception as error:  # timm, its hub client and its transport raise kinds of their own
        raise UserError(f"the weights of {name} could not be fetched ({short(error)}); {advice}.") from error
    return module


def timm_preprocessing(module: nn.Module) -> dict[str, Any] | None:
    """How a network of timm's wants its images; None for others."""
    configuration = getattr(module, "pretrained_cfg", None)
    timm = timm_or_none()
    if timm is None or not configuration:
        return None
    resolved = timm.data.resolve_data_config(pretrained_cfg=dict(configuration), model=module)
    return {"size": resolved["input_size"][1:], **{k: resolved[k] for k in ("mean", "std", "interpolation")}}
