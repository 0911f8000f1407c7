"""Interpreters for the pages: chosen by network and layer, shared by all visitors, unloaded to make room."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import streamlit as st
import torch

from invariances import zoo
from invariances.flow.maps import Maps
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError
from invariances.system.files import offline
from invariances.system.machine import bfloat16
from invariances.zoo.interpreters import Offer, find_offer, offers

T = TypeVar("T")

_BYTES = 2_000_000_000
_NETWORKS = 3

LABELS = {
    "shapes_shape": "Drawn shapes · trained on shape",
    "shapes_texture": "Drawn shapes · trained on texture",
    "alexnet_animals": "Photos of animals · AlexNet",
    "animals10": "Animal faces · ten kinds",
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
    found.sort(key=lambda each: (not each.here, not _paints(each)))
    return list(dict.fromkeys(each.network for each in found))


def painters() -> list[str]:
    """The networks at hand whose flow makes pictures when it is told nothing."""
    return list(dict.fromkeys(each.network for each in offers() if each.here and _paints(each)))


def _paints(offer: Offer) -> bool:
    return bool(zoo.entry(offer.name).get("one_flow"))


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
    """The select box of a network's layers, the last but one first: it shows the most at a glance."""
    known = layers(network)
    index = max(0, len(known) - 2)
    return str(st.selectbox("Layer", known, index=index, key="layer", bind="query-params"))


def choose_device() -> str:
    """A switch, where there is something to switch."""
    if torch.cuda.is_available():
        other = "cuda"
    elif torch.backends.mps.is_available():
        other = "mps"
    else:
        return "cpu"
    return other if st.toggle("Use the accelerator", True, key="accelerator", bind="query-params") else "cpu"


def ensure_here(network: str, layers: Sequence[str]) -> None:
    """Shows what has to be downloaded first, and ends the page until it is there."""
    missing = dict.fromkeys(
        name
        for layer in layers
        for name in find_offer(network, layer).files
        if not zoo.path(name).is_file() and "package" not in zoo.entry(name)
    )
    if not missing:
        return
    sizes = [zoo.entry(name).get("size") for name in missing]
    known = sum(size or 0 for size in sizes)
    amount = f"about {known / 1e6:,.0f} MB and more" if known else "some hundred MB"
    with st.container(border=True, key="download"):
        st.markdown(f"**{label(network)}** was published with the paper and is not on this machine yet.")
        st.caption(f"{len(missing)} files, {amount}: {', '.join(missing)}")
        if offline():
            st.info("Downloads are switched off here (INVARIANCES_OFFLINE).", icon=":material/cloud_off:")
        elif st.button("Download", icon=":material/download:", type="primary"):
            _download(list(missing))
    st.stop()


def _download(names: list[str]) -> None:
    slot = st.empty()
    st.button("Stop", key="stop-download", icon=":material/stop_circle:")
    for name in names:
        failed: list[UserError] = []

        def fetch(name: str = name, failed: list[UserError] = failed) -> None:
            try:
                zoo.fetch(name, progress=False)
            except UserError as error:
                failed.append(error)

        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        size, part = zoo.entry(name).get("size"), zoo.path(name)
        while thread.is_alive():
            draft = part.with_name(part.name + ".part")
            got = draft.stat().st_size if draft.exists() else 0
            share = min(1.0, got / size) if size else 0.0
            slot.progress(share, f"{name}: {got / 1e6:,.0f}{f' of {size / 1e6:,.0f}' if size else ''} MB")
            time.sleep(0.2)
        if failed:
            slot.error(f"{name} could not be fetched; check the connection, and press Download to try again.")
            st.stop()
    st.rerun()


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
