"""What a profile measures besides: distances of other networks, and factors where they are known."""

from __future__ import annotations

from typing import Any

import torch

from invariances import zoo
from invariances.autoencoder.lpips import LPIPS
from invariances.data.attributes import source_of
from invariances.data.shapes import Shapes
from invariances.evaluation.profiling import Beside
from invariances.evaluation.spread import InFeatures
from invariances.representation.representation import Representation
from invariances.zoo.factor_reader import load_readers

READERS = "shapes_reader"
NO_LPIPS = "no weights are at hand; name a file of AlexNet's LPIPS with --lpips"


def beside_of(pictures: Any, second: str | None, lpips: str | None, device: torch.device) -> Beside:
    """What is measured besides on these pictures.

    Args:
        pictures: A data set.
        second: NETWORK:LAYER, whose features say how much samples vary to it.
        lpips: File of AlexNet's LPIPS.
        device: Where everything lives.
    """
    distances: dict[str, Any] = {}
    if lpips is not None:
        distances["variance_in_lpips"] = LPIPS.from_file(lpips).to(device)
    if second is not None:
        network, _, layer = second.rpartition(":")
        cut = Representation(network, layer).to(device)
        distances[f"variance_in_{cut.network_name}_{layer}"] = InFeatures(cut)
    source, places = source_of(pictures)
    if isinstance(source, Shapes):
        reader = load_readers(zoo.fetch(READERS))["reader"].to(device)
        return Beside(distances, reader, source.factors(places))
    return Beside(distances)
