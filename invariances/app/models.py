"""Interpreters for the pages: chosen by network and layer, shared by all visitors, unloaded to make room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st
import torch

from invariances.flow.maps import Maps
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError
from invariances.system.machine import bfloat16
from invariances.zoo.interpreters import Offer, offers

T = TypeVar("T")

_BYTES = 2_000_000_000
_NETWORKS = 3

LABELS = {
    "shapes_shape": "Drawn shapes · trained on shape",
    "shapes_texture": "Drawn shapes · trained on texture",
    "alexnet_animals": "Photos of animals · AlexNet",
    "alexnet": "AlexNet · ImageNet",
    "resnet50": "ResNet-50 · ImageNet",
    "resnet50_trained_on_SIN": "ResNet-50 · Stylized ImageNet",
    "resnet50_trained_on_SIN_and_IN": "ResNet-50 · Stylized and ImageNet",
    "resnet50_trained_on_SIN_and_IN_then_finetuned_on_IN": "ResNet-50 · Stylized, then ImageNet",
    "resnet101_animalfaces_10": "ResNet-101 · ten animal faces",
}


class Loaded:
    """One network's interpreters, which share the network and the autoencoder.

    Args:
        network: Its name.
        device: Where they live.
    """

    def __init__(self, network: str, device: str) -> None:
        self.network, self.device = network, device
        self._lock = threading.Lock()
        self._layers: OrderedDict[str, Interpreter] = OrderedDict()
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def kept(self, key: tuple[str, str], make: Callable[[], T]) -> T:
        """What belongs to this network, made once; sixteen such things are kept."""
        if key not in self._kept:
            self._kept[key] = make()
        while len(self._kept) > 16:
            self._kept.popitem(last=False)
        return self._kept.get(key) or make()

    def at(self, layer: str) -> Interpreter:
        """The interpreter of a layer; those least used go when they take too much room together."""
        with self._lock:
            if layer not in self._layers:
                self._layers[layer] = self._made(layer, next(iter(self._layers.values()), None))
            self._layers.move_to_end(layer)
            while len(self._layers) > 1 and sum(map(_size, self._layers.values())) > _BYTES:
                self._layers.popitem(last=False)
            return self._layers[layer]

    def _made(self, layer: str, first: Interpreter | None) -> Interpreter:
        if first is not None and layer in first.layers:
            return first.at(layer)
        network, autoencoder = (None, None) if first is None else (first.representation, first.autoencoder)
        made = Interpreter.load(self.network, network, autoencoder, layer)
        if isinstance(made.flow.transform, Maps):
            made.flow.transform.fast = self.device == "cpu" and bfloat16()
        return made.to(self.device)


def _size(interpreter: Interpreter) -> int:
    return sum(each.numel() * each.element_size() for each in interpreter.flow.parameters())


@st.cache_resource(max_entries=_NETWORKS, show_spinner=False)
def loaded(network: str, device: str) -> Loaded:
    """One network's interpreters; the app keeps three networks."""
    return Loaded(network, device)


def networks(encodes: bool = True) -> list[str]:
    """The networks that are offered: those at hand first, and among them those whose flow makes pictures."""
    found = [each for each in offers() if each.encodes or not encodes]
    found.sort(key=lambda each: (not each.here, not each.one_flow))
    return list(dict.fromkeys(each.network for each in found))


def painters() -> list[str]:
    """The networks at hand whose flow makes pictures when it is told nothing."""
    return list(dict.fromkeys(each.network for each in offers() if each.here and each.one_flow))


def label(network: str) -> str:
    """A network's name for people."""
    return LABELS.get(network, network.replace("_", " "))


def choose_network() -> str:
    """The select box of networks."""
    names = networks()
    if not names:
        raise UserError("no interpreter is installed; install the package again, or train one")
    return select_network("Network", names, "network")


def select_network(title: str, names: Sequence[str], key: str) -> str:
    """A select box of networks, which links name by their labels."""
    return str(st.selectbox(title, names, format_func=label, key=key, bind="query-params"))


def layers(network: str) -> list[str]:
    """The layers that a network has flows for whose pictures have latents."""
    return [each.layer for each in offers(network) if each.encodes]


def choose_layer(network: str) -> str:
    """The select box of a network's layers; first the one its flow says, else the last but one."""
    known = layers(network)
    said = [each.shown for each in offers(network) if each.shown in known]
    first = known.index(said[0]) if said else max(0, len(known) - 2)
    return str(st.selectbox("Layer", known, index=first, key="layer", bind="query-params"))


def choose_device() -> str:
    """A switch, where there is something to switch."""
    if torch.cuda.is_available():
        other = "cuda"
    elif torch.backends.mps.is_available():
        other = "mps"
    else:
        return "cpu"
    return other if st.toggle("Use the accelerator", True, key="accelerator", bind="query-params") else "cpu"


def pairs_of_networks() -> dict[str, tuple[Offer, list[Offer]]]:
    """Layers at which two networks share latents: layer → an offer, and those it can be compared with."""
    found: dict[str, tuple[Offer, list[Offer]]] = {}
    everything = offers()
    for one in everything:
        twins = [
            two
            for two in everything
            if (two.layer, two.autoencoder) == (one.layer, one.autoencoder) and two.network != one.network
        ]
        if twins:
            found[f"{one.network}/{one.layer}"] = (one, twins)
    return found
