"""A network cut at its modules: which are called, how their outputs are read, and the passes that give them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from invariances.representation.layout import Layout, layout
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.network import Network
from invariances.representation.taps import Extractor, Tap, calls_of
from invariances.system.errors import UserError, nearest


class Cuts:
    """What the representations of one network share: its calls, its extractors, the hash of its weights."""

    def __init__(self, source: Network, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing
        self._extractors: dict[tuple[Any, ...], Extractor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_extractors": {}}  # a copy makes its own

    @property
    def network(self) -> nn.Module:
        """The frozen module."""
        return self.source.module

    def _place(self) -> tuple[torch.device, torch.dtype]:
        for each in (*self.network.parameters(), *self.network.buffers()):
            if each.is_floating_point():
                return each.device, each.dtype
        return torch.device("cpu"), torch.float32

    def _probe(self) -> Tensor:
        """Two fixed noise images as the network takes them."""
        noise = torch.rand(2, 3, *self.preprocessing.shape, generator=torch.Generator().manual_seed(0))
        device, dtype = self._place()
        return self.preprocessing((noise * 2 - 1).to(device, dtype))

    @cached_property
    def calls(self) -> dict[Tap, torch.Size | None]:
        """Every call of every module, in order, with the shape that it gives for two images."""
        try:
            return calls_of(self.network, self._probe())
        except Exception as error:  # whatever an arbitrary network raises
            height, width = self.preprocessing.shape
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.source.title} cannot be run on images of {height}×{width} pixels ({reason}); give the size "
                "that it takes, as size=…, or another network."
            ) from error

    def tap(self, module: str, call: int | None) -> Tap:
        """The tap of a module; its last call where `call` is None."""
        numbers = [tap.call for tap in self.calls if tap.module == module]
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
        shape = self.calls[tap]
        if shape is None:
            return "gives no tensor"
        extra = getattr(self.network, "num_prefix_tokens", None)
        module = self.network.get_submodule(tap.module)
        return layout(shape, 2, self.preprocessing.shape, module, extra if isinstance(extra, int) else None)

    def arrange(self, tap: Tap, outputs: Mapping[Tap, Tensor], layer: str, token: str) -> Tensor:
        """The tap's raw output as a map or vector."""
        read = self.layout(tap)
        if isinstance(read, str):
            raise UserError(f"layer {layer!r} of {self.source.title} {read}; choose another layer.")
        return read.arrange(outputs[tap], token)

    def run(self, images: Tensor, taps: Iterable[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """(network input, raw output of each tap)."""
        device, dtype = self._place()
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                f"images are float tensors (N, 3, H, W) with values in [-1, 1], not {images.dtype} "
                f"{tuple(images.shape)}; `invariances.load_images` makes them."
            )
        inputs = self.preprocessing(images.to(device, dtype))
        taps = tuple(dict.fromkeys(taps))
        if not taps:
            return inputs, {}
        self.network.eval().requires_grad_(False)  # whatever a parent did to it
        extractor = self._extractors.get((taps, device, dtype))
        if extractor is None:
            self._extractors = {
                key: value for key, value in self._extractors.items() if key[1:] == (device, dtype)
            }
            _ = self.calls  # says first where the network cannot run at all
            extractor = self._extractors[taps, device, dtype] = Extractor(self.network, taps, self._probe())
        outputs = extractor(inputs.clone())  # a network may work on its input in place
        return inputs, dict(zip(taps, outputs, strict=True))

    @cached_property
    def weights_hash(self) -> str:
        """Of the network's modules, and its parameters and buffers."""
        digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(self.network)).encode())
        for name, value in self.network.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
