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
    from invariances.flow.flow import ConditionalFlow

_KIND = "Flows"


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
        layer: May be left out where there is but one.

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
    if layer is None and len(found) > 1:
        raise UserError(f"{name} has flows for several layers; choose one: --layer {' | '.join(layers)}")
    fitting = [each for each in found if layer in (None, each.layer)]
    if not fitting:
        raise UserError(f"{name} has no flow for layer {layer!r}; it has {nearest(str(layer), layers)}")
    return fitting[0]


def load_flow(offer: Offer, progress: bool = True) -> tuple[ConditionalFlow, dict[str, Any]]:
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


def layers_in(file: str | os.PathLike[str]) -> list[str]:
    """The layers that a file of `save_flows` holds."""
    return list(_read(file)[0])


def read_flow(file: str | os.PathLike[str], layer: str) -> tuple[ConditionalFlow, dict[str, Any]]:
    """One layer of a file of `save_flows`, as of `load_flow`.

    Raises:
        UserError: The file is damaged, or has no such layer.
    """
    from invariances.flow.flow import ConditionalFlow

    told, tensors = _read(file)
    if layer not in told:
        raise UserError(f"{Path(file).name} holds no flow for layer {layer!r}; it has {nearest(layer, told)}")
    notes, start = dict(told[layer]), f"{layer}/"
    state = {key.removeprefix(start): each for key, each in tensors.items() if key.startswith(start)}
    flow = ConditionalFlow.restored(notes.pop("flow"), state)
    return flow.eval().requires_grad_(False), notes


def _read(file: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    from invariances.system.network_file import read_network

    remedy = "install again, or make it with `invariances models build shapes`"
    architecture, tensors = read_network(file, _KIND, "file of flows", remedy)
    return architecture["flows"], tensors
