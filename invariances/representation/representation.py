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
- (T, N, C), tokens before the batch, as inside of CLIP, likewise.
- Of a tuple, list, mapping or dataclass, the first tensor (`logits` or `out`, if there are such).
- Whole numbers and booleans become float32; complex channels two each, first all real, then all imaginary parts.
- Anything else (5-d, windows in place of the batch, sequences) is an error.

A network that takes grey images gets the mean of red, green and blue, one that takes four channels an opaque alpha.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from invariances.representation.cuts import Cuts
from invariances.representation.layout import TOKENS
from invariances.representation.naming import Place, name_of, place_of
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.sources import find, untrained
from invariances.representation.survey import Layer, layers_of
from invariances.representation.taps import END, Tap
from invariances.system.errors import UserError, nearest


class Representation(nn.Module):
    """z = Φ(x): images (N, 3, H, W) in [-1, 1] -> the layer's map (N, C, H, W) or vector (N, C).

    Frozen: always in eval mode, no gradients to weights, whatever a parent module does; gradients reach the images. A
    module that is given is copied, so yours stays as it is, and later changes to it do not reach this one.

    Args:
        network: a name of torchvision, timm or `invariances models list`; any nn.Module that takes a batch of images;
            or another Representation, whose network (not a copy) and preprocessing are then used.
        layer: as `named_modules` prints it, or the module itself, or `input`, `logits`, `softmax`, or a published short
            name; see above.
        weights: safetensors file or checkpoint, or a state dict; torchvision's weights, or their name; "random" for an
            untrained network; None for the published weights. A file may lack what stands behind the layer.
        size: side that images are resized to, or (height, width). This and what follows come from the network's own
            configuration where left out; a module without one gets ImageNet's (224, bilinear, antialias).
        mean, std: of each channel for values in [0, 1]; 0.5 and 0.5 leave images in [-1, 1].
        interpolation: nearest, bilinear or bicubic.
        antialias: smooth before making images smaller.
        token: 'patch' (default) for the map of a transformer's patch tokens, 'class' for its class token.
        check: False to go on where the layer is no function of the picture: where two passes of one picture differ, or
            a picture alone and beside another.

    Raises:
        UserError: for unknown names and layers, weights that cannot be had or do not fit, layers whose output is
            neither map, vector nor tokens, and layers that are no functions of the picture.
    """

    layer: str
    token: str
    network: nn.Module
    _cuts: Cuts
    _place: Place

    def __init__(
        self,
        network: str | nn.Module,
        layer: str | nn.Module,
        weights: Any = None,
        *,
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        interpolation: str | None = None,
        antialias: bool | None = None,
        token: str | None = None,
        check: bool | None = None,
    ) -> None:
        super().__init__()
        again = network if isinstance(network, Representation) else None
        self.token = token or (again.token if again else "patch")
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
        name = name_of(layer, again.network if again else network)
        if again and weights is not None:
            raise UserError(
                "a Representation already has its weights; give a network's name to choose others."
            )
        if again and not given and check in (None, again.check):
            cuts = again._cuts
        else:
            source = again._cuts.source if again else find(network, weights)
            whole = Preprocessing.of(
                {**asdict(again.preprocessing if again else source.preprocessing), **given}
            )
            cuts = Cuts(source, whole, check if check is not None else again.check if again else True)
        self._cuts = cuts
        self.network = cuts.network
        self._place = place_of(name, cuts.source)
        self.layer = name
        if cuts.source.lacking and self._place.kind != "input":
            _ = self.shape  # says now, not after hours, where the layer needs what is missing

    @property
    def network_name(self) -> str:
        """The network's name, without a collection's or folder's before it, or the class of a module."""
        return self._cuts.source.title

    @property
    def preprocessing(self) -> Preprocessing:
        """Size, mean, std, interpolation and antialias."""
        return self._cuts.preprocessing

    @property
    def check(self) -> bool:
        """Whether layers that are no functions of the picture are refused."""
        return self._cuts.check

    @property
    def device(self) -> torch.device:
        """Where the network is; images are brought there."""
        return self._cuts.place()[0]

    @property
    def has_logits(self) -> bool:
        """Whether the network's own output can be had: not where its file lacks the weights of its head."""
        if not self._cuts.source.lacking:
            return not isinstance(self._cuts.layout(END), str)
        try:
            self.at("logits").shape  # noqa: B018
        except UserError:
            return False
        return True

    @property
    def class_names(self) -> list[str] | None:
        """The names of the network's classes, in the order of its logits; None where they are not known.

        Nor are they where a file or module says more names or fewer than there are logits: which is which, is a guess.
        """
        said = self._cuts.source.class_names
        if said is None or isinstance(given := self._cuts.calls[END], str):
            return said
        return said if len(said) == self._cuts.arrange(END, {END: given}, "patch").shape[1] else None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C,) or (C, H, W): the shape of z without batch, measured when first asked for."""
        with torch.no_grad():
            return tuple(self(torch.zeros(1, 3, *self.preprocessing.shape)).shape[1:])

    @property
    def probabilities(self) -> bool:
        """Whether z is the network's softmax."""
        return self._place.kind == "softmax"

    def forward(self, images: Tensor) -> Tensor:
        """The z of images (N, 3, H, W) in [-1, 1], of any size; the network runs no further than the layer."""
        inputs, outputs = self._cuts.run(images, self._taps())
        return self._read(inputs, outputs)

    def with_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(z, logits (N, classes)) in one pass."""
        inputs, outputs = self._cuts.run(images, [*self._taps(), END])
        return self._read(inputs, outputs), self._cuts.arrange(END, outputs, self.token)

    def logits(self, images: Tensor) -> Tensor:
        """The network's output (N, classes) for images (N, 3, H, W) in [-1, 1]."""
        return self._cuts.arrange(END, self._cuts.run(images, [END])[1], self.token)

    def _taps(self) -> list[Tap]:
        if self._place.kind == "module":
            return [self._cuts.tap(self._place.module, self._place.call)]
        return [] if self._place.kind == "input" else [END]

    def _read(self, inputs: Tensor, outputs: Mapping[Tap, Tensor]) -> Tensor:
        """The z in the raw outputs of a pass."""
        if self._place.kind == "input":
            return inputs
        (tap,) = self._taps()
        z = self._cuts.arrange(tap, outputs, self.token)
        return z.softmax(1) if self.probabilities else z

    def train(self, mode: bool = True) -> Representation:
        """Does nothing: the network stays in eval mode."""
        return self

    def at(self, layer: str | nn.Module, token: str | None = None) -> Representation:
        """The representation at another layer of the same network, which both share."""
        return Representation(self, layer, token=token)

    @staticmethod
    def many(
        network: str | nn.Module,
        layers: Sequence[str | nn.Module],
        weights: Any = None,
        **options: Any,
    ) -> Representations:
        """Several layers of one network in one pass; arguments as for Representation."""
        if not layers or isinstance(layers, str):
            raise UserError(f"layers is {layers!r}; give a list of at least one layer.")
        given = network.network if isinstance(network, Representation) else network
        names = [name_of(layer, given) for layer in layers]
        first = Representation(network, names[0], weights, **options)
        return Representations([first, *(first.at(name) for name in names[1:])])

    @staticmethod
    def layers(network: str | nn.Module, weights: Any = None, **options: Any) -> dict[str, tuple[int, ...]]:
        """Name -> shape of z without batch, of every layer that gives one, in the order of the forward pass.

        A network by name is built untrained, so that nothing is downloaded. Other arguments as for Representation.
        """
        lines = survey(network, weights, **options)
        return {name: line.shape for line in lines for name in (line.name, *line.aliases)}

    def fingerprint(self) -> str:
        """A hash of the network's modules (with their code, if it is your own) and weights, layer and preprocessing."""
        values = [self._cuts.weights_hash, asdict(self._place), self.token, asdict(self.preprocessing)]
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
            "check": self.check,
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
        try:
            layer, named, own = spec["layer"], spec["network"], spec["preprocessing"]
            options = {"token": spec["token"], "check": spec.get("check")}
            options |= {each.name: own[each.name] for each in fields(Preprocessing)}
            weights = spec["weights"] if weights is None and not isinstance(network, nn.Module) else weights
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                "a representation's description is damaged or of another version; train again"
            ) from None
        chosen = network or named
        if chosen is None:
            raise UserError(
                f"this representation is of your own module {spec.get('module')}, which is not saved with it; "
                "give the module as network=…"
            )
        return cls(chosen, layer, weights, **options)

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
        inputs, outputs = self._run(images, [END])
        first = next(iter(self))
        logits = first._cuts.arrange(END, outputs, first.token)
        return {each.layer: each._read(inputs, outputs) for each in self}, logits

    def _run(self, images: Tensor, more: list[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
        taps = [tap for each in self for tap in each._taps()]
        return next(iter(self))._cuts.run(images, [*taps, *more])


def survey(network: str | nn.Module, weights: Any = None, **options: Any) -> list[Layer]:
    """The layers of a network that Representation can take, in the order of the forward pass.

    Arguments as for `Representation.layers`.
    """
    if weights is None and isinstance(network, str):
        weights = untrained(network)
    return layers_of(Representation(network, "input", weights, **options)._cuts)
