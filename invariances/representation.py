"""z = Φ(x): any network cut at any named layer; images in, maps (N, C, H, W) or vectors (N, C) out.

    representation = Representation("resnet50", "layer4")
    z = representation(images)                        # images (N, 3, H, W) in [-1, 1], any size
    z, logits = representation.with_logits(images)    # one pass
    Representation.layers("resnet50")                 # {'input': (3, 224, 224), 'conv1': (64, 112, 112), …}
    Representation.many("resnet50", ["layer1", "layer4"])(images)    # {'layer1': z, 'layer4': z}, one pass

Layers are the names of `named_modules`; `NAME#2` is the second call of a module that is called several times, and NAME
alone its last. `input` is the resized, normalised image, `logits` the network's output, `softmax` their softmax, unless
the network has modules of these names. Published and shipped classifiers have short names besides.

What a layer gives becomes a map or a vector as follows (h : w is the aspect of the network's input):

- (N, C) and (N, C, 1, 1) are vectors.
- (N, C, H, W) stays; (N, H, W, C), as inside of Swin and ConvNeXt, is turned. It is told by H : W = h : w; where both
  readings fit, by whether the module is a linear layer or layer norm.
- (N, T, C) are tokens, T = extra + H·W with H : W = h : w. `token="patch"` (default) gives the map (N, C, H, W) of
  patch tokens, `token="class"` the vector of the first extra token. Extra tokens (class, distillation, registers) come
  first; their number is the network's `num_prefix_tokens`, else the first of 0, 1, 2, 5 that fits.
- Of a tuple, list or mapping, the first tensor (of a mapping `logits` or `out`, if it has them).
- Anything else (5-d, windows in place of the batch, sequences) is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError, nearest
from .layout import TOKENS, Layout, layout
from .networks import UNTRAINED, Network, Preprocessing, find
from .taps import Extractor, Tap, calls_of

__all__ = ["Preprocessing", "Representation", "Representations"]

_VIRTUAL = ("input", "logits", "softmax")
_END = Tap("")


@dataclass(frozen=True)
class Layer:
    """A line of `survey`: a name that Representation takes, the shape of z there, the module's class, its calls."""

    name: str
    shape: tuple[int, ...]
    module: str = ""
    calls: int = 1
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cut:
    """A layer's name understood: 'input', 'logits', 'softmax' or 'module', and which call of which module."""

    kind: str
    module: str = ""
    call: int | None = None


class _Cuts:
    """What the representations of one network share: its calls, its extractors, the hash of its weights."""

    def __init__(self, source: Network, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing
        self._extractors: dict[tuple[Any, ...], Extractor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_extractors": {}}  # a copy makes its own

    @property
    def network(self) -> nn.Module:
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


class Representation(nn.Module):
    """z = Φ(x): images (N, 3, H, W) in [-1, 1] -> the layer's map (N, C, H, W) or vector (N, C).

    Frozen: always in eval mode, no gradients to weights, whatever a parent module does; gradients reach the images. A
    module that is given is copied, so yours stays as it is, and later changes to it do not reach this one.

    Args:
        network: a name of torchvision, timm or `invariances models list`; any nn.Module that takes a batch of images;
            or another Representation, whose network (not a copy) and preprocessing are then used.
        layer: as `named_modules` prints it, or `input`, `logits`, `softmax`, or a published short name; see above.
        weights: safetensors file or checkpoint; "random" for an untrained network; None for the published weights.
        size: side that images are resized to, or (height, width). This and what follows come from the network's own
            configuration where left out; a module without one gets ImageNet's (224, bilinear, antialias).
        mean, std: of each channel for values in [0, 1]; 0.5 and 0.5 leave images in [-1, 1].
        interpolation: nearest, bilinear or bicubic.
        antialias: smooth before making images smaller.
        token: 'patch' (default) for the map of a transformer's patch tokens, 'class' for its class token.

    Raises:
        UserError: for unknown names and layers, weights that cannot be had or do not fit, and layers whose output is
            neither map, vector nor tokens.
    """

    layer: str
    token: str
    _cuts: _Cuts
    _cut: _Cut

    def __init__(
        self,
        network: str | nn.Module,
        layer: str,
        weights: str | os.PathLike[str] | None = None,
        *,
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        interpolation: str | None = None,
        antialias: bool | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__()
        self.token = token or "patch"
        if self.token not in TOKENS:
            raise UserError(f"token {token!r} is unknown; use {nearest(self.token, TOKENS)}.")
        options = {
            "size": size,
            "mean": mean,
            "std": std,
            "interpolation": interpolation,
            "antialias": antialias,
        }
        given = {key: value for key, value in options.items() if value is not None}
        if isinstance(network, Representation):
            if weights is not None:
                raise UserError(
                    "a Representation already has its weights; give a network's name to choose others."
                )
            cuts = network._cuts
            if given:
                cuts = _Cuts(cuts.source, Preprocessing.of({**asdict(cuts.preprocessing), **given}))
        else:
            source = find(network, weights)
            cuts = _Cuts(source, Preprocessing.of({**asdict(source.preprocessing), **given}))
        self._cuts = cuts
        self.network = cuts.network
        self.layer = layer
        self._cut = _find_layer(layer, cuts.source)

    @property
    def network_name(self) -> str:
        """The name that was given, or the class of a module."""
        return self._cuts.source.name or self._cuts.source.title

    @property
    def preprocessing(self) -> Preprocessing:
        """Size, mean, std, interpolation and antialias."""
        return self._cuts.preprocessing

    @property
    def class_names(self) -> list[str] | None:
        """The names of the network's classes, in the order of its logits; None where they are not known."""
        return self._cuts.source.class_names

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C,) or (C, H, W): the shape of z without batch, measured when first asked for."""
        with torch.no_grad():
            return tuple(self(torch.zeros(1, 3, *self.preprocessing.shape)).shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        """The z of images (N, 3, H, W) in [-1, 1], of any size; the network runs no further than the layer."""
        inputs, outputs = self._cuts.run(images, self._taps())
        return self._read(inputs, outputs)

    def with_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(z, logits (N, classes)) in one pass."""
        inputs, outputs = self._cuts.run(images, [*self._taps(), _END])
        return self._read(inputs, outputs), self._cuts.arrange(_END, outputs, "logits", self.token)

    def logits(self, images: Tensor) -> Tensor:
        """The network's output (N, classes) for images (N, 3, H, W) in [-1, 1]."""
        return self._cuts.arrange(_END, self._cuts.run(images, [_END])[1], "logits", self.token)

    def _taps(self) -> list[Tap]:
        if self._cut.kind == "module":
            return [self._cuts.tap(self._cut.module, self._cut.call)]
        return [] if self._cut.kind == "input" else [_END]

    def _read(self, inputs: Tensor, outputs: Mapping[Tap, Tensor]) -> Tensor:
        """The z in the raw outputs of a pass."""
        if self._cut.kind == "input":
            return inputs
        (tap,) = self._taps()
        z = self._cuts.arrange(tap, outputs, self.layer, self.token)
        return z.softmax(1) if self._cut.kind == "softmax" else z

    def train(self, mode: bool = True) -> Representation:
        """Does nothing: the network stays in eval mode."""
        return self

    def at(self, layer: str, token: str | None = None) -> Representation:
        """The representation at another layer of the same network, which both share."""
        return Representation(self, layer, token=token or self.token)

    @staticmethod
    def many(
        network: str | nn.Module,
        layers: Sequence[str],
        weights: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Representations:
        """Several layers of one network in one pass; arguments as for Representation."""
        if not layers or isinstance(layers, str):
            raise UserError(f"layers is {layers!r}; give a list of at least one layer.")
        first = Representation(network, layers[0], weights, **options)
        return Representations([first, *(first.at(layer) for layer in layers[1:])])

    @staticmethod
    def layers(
        network: str | nn.Module, weights: str | os.PathLike[str] | None = None, **options: Any
    ) -> dict[str, tuple[int, ...]]:
        """Name -> shape of z without batch, of every layer that gives one, in the order of the forward pass.

        A network by name is built untrained, so that nothing is downloaded. Other arguments as for Representation.
        """
        lines = survey(network, weights, **options)
        return {name: line.shape for line in lines for name in (line.name, *line.aliases)}

    def fingerprint(self) -> str:
        """A hash of the network's modules and weights, the layer, and the preprocessing."""
        values = [self._cuts.weights_hash, asdict(self._cut), self.token, asdict(self.preprocessing)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def spec(self) -> dict[str, Any]:
        """What `from_spec` makes it of again, as JSON takes it; `network` is None for a module of your own."""
        source = self._cuts.source
        return {
            "network": source.name,
            "module": source.title,
            "weights": source.weights,
            "layer": self.layer,
            "token": self.token,
            "preprocessing": asdict(self.preprocessing),
        }

    @classmethod
    def from_spec(
        cls,
        spec: Mapping[str, Any],
        network: str | nn.Module | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> Representation:
        """The representation that gave the spec.

        Args:
            spec: of `spec()`.
            network: in place of the spec's; needed where that was a module of your own.
            weights: in place of the spec's, for a file that has moved.

        Raises:
            UserError: where the network is missing, and as for Representation.
        """
        chosen = network or spec["network"]
        if chosen is None:
            raise UserError(
                f"this representation is of your own module {spec['module']}, which is not saved with it; "
                "give the module as network=…"
            )
        if weights is None and not isinstance(chosen, nn.Module):
            weights = spec["weights"]
        return cls(chosen, spec["layer"], weights, token=spec["token"], **spec["preprocessing"])

    def __repr__(self) -> str:
        shape = f", z {self.__dict__['shape']}" if "shape" in self.__dict__ else ""
        height, width = self.preprocessing.shape
        return f"Representation({self.network_name!r}, {self.layer!r}, {height}×{width} px{shape})"


class Representations(nn.Module):
    """Several layers of one network in one pass: images (N, 3, H, W) in [-1, 1] -> {layer: z}.

    Args:
        representations: that share one network and preprocessing, as `Representation.many` and `at` make them.

    Raises:
        UserError: where they do not.
    """

    def __init__(self, representations: Sequence[Representation]) -> None:
        super().__init__()
        if not representations or any(each._cuts is not representations[0]._cuts for each in representations):
            raise UserError(
                "these representations do not share one network; make them with Representation.many."
            )
        self.members = nn.ModuleList(representations)

    @property
    def names(self) -> list[str]:
        """The layers."""
        return [each.layer for each in self]

    def __iter__(self) -> Iterator[Representation]:
        return iter(self.members)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, layer: str) -> Representation:
        for each in self:
            if each.layer == layer:
                return each
        raise KeyError(layer)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """{layer: z} of images (N, 3, H, W) in [-1, 1]."""
        inputs, outputs = self._run(images, [])
        return {each.layer: each._read(inputs, outputs) for each in self}

    def with_logits(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """({layer: z}, logits (N, classes)) in one pass."""
        inputs, outputs = self._run(images, [_END])
        first = next(iter(self))
        logits = first._cuts.arrange(_END, outputs, "logits", first.token)
        return {each.layer: each._read(inputs, outputs) for each in self}, logits

    def _run(self, images: Tensor, more: list[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
        taps = [tap for each in self for tap in each._taps()]
        return next(iter(self))._cuts.run(images, [*taps, *more])


def survey(
    network: str | nn.Module, weights: str | os.PathLike[str] | None = None, **options: Any
) -> list[Layer]:
    """The layers of a network that Representation can take, in the order of the forward pass.

    Arguments as for `Representation.layers`.
    """
    if isinstance(network, str) and weights is None:
        weights = UNTRAINED
    cuts = Representation(network, "input", weights, **options)._cuts
    aliases: dict[str, list[str]] = {}
    for alias, layer in cuts.source.aliases.items():
        aliases.setdefault(layer, []).append(alias)
    numbers = Counter(tap.module for tap in cuts.calls)
    lines = [Layer("input", (3, *cuts.preprocessing.shape))]
    for tap, shape in cuts.calls.items():
        read = cuts.layout(tap)
        if tap == _END or tap.call < numbers[tap.module] or shape is None or isinstance(read, str):
            continue
        z = read.arrange(torch.empty(shape, device="meta")).shape[1:]
        kind = type(cuts.network.get_submodule(tap.module)).__name__
        lines.append(Layer(tap.module, tuple(z), kind, tap.call, tuple(aliases.get(tap.module, ()))))
    end, shape = cuts.layout(_END), cuts.calls[_END]
    if shape is not None and not isinstance(end, str):
        z = end.arrange(torch.empty(shape, device="meta")).shape[1:]
        taken = {line.name for line in lines}
        for name in ("logits", "softmax"):
            if name not in taken:
                lines.append(Layer(name, tuple(z), aliases=tuple(aliases.get(name, ()))))
    return lines


def _find_layer(layer: str, source: Network) -> _Cut:
    modules = [name for name, _ in source.module.named_modules() if name]
    wanted = layer if layer in modules else source.aliases.get(layer, layer)
    if wanted in modules:
        return _Cut("module", wanted)
    if wanted in _VIRTUAL:
        return _Cut(wanted)
    base, _, call = wanted.partition("#")
    if base in modules and call.isdecimal():
        return _Cut("module", base, int(call))
    names = nearest(layer, [*source.aliases, *_VIRTUAL, *modules])
    raise UserError(f"layer {layer!r} is not in {source.name or source.title}; it has {names}.")
