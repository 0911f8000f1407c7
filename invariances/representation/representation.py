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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from invariances.representation.cuts import Cuts
from invariances.representation.layout import TOKENS
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.network import Network
from invariances.representation.sources import find, untrained
from invariances.representation.taps import Tap
from invariances.system.errors import UserError, nearest

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
    _cuts: Cuts
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
                cuts = Cuts(cuts.source, Preprocessing.of({**asdict(cuts.preprocessing), **given}))
        else:
            source = find(network, weights)
            cuts = Cuts(source, Preprocessing.of({**asdict(source.preprocessing), **given}))
        self._cuts = cuts
        self.network = cuts.network
        self.layer = layer
        self._cut = _find_layer(layer, cuts.source)

    @property
    def network_name(self) -> str:
        """The network's name, without a collection's or folder's before it, or the class of a module."""
        return self._cuts.source.title

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

    @property
    def probabilities(self) -> bool:
        """Whether z is the network's softmax."""
        return self._cut.kind == "softmax"

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
        return z.softmax(1) if self.probabilities else z

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
        if len({each.layer for each in representations}) < len(representations):
            raise UserError("a layer is named twice; name each once.")
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
    cuts = Representation(network, "input", weights or untrained(network), **options)._cuts
    aliases: dict[str, list[str]] = {}
    for alias, layer in cuts.source.aliases.items():
        if alias != layer:
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
