"""Auxiliary targets: what the network saw on its way to a layer, for a residual embedder to guess beside the latent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from torch import Tensor

from invariances.flow.embedders.embedder import EmbedderKind
from invariances.flow.embedders.residual import as_vectors, gives_maps
from invariances.representation.representation import Representation
from invariances.representation.taps import Tap
from invariances.system.errors import UserError

_MOST_VALUES = 128


_STAGES = ("stage", "layer", "blocks", "features")


class ChannelStatistics(Representation):
    """(μ_c, σ_c) of each channel of a map over its places: images (N, 3, H, W) → (N, 2 C).

    What a texture or a colour is stands here almost by itself (`as_vectors`), while latents code it together with all
    else that there is to see.

    Args:
        network: Representation whose network is shared.
        layer: One that gives maps.

    Raises:
        UserError: the layer is unknown, or gives no maps.
    """

    def __init__(self, network: Representation, layer: str) -> None:
        super().__init__(network, layer)
        if not gives_maps(network.at(layer).shape):
            raise UserError(
                f"layer {layer!r} gives no maps, so it has no channel statistics; name a layer of maps as auxiliary"
            )
        self.layer = f"{layer} statistics"

    def _read(self, inputs: Tensor, outputs: Mapping[Tap, Tensor]) -> Tensor:
        return as_vectors(super()._read(inputs, outputs).float())

    def fingerprint(self) -> str:
        """A hash of the network's modules and weights, the layer, the preprocessing, and of what is made of it."""
        return hashlib.sha256(f"statistics {super().fingerprint()}".encode()).hexdigest()


def auxiliary_targets(
    representation: Representation, layers: Sequence[str], embedder: EmbedderKind
) -> list[Representation]:
    """The channel statistics of these layers, for a flow of the representation's layer.

    Raises:
        UserError: the embedder is not residual, a layer is named twice, is unknown, or gives no maps.
    """
    if layers and embedder != "residual":
        raise UserError(
            "auxiliary layers are for residual embedders; give embedder='residual' too, or none of them"
        )
    if len(set(layers)) < len(layers):
        raise UserError(f"auxiliary layers {', '.join(layers)} must be different ones")
    return [ChannelStatistics(representation, layer) for layer in layers]


def stages(layers: Iterable[str]) -> list[str]:
    """The names among these that are of a network's stages or their blocks."""
    return [name for name in layers if name.startswith(_STAGES)]


def shallower(shapes: Mapping[str, Sequence[int]], layer: str) -> tuple[str, ...]:
    """The first stages before a layer that give maps: one, or as many as make at most 128 values together.

    Args:
        shapes: of the network, in the order of the forward pass, as `Representation.layers` gives them.
        layer: one of them.
    """
    before = dict(takewhile(lambda each: each[0] != layer, shapes.items()))
    found: list[str] = []
    room = _MOST_VALUES
    for name in stages(before):
        if "." in name or not gives_maps(shapes[name]):
            continue
        room -= 2 * shapes[name][0]
        if room < 0 and found:
            break
        found.append(name)
    return tuple(found)
