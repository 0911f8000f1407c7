"""All layers of a network that can be studied, with the shapes that they give."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor

from invariances.representation.cuts import Cuts
from invariances.representation.taps import END


@dataclass(frozen=True)
class Layer:
    """A layer's line in a table.

    Args:
        name: that Representation takes.
        shape: of z there, without batch.
        module: the module's class.
        calls: how often the module is called.
        aliases: other names.
    """

    name: str
    shape: tuple[int, ...]
    module: str = ""
    calls: int = 1
    aliases: tuple[str, ...] = ()


def layers_of(cuts: Cuts) -> list[Layer]:
    """The layers in the order of the forward pass: the input, every module that gives a map or vector, the end."""
    aliases: dict[str, list[str]] = {}
    for alias, layer in cuts.source.aliases.items():
        if alias != layer:
            aliases.setdefault(layer, []).append(alias)
    modules = dict(cuts.network.named_modules())
    numbers = Counter(tap.module for tap in cuts.calls)
    lines = [Layer("input", (cuts.channels, *cuts.preprocessing.shape))]
    for tap, given in cuts.calls.items():
        read = cuts.layout(tap)
        if tap == END or tap.call < numbers[tap.module] or isinstance(given, str) or isinstance(read, str):
            continue
        shape = tuple(read.arrange(given).shape[1:])
        kind = type(modules[tap.module]).__name__
        lines.append(Layer(tap.module, shape, kind, tap.call, tuple(aliases.get(tap.module, ()))))
    end, given = cuts.layout(END), cuts.calls[END]
    if isinstance(given, Tensor) and not isinstance(end, str):
        shape = tuple(end.arrange(given).shape[1:])
        taken = {line.name for line in lines}
        for name in ("logits", "softmax"):
            if name not in taken:
                lines.append(Layer(name, shape, aliases=tuple(aliases.get(name, ()))))
    return lines
