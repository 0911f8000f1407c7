"""FID: how far apart are two sets of pictures, as Gaussians in a network's features?"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from invariances.data.images import from_uint8, to_uint8
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import offline

INCEPTION = "inception"
_WAIT_SECONDS = 20.0


class Vectors(nn.Module):
    """8-bit pictures (N, 3, H, W) to features (N, C): a representation, its maps averaged over places.

    Args:
        representation: Stays in eval mode, whatever its parent does.
    """

    def __init__(self, representation: Representation) -> None:
        super().__init__()
        self.representation = representation.eval()
        self.num_features = int(representation.shape[0])

    def train(self, mode: bool = True) -> Vectors:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """The features."""
        z: Tensor = self.representation(from_uint8(pictures.permute(0, 2, 3, 1)))
        return z.flatten(2).mean(dim=2) if z.dim() > 2 else z


@dataclass
class FeatureSpace:
    """Where pictures are compared.

    Attributes:
        name: For the output; FIDs of different spaces do not compare.
        feature: What torchmetrics takes: Inception's 2048 pooled features, or a module.
    """

    name: str
    feature: int | nn.Module


def feature_space(name: str, subject: Representation) -> FeatureSpace:
    """The feature space of a name.

    Args:
        name: "inception"; "NETWORK:LAYER" for a layer of any named network; "auto" for Inception where its
            weights can be had, otherwise the last vector before the classes of the network under study.
        subject: The network under study.

    Raises:
        UserError: Inception's weights cannot be had though asked for by name, or the network is unknown.
    """
    if name in (INCEPTION, "auto"):
        try:
            _inception()
            return FeatureSpace(INCEPTION, 2048)
        except (OSError, RuntimeError) as error:
            if name == INCEPTION:
                raise UserError(
                    f"Inception's weights cannot be had ({error}); give --fid NETWORK:LAYER for another feature space"
                ) from None
        layer = _last_vector(subject)
        print(f"FID: no Inception weights here, so in {subject.network_name}:{layer}", file=sys.stderr)
        return FeatureSpace(f"{subject.network_name}:{layer}", Vectors(subject.at(layer)))
    network, colon, layer = name.rpartition(":")
    if not colon:
        raise UserError(f"{name!r} names no feature space; use inception, auto, none or NETWORK:LAYER")
    return FeatureSpace(name, Vectors(Representation(network, layer)))


def _last_vector(subject: Representation) -> str:
    shapes = Representation.layers(subject)
    classes = shapes.get("logits")
    vectors = [
        name
        for name, shape in shapes.items()
        if len(shape) == 1 and shape != classes and name not in ("logits", "softmax")
    ]
    return vectors[-1] if vectors else "logits"


def _inception() -> None:
    """Fetches or finds Inception's weights.

    Raises:
        OSError: They cannot be had.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(URL_INCEPTION_V3))
    if os.path.exists(path):
        return
    if offline():
        raise OSError(f"offline, and {path} is not there")
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_WAIT_SECONDS)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, path, progress=True)
    finally:
        socket.setdefaulttimeout(patience)


class Distance:
    """FID between real and other pictures, fed batch by batch: ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½).

    Heusel et al. 2017, by torchmetrics, sums in float64; the result does not depend on how pictures are batched.

    Args:
        space: Where to compare.
        device: Where to compute features.
    """

    def __init__(self, space: FeatureSpace, device: torch.device | str = "cpu") -> None:
        self.metric: Any = FrechetInceptionDistance(feature=space.feature).to(device).eval()
        self.counts = {True: 0, False: 0}

    def add(self, images: Tensor, real: bool) -> None:
        """Takes images (N, 3, H, W) in [-1, 1] in, as 8-bit pictures."""
        pictures = to_uint8(images).permute(0, 3, 1, 2).contiguous().to(self.metric.device)
        self.metric.eval().update(pictures, real=real)
        self.counts[real] += len(pictures)

    def value(self) -> float | None:
        """The distance; None with fewer than two pictures on a side."""
        if min(self.counts.values()) < 2:
            return None
        return float(self.metric.compute())


def fid(space: FeatureSpace, real: Iterable[Tensor], others: Iterable[Tensor]) -> float | None:
    """FID between two streams of batches of images (N, 3, H, W) in [-1, 1]; see `Distance`."""
    distance = Distance(space)
    for images in real:
        distance.add(images, True)
    for images in others:
        distance.add(images, False)
    return distance.value()
