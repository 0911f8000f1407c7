"""The reader that tells the factors of the pictures that a network was made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def reader_for(network: str) -> Callable[[Tensor], Mapping[str, Tensor]] | None:
    """What reads shape and texture off pictures (N, 3, S, S); None for networks of other pictures than `Shapes`."""
    if not network.startswith("shapes_"):
        return None
    from invariances.zoo.loading import load

    reader: Any = load("shapes_reader")
    read: Callable[[Tensor], Mapping[str, Tensor]] = reader.read
    return read
