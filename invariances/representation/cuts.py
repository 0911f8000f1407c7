"""A network cut at its modules: which are called, how their outputs are read, and the passes that give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from invariances.data.arrays import check_values
from invariances.representation.code import network_hash
from invariances.representation.layout import Layout, layout
from invariances.representation.network import Network, freeze
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.probing import (
    check_weights,
    checked_function,
    private_chance,
    refusal,
    taken_channels,
)
from invariances.representation.taps import Extractor, Tap, calls_of
from invariances.system.errors import UserError, nearest


class Cuts:
    """What the representations of one network share: its calls, its extractors, the hash of its weights.

    Args:
        source: the network.
        preprocessing: from images to its inputs.
        check: refuse layers that are no functions of the picture.
    """

    def __init__(self, source: Network, preprocessing: Preprocessing, check: bool = True) -> None:
        self.source, self.preprocessing = source, preprocessing
        self.check: bool = check
        self._extractors: dict[tuple[Any, ...], Extractor] = {}
        self._looked = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_extractors": {}}  # a copy makes its own

    @property
    def network(self) -> nn.Module:
        """The frozen module."""
        return self.source.module

    def place(self) -> tuple[torch.device, torch.dtype]:
        """Device and dtype of the network."""
        for each in (*self.network.parameters(), *self.network.buffers()):
            if each.is_floating_point():
                return each.device, each.dtype
        return torch.device("cpu"), torch.float32

    def _probe(self, channels: int) -> Tensor:
        """Two fixed pictures as the network takes them: noise, and paler and brighter noise."""
        noise = torch.rand(2, 3, *self.preprocessing.shape, generator=torch.Generator().manual_seed(0))
        images = torch.stack([2 * noise[0] - 1, 0.3 * noise[1] + 0.5])
        device, dtype = self.place()
        return self.preprocessing(images.to(device, dtype), channels)

    @cached_property
    def _run_once(self) -> tuple[int, dict[Tap, Tensor | str]]:
        """How many channels the network takes, and what each call of each module gives for two images."""
        failed: Exception | None = None
        for channels in taken_channels(self.network):
            try:
                with private_chance(self.place()[0]):
                    return channels, calls_of(self.network, self._probe(channels))
            except Exception as error:  # whatever an arbitrary network raises
                failed = failed or error
        assert failed is not None
        raise refusal(self.network, self.source.title, self.preprocessing.shape, failed) from failed

    @property
    def calls(self) -> dict[Tap, Tensor | str]:
        """Every call of every module, in order, with what it gives: a tensor without values, or a fault in words."""
        return self._run_once[1]

    @property
    def channels(self) -> int:
        """Of the images that the network takes: 3, or 1 or 4."""
        first = taken_channels(self.network)
        return first[0] if first == (3,) else self._run_once[0]

    def tap(self, module: str, call: int | None) -> Tap:
        """The tap of a module; its last call where `call` is None."""
        numbers = [tap.call for tap in self.calls if tap.module == module]
        if not numbers and isinstance(self.network, torch.jit.ScriptModule):
            raise UserError(
                f"{self.source.title} is a TorchScript module, which runs as a whole and cannot be cut at {module!r}; "
                "give the nn.Module that it was made from, or take 'input', 'logits' or 'softmax'."
            )
        if not numbers:
            called = nearest(module, dict.fromkeys(tap.module for tap in self.calls if tap.module))
            raise UserError(
                f"layer {module!r} of {self.source.title} is never called on its own; choose a layer that is: {called}."
            )
        if call is not None and call not in numbers:
            raise UserError(
                f"layer {module!r} of {self.source.title} has {len(numbers)} calls, so no call {call}."
            )
        return Tap(module, call or numbers[-1])

    def layout(self, tap: Tap) -> Layout | str:
        """How the tap's output is read, or what is wrong with it."""
        given = self.calls[tap]
        if isinstance(given, str):
            return given
        extra = getattr(self.network, "num_prefix_tokens", None)
        module = dict(self.network.named_modules())[tap.module]
        return layout(
            given.shape, 2, self.preprocessing.shape, module, extra if isinstance(extra, int) else None
        )

    def _readable(self, tap: Tap) -> Layout:
        read = self.layout(tap)
        if isinstance(read, str):
            name = f"layer {tap.module!r}" if tap.module else "the output"
            raise UserError(f"{name} of {self.source.title} {read}; choose another layer.")
        return read

    def arrange(self, tap: Tap, outputs: Mapping[Tap, Tensor], token: str) -> Tensor:
        """The tap's raw output as a map or vector."""
        return self._readable(tap).arrange(outputs[tap], token)

    def run(self, images: Tensor, taps: Iterable[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """(network input, raw output of each tap); the first images are looked at, whether they are in [-1, 1]."""
        device, dtype = self.place()
        if not isinstance(images, Tensor):
            raise UserError(
                f"images are float tensors (N, 3, H, W) with values in [-1, 1], not a {type(images).__name__}; "
                "`invariances.load_images` makes them."
            )
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"images are float tensors (N, 3, H, W) with values in [-1, 1], not {images.dtype} "
                f"{tuple(images.shape)}; `invariances.load_images` makes them."
            )
        if not self._looked:
            with suppress(RuntimeError):  # under vmap there are no values to look at
                check_values(images.detach(), f"an image for {self.source.title}")
                self._looked = bool(images.any())  # not where only shapes were asked for
        inputs = self.preprocessing(images.to(device, dtype), self.channels)
        taps = tuple(dict.fromkeys(taps))
        if not taps:
            return inputs, {}
        freeze(self.network)  # whatever a parent did to it
        extractor = self._extractors.get((taps, device, dtype))
        if extractor is None:
            self._extractors = {
                key: value for key, value in self._extractors.items() if key[1:] == (device, dtype)
            }
            extractor = self._extractors[taps, device, dtype] = self._extractor(taps, device)
        outputs = extractor(inputs.clone())  # a network may work on its input in place
        return inputs, dict(zip(taps, outputs, strict=True))

    def _extractor(self, taps: tuple[Tap, ...], device: torch.device) -> Extractor:
        """Checked on the probe."""
        axes = [self._readable(tap).batch_axis for tap in taps]
        probe = self._probe(self._run_once[0])
        with private_chance(device):
            extractor = Extractor(self.network, taps, probe)
            if self.source.lacking:
                check_weights(extractor, probe, self.source)
            if self.check:
                checked_function(extractor, probe, axes, self.source.title)
        return extractor

    @cached_property
    def weights_hash(self) -> str:
        """Of the network's modules, their code, and its parameters and buffers."""
        return network_hash(self.network)
