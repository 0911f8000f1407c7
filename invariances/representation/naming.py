"""What users call a layer, and which place in the network they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from invariances.representation.network import Network
from invariances.representation.sources import bare
from invariances.system.errors import UserError, nearest

_VIRTUAL = ("input", "logits", "softmax")


@dataclass(frozen=True)
class Place:
    """A layer's name understood.

    Args:
        kind: 'input', 'logits', 'softmax' or 'module'.
        module: its name.
        call: which of its calls; None for the last.
    """

    kind: str
    module: str = ""
    call: int | None = None


def name_of(layer: Any, module: Any) -> str:
    """The name of a layer that is given by name or as the module itself.

    Args:
        layer: what the user gave.
        module: the network, as the user gave it.

    Raises:
        UserError: it is neither, or in another network.
    """
    if isinstance(layer, str):
        return layer
    if isinstance(layer, nn.Module) and isinstance(module, nn.Module):
        for name, each in bare(module).named_modules():
            if name and (each is layer or bare(each) is layer):
                return ".".join(part for part in name.split(".") if part != "_orig_mod")
        raise UserError(
            f"the given layer, a {type(layer).__name__}, is no module of {type(module).__name__}; give its name, or a "
            "module inside of the network that you give."
        )
    last = ""
    if isinstance(module, nn.Module):
        last = next(reversed([f", such as {name!r}" for name, _ in module.named_modules() if name] or [""]))
    raise UserError(
        f"layer is {layer!r}; give the name of one, as `invariances layers NETWORK` lists them{last}, or 'logits' for "
        "what comes last."
    )


def place_of(layer: str, source: Network) -> Place:
    """The layer of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    modules = [name for name, _ in source.module.named_modules() if name]
    wanted = layer if layer in modules else source.aliases.get(layer, layer)
    if wanted in modules:
        return Place("module", wanted)
    if wanted in _VIRTUAL:
        return Place(wanted)
    base, _, call = wanted.partition("#")
    if base in modules and call.isdecimal():
        return Place("module", base, int(call))
    names = nearest(layer, [*source.aliases, *_VIRTUAL, *modules])
    raise UserError(f"layer {layer!r} is not in {source.name or source.title}; it has {names}.")
