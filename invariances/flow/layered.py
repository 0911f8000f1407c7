"""One flow over maps for several layers of a network: a transform that they share, and an embedder of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from invariances.flow.config import FlowConfig
from invariances.flow.embedders.embedder import NoEmbedder
from invariances.flow.embedders.maps import MapEmbedder
from invariances.flow.flow import ConditionalFlow, filled
from invariances.flow.maps import Maps
from invariances.system.errors import UserError, nearest


class LayeredFlow(nn.Module):
    """p(z̄ | z_l) of every layer l, and p(z̄) of none, by one transform.

    Args:
        config: `width` and `blocks` of the transform, which must be "maps".
        latent_shape: (C, H, W).
        layers: Layer -> the shape of its representation, (C,) or (C, H, W).
        probabilities: Layers that are a softmax.
    """

    def __init__(
        self,
        config: FlowConfig,
        latent_shape: Sequence[int],
        layers: Mapping[str, Sequence[int]],
        probabilities: Collection[str] = (),
    ) -> None:
        super().__init__()
        if config.transform != "maps" or len(latent_shape) != 3:
            raise UserError(
                f"one flow for several layers needs flow.transform 'maps' and latents that are maps, not "
                f"{config.transform!r} and {tuple(latent_shape)}"
            )
        self.config, self.latent_shape = config, tuple(latent_shape)
        self.layers = {name: tuple(shape) for name, shape in layers.items()}
        self.probabilities = frozenset(probabilities)
        self.transform = Maps(config, latent_shape)
        velocity = self.transform.velocity
        self.embedders = nn.ModuleList(
            MapEmbedder(shape, velocity.width, velocity.grid, name in self.probabilities)
            for name, shape in self.layers.items()
        )

    def embedder(self, layer: str) -> MapEmbedder:
        """That of a layer.

        Raises:
            UserError: It was not trained for.
        """
        if layer not in self.layers:
            raise UserError(f"layer {layer!r} is none of this flow's; it has {nearest(layer, self.layers)}")
        found = self.embedders[list(self.layers).index(layer)]
        assert isinstance(found, MapEmbedder)
        return found

    def at(self, layer: str | None) -> ConditionalFlow:
        """The flow of one layer, or of none; it shares these weights."""
        shape = () if layer is None else self.embedder(layer).shape
        with torch.device("meta"):
            flow = ConditionalFlow(self.config, self.latent_shape, shape, layer in self.probabilities)
        flow.transform = self.transform
        flow.embedder = NoEmbedder() if layer is None else self.embedder(layer)
        return flow.train(self.training)

    def spec(self) -> dict[str, Any]:
        """Plain values that `restored` builds the same architecture from."""
        return {
            "config": asdict(self.config),
            "latent_shape": list(self.latent_shape),
            "layers": {name: list(shape) for name, shape in self.layers.items()},
            "probabilities": sorted(self.probabilities),
        }

    @classmethod
    def restored(cls, spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> LayeredFlow:
        """The flow of a `spec` with the weights of a state dict.

        Raises:
            UserError: They do not fit.
        """

        def build(config: FlowConfig) -> LayeredFlow:
            return cls(config, spec["latent_shape"], spec["layers"], spec["probabilities"])

        return filled(build, spec, state)

    def loss(
        self, latents: Tensor, told: Mapping[str, tuple[Tensor, Tensor]], generator: torch.Generator
    ) -> Tensor:
        """What the transform learns by, (N,), in the order of the latents (N, C, H, W).

        Args:
            latents: Of all pictures.
            told: Layer -> (the pictures that are told of it, their representations).
            generator: On the CPU.
        """
        e = latents.new_zeros(len(latents), self.transform.velocity.condition)
        for layer, (places, representations) in told.items():
            e = e.index_copy(0, places, self.embedder(layer)(representations).to(e.dtype))
        return self.transform.loss(latents, e, generator)
