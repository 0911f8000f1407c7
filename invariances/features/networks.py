"""The frozen networks that features come from, as one: a batch of items in, moments and representations out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from invariances.data.datasets import Batch
from invariances.representation.representation import Representation, Representations
from invariances.system.errors import UserError
from invariances.system.seeds import seeded

MOMENTS, LABELS = "(moments)", "(labels)"
_NO_VARIANCE = -60.0
"""A log-variance that adds nothing to a float32."""
_SAME = 1e-3
"""Where channels-last memory changes the autoencoder's answer by no more than this, it is rounding."""


class FrozenParts:
    """Autoencoder and representations, where they are: images come to them, and results go back to the CPU.

    Args:
        autoencoder: with `encode(images)`, and `latent_shape` or `latent_dim`.
        layers: the representations by layer.
        half: the autoencoder in bfloat16.

    Raises:
        UserError: they are on different devices.
    """

    def __init__(self, autoencoder: nn.Module, layers: Mapping[str, Representation], half: bool) -> None:
        self.autoencoder, self.layers, self.half = autoencoder, layers, half
        weights = (*autoencoder.parameters(), *autoencoder.buffers())
        self.device = next((each.device for each in weights), torch.device("cpu"))
        for each in layers.values():
            if each.device != self.device:
                raise UserError(
                    f"the autoencoder is on {self.device} and layer {each.layer!r} of {each.network_name} on "
                    f"{each.device}; bring both to one device, as in autoencoder.to({str(each.device)!r})"
                )
        self._channels_last: bool | None = None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(D,), or (C, H, W), of a latent."""
        shape = getattr(self.autoencoder, "latent_shape", None) or (cast(Any, self.autoencoder).latent_dim,)
        return tuple(int(size) for size in shape)

    def features(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """The named features of a batch, on the CPU; the autoencoder's mode is left as it was."""
        training = self.autoencoder.training
        self.autoencoder.eval()
        try:
            with torch.inference_mode():
                return self._features(batch, names)
        finally:
            self.autoencoder.train(training)

    def _features(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        images = batch["image"].to(self.device).contiguous()
        found: dict[str, Tensor] = {}
        if LABELS in names:
            found[LABELS] = batch["label"]
        if MOMENTS in names:
            found[MOMENTS] = self._moments(images) if self._encodes else self._known(batch)
        for group in together([self.layers[name] for name in names if name in self.layers]):
            found |= group(images.contiguous(memory_format=torch.channels_last))
        return {name: values.cpu() for name, values in found.items()}

    @property
    def _encodes(self) -> bool:
        return hasattr(self.autoencoder, "encode")

    def _known(self, batch: Batch) -> Tensor:
        """Of a generator's own pictures the latents that they were drawn from, (N, 2D), their variance next to none."""
        latents = batch.get("latent")
        if latents is None or tuple(latents.shape[1:]) != self.latent_shape:
            raise UserError(
                f"{type(self.autoencoder).__name__} has no encoder, so only pictures that it draws have latents; "
                "give TrainSamples as --images and TestSamples as --held_out, or another autoencoder"
            )
        return torch.cat([latents, torch.full_like(latents, _NO_VARIANCE)], dim=1)

    def _moments(self, images: Tensor) -> Tensor:
        """Mean and logvar, (N, 2D), or (N, 2, C, H, W); channels-last where the autoencoder bears it.

        That depends on no picture, so all processes that fill a cache decide alike.
        """
        if self._channels_last is None:
            noise = torch.rand(2, *images.shape[1:], generator=seeded("memory layout", 0)) * 2 - 1
            self._channels_last = self._bears_channels_last(noise.to(images))
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self._encoded(images)

    def _bears_channels_last(self, images: Tensor) -> bool:
        want = self._encoded(images)
        try:
            have = self._encoded(images.contiguous(memory_format=torch.channels_last))
        except Exception:  # whatever an arbitrary autoencoder raises; it is asked again in the usual layout
            return False
        coarse = self.half or self.device.type != "cpu"
        most = (2e-2 if coarse else _SAME) * float(want.abs().max())
        return have.shape == want.shape and bool(((have - want).abs() <= most).all())

    def _encoded(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            posterior = cast(Any, self.autoencoder).encode(images)
        shape = tuple(posterior.mean.shape[1:])
        if shape != self.latent_shape:
            raise UserError(
                f"the autoencoder says that its latents have shape {self.latent_shape}, and they have {shape}; give it "
                f"latent_shape = {shape}"
                + (f" or latent_dim = {math.prod(shape)}" if len(shape) == 1 else "")
            )
        if len(shape) == 1:
            return torch.cat([posterior.mean, posterior.logvar], dim=1).float()
        return torch.stack([posterior.mean, posterior.logvar], dim=1).float()


def together(representations: Sequence[Representation]) -> list[Representations]:
    """The same layers, grouped by the network that they share, so that each network runs once."""
    groups: dict[int, list[Representation]] = {}
    for each in representations:
        groups.setdefault(id(each._cuts), []).append(each)
    return [Representations(group) for group in groups.values()]
