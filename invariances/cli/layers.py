"""`invariances layers NETWORK`: the layers that can be studied."""

from __future__ import annotations

import json as json_format
import sys
from typing import Any

_ROWS = 60
_NOTHING = ("Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth", "Flatten")


def layers(
    network: str,
    weights: str | None = None,
    size: int | None = None,
    all: bool = False,
    json: bool = False,
) -> None:
    """List a network's layers with the shapes that they give, in the order of the forward pass.

    A shape is channels × height × width, or the length of a vector; transformer tokens are shown as the map of their
    patches. Without weights the network is built untrained, and nothing is downloaded. Deep networks are shown down to
    the level of modules at which the table stays short, without modules that do nothing when a network is not trained.

    Args:
        network: A name of torchvision, timm or `invariances models list`.
        weights: Path of a safetensors file or checkpoint, where its classes differ from the published ones.
        size: Side in pixels that images are resized to, in place of the network's own.
        all: Show every module that gives a map or vector.
        json: Print one object of name and shape for every layer.

    Example:
        invariances layers resnet50
        invariances layers vit_b_16 --all true
        invariances layers tf_efficientnet_lite0 --json true
    """
    from invariances.representation.representation import survey

    found = survey(network, weights, size=size)
    if json:
        shapes = {name: line.shape for line in found for name in (line.name, *line.aliases)}
        print(json_format.dumps(shapes))
        return
    shown = found if all else _short(found)
    print(table(shown))
    if len(shown) < len(found):
        print(f"{len(found) - len(shown)} more layers: --all true", file=sys.stderr)


def table(lines: list[Any]) -> str:
    """Aligned columns: name, shape, kind of module, notes."""
    rows = [("layer", "shape", "module", "")]
    for line in lines:
        notes = [f"also {', '.join(line.aliases)}"] if line.aliases else []
        if line.calls > 1:
            notes.append(f"called {line.calls} times, this is the last; {line.name}#1 is the first")
        rows.append((line.name, "×".join(map(str, line.shape)), line.module, "; ".join(notes)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows
    )


def _short(lines: list[Any]) -> list[Any]:
    """The lines down to the deepest level that fits, without modules that do nothing in eval mode."""
    useful = [line for line in lines if line.module not in _NOTHING or line.aliases]
    fitting = useful
    for depth in range(max(line.name.count(".") for line in useful), -1, -1):
        fitting = [line for line in useful if line.name.count(".") <= depth or line.aliases]
        if len(fitting) <= _ROWS:
            break
    return fitting
