"""Flows by name: which network, layer and autoencoder each belongs to, shipped and published ones alike.

A shipped file holds several layers of one network; a published checkpoint holds one. Both answer to their own name
and, with a layer, to their network's: `shapes_shape` at `stage3`, `alexnet` at `fc6`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invariances.system.errors import UserError, nearest
from invariances.zoo.registry import entry, fetch, names, path

if TYPE_CHECKING:
    from torch import Tensor

    from invariances.flow.flow import ConditionalFlow
    from invariances.flow.layered import LayeredFlow

_KIND, _LAYERED = "Flows", "LayeredFlow"


@dataclass(frozen=True)
class Offer:
    """One flow that has a name.

    Attributes:
        name: In the registry; several layers may share it.
        network, layer, autoencoder: What it belongs to, by name; the last may be a generator without encoder.
    """

    name: str
    network: str
    layer: str
    autoencoder: str

    @property
    def encodes(self) -> bool:
        """Whether pictures have latents: not where the decoder is a generator."""
        return bool(entry(self.autoencoder)["kind"] == "autoencoder")

    @property
    def files(self) -> list[str]:
        """Registered names of everything that it needs."""
        return [self.name, self.network, self.autoencoder]

    @property
    def one_flow(self) -> bool:
        """Whether one flow has all of its layers."""
        return bool(entry(self.name).get("one_flow"))

    @property
    def shown(self) -> str | None:
        """The layer to look at first, where one is the best to begin with."""
        found = entry(self.name).get("shown")
        return None if found is None else str(found)

    @property
    def here(self) -> bool:
        """Whether all of it is on this machine."""
        return all(path(each).is_file() for each in self.files)


def offers(network: str | None = None) -> list[Offer]:
    """Every flow that has a name, or those of one network: shipped ones first, layers in the registry's order.

    Shipped ones whose file is not there (an installation without weights) are left out.
    """
    found = []
    for kind in ("interpreter", "flow"):
        for name in names(kind):
            each = entry(name)
            if "package" in each and not path(name).is_file():
                continue
            layers = each["layers"] if kind == "interpreter" else [each["layer"]]
            found += [Offer(name, each["network"], layer, each["autoencoder"]) for layer in layers]
    return [each for each in found if network in (None, each.network)]


def knows(name: str) -> bool:
    """Whether `find_offer` finds something of that name."""
    return any(name in (each.name, each.network) for each in offers())


def find_offer(name: str, layer: str | None = None) -> Offer:
    """The flow of a name and layer.

    Args:
        name: Of the flow, or of its network.
        layer: May be left out where there is but one, or where one flow has all: then its first.

    Raises:
        UserError: There is none, or there are several; names them.
    """
    found = [each for each in offers() if name in (each.name, each.network)]
    if not found:
        known = dict.fromkeys([*(each.network for each in offers()), *(each.name for each in offers())])
        raise UserError(
            f"{name!r} is neither a run's folder nor an interpreter's name; nearest: {nearest(name, known)}; "
            "`invariances models list` shows all"
        )
    layers = list(dict.fromkeys(each.layer for each in found))
    if layer is None and len(found) > 1 and not found[0].one_flow:
        raise UserError(f"{name} has flows for several layers; choose one: --layer {' | '.join(layers)}")
    fitting = [each for each in found if layer in (None, each.layer)]
    if not fitting:
        raise UserError(f"{name} has no flow for layer {layer!r}; it has {nearest(str(layer), layers)}")
    return fitting[0]


def layers_of(name: str) -> list[str]:
    """The layers of a network, or of an interpreter's name, that have shipped or published flows."""
    return list(dict.fromkeys(each.layer for each in offers() if name in (each.name, each.network)))


def examples(network: str) -> tuple[Tensor, list[str]] | None:
    """Pictures (N, 3, S, S) in [-1, 1] to show a network's flows on, and their classes; None where none ship.

    They are samples that the flow drew itself for its first layer, told of photos that may not ship.
    """
    found = [entry(each.name) for each in offers() if network in (each.name, each.network)]
    shown = next((each for each in found if "examples" in each), None)
    if shown is None:
        return None
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(Path(__file__).parent / shown["examples"]) as picture:
        strip = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
    return torch.stack(torch.split(strip, strip.shape[1], dim=2)), list(shown["example_names"])


def load_flow(offer: Offer, progress: bool = True) -> tuple[ConditionalFlow | LayeredFlow, dict[str, Any]]:
    """The flow, in eval mode, and what it says about itself: fingerprints of network and autoencoder, where known.

    Raises:
        UserError: Its file cannot be had, is damaged, or holds another.
    """
    if entry(offer.name)["kind"] == "interpreter":
        return read_flow(fetch(offer.name, progress), offer.layer)
    from invariances.flow.flow import ConditionalFlow
    from invariances.zoo.loading import load

    flow = load(offer.name, progress)
    assert isinstance(flow, ConditionalFlow)
    return flow, {}


def save_flows(file: str | os.PathLike[str], flows: Mapping[str, tuple[Any, Mapping[str, str]]]) -> Path:
    """Several layers' flows in one float16 file: layer → (flow, fingerprints of its network and autoencoder)."""
    import torch

    from invariances.system.network_file import save_network

    tensors: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for layer, (flow, notes) in flows.items():
        told[layer] = {"flow": flow.spec(), **notes}
        tensors |= {f"{layer}/{key}": each for key, each in flow.state_dict().items()}
    return save_network(file, {"name": _KIND, "flows": told}, tensors, torch.float16)


def save_layered(
    file: str | os.PathLike[str], flow: LayeredFlow, notes: Mapping[str, Mapping[str, str]]
) -> Path:
    """One flow for several layers in a float16 file: `notes` has, by layer, its network's and autoencoder's prints."""
    import torch

    from invariances.system.network_file import save_network

    told = {layer: dict(notes[layer]) for layer in flow.layers}
    architecture = {"name": _LAYERED, "flow": flow.spec(), "flows": told}
    return save_network(file, architecture, flow.state_dict(), torch.float16)


def layers_in(file: str | os.PathLike[str]) -> list[str]:
    """The layers that a file of flows holds."""
    return list(_read(file)[0]["flows"])


def read_flow(
    file: str | os.PathLike[str], layer: str
) -> tuple[ConditionalFlow | LayeredFlow, dict[str, Any]]:
    """What a file of flows has for a layer, as of `load_flow`.

    Raises:
        UserError: The file is damaged, or has no such layer.
    """
    from invariances.flow.flow import ConditionalFlow
    from invariances.flow.layered import LayeredFlow

    found, tensors = _read(file)
    told = found["flows"]
    if layer not in told:
        raise UserError(f"{Path(file).name} holds no flow for layer {layer!r}; it has {nearest(layer, told)}")
    notes = dict(told[layer])
    if found["name"] == _LAYERED:
        return LayeredFlow.restored(found["flow"], tensors).eval().requires_grad_(False), notes
    start = f"{layer}/"
    state = {key.removeprefix(start): each for key, each in tensors.items() if key.startswith(start)}
    flow = ConditionalFlow.restored(notes.pop("flow"), state)
    return flow.eval().requires_grad_(False), notes


def _read(file: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    from invariances.system.network_file import read_network

    remedy = "install again, or make it with `invariances models build`"
    return read_network(file, (_KIND, _LAYERED), "file of flows", remedy)
