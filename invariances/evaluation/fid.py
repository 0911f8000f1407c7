"""FID: how far apart are two sets of pictures, as Gaussians in a network's features?"""

from __future__ import annotations

import os
import socket
import statistics
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from invariances.data.datasets import hash_of
from invariances.data.images import from_uint8, to_uint8
from invariances.evaluation.bootstrap import missing
from invariances.evaluation.looking import Accumulator, Batch, Drawn
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import atomic, cache_home, offline

INCEPTION = "inception"
REPEATS = 3
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

    @property
    def key(self) -> str:
        """Tells this space from all others."""
        if isinstance(self.feature, Vectors):
            return str(self.feature.representation.fingerprint())
        return f"{self.name} {self.feature}"


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
        raise OSError(f"offline, and {path} is not there, which is from {URL_INCEPTION_V3}")
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_WAIT_SECONDS)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, path, progress=True)
    finally:
        socket.setdefaulttimeout(patience)


class Moments:
    """Mean and covariance of features (N, C), fed batch by batch, in float64.

    Attributes:
        count: N.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def add(self, features: Tensor) -> None:
        """Takes features (B, C) in."""
        rows = features.double()
        self.count += len(rows)
        self.total = self.total + rows.sum(dim=0).cpu()
        self.products = self.products + (rows.T @ rows).cpu()

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """(mean (C,), covariance (C, C)), the covariance divided by N − 1."""
        total, products = torch.as_tensor(self.total), torch.as_tensor(self.products)
        mean = total / self.count
        return mean, (products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂) − 2 ‖Σ₁^½ Σ₂^½‖*, at least 0; the last norm is tr (Σ₁ Σ₂)^½.

    Args:
        one: mean (C,) and covariance (C, C), float64.
        other: likewise.

    Source: Heusel et al. 2017. The nuclear norm keeps its digits where covariances have no full rank.
    """
    (mean, covariance), (mean_other, covariance_other) = one, other
    product = _root(covariance) @ _root(covariance_other)
    cross = torch.linalg.svdvals(product).sum()
    distance = (mean - mean_other).square().sum() + covariance.trace() + covariance_other.trace() - 2 * cross
    return max(0.0, float(distance))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


class Features:
    """Images (N, 3, H, W) in [-1, 1] to features (N, C), by way of 8-bit pictures.

    Args:
        space: Where to compare.
        device: Where to compute.
    """

    def __init__(self, space: FeatureSpace, device: torch.device | str = "cpu") -> None:
        given: Any = space.feature
        if not isinstance(given, nn.Module):
            given = FrechetInceptionDistance(feature=given).inception
        self.module, self.device = given.to(device).eval(), device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The features; the module is in eval mode, whatever happened to it meanwhile."""
        pictures = to_uint8(images).permute(0, 3, 1, 2).contiguous().to(self.device)
        found: Tensor = self.module.eval()(pictures)
        return found


class FID(Accumulator):
    """FID of one sample per picture, and of the reconstructions, against the pictures.

    Up to `REPEATS` samples per picture are that many repeats, as published: their mean and standard deviation.

    The network of the feature space sees every picture once, and never again where the same pictures were looked at
    before: their mean and covariance are kept in the cache's home.

    Args:
        space: Where to compare.
        device: Where to compute.
        key: What the pictures are, for keeping their moments; None keeps nothing.
    """

    def __init__(
        self, space: FeatureSpace, device: torch.device | str = "cpu", key: str | None = None
    ) -> None:
        self.space, self.features = space, Features(space, device)
        self.kept = None if key is None else cache_home() / "fid" / f"{hash_of([space.key, key])}.safetensors"
        self.known = _read(self.kept)
        self.real, self.reconstructions = Moments(), Moments()
        self.samples_of = [Moments() for _ in range(REPEATS)]

    def pictures(self, batch: Batch) -> None:
        """Takes pictures and reconstructions in."""
        if self.known is None:
            self.real.add(self.features(batch.pictures.images))
        self.reconstructions.add(self.features(batch.reconstructions.images))

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Takes the first few samples of each picture in."""
        if drawn.column < REPEATS:
            self.samples_of[drawn.column].add(self.features(drawn.seen.images))

    def result(self) -> dict[str, Any]:
        """The distances, and where they were taken."""
        count = self.reconstructions.count
        found: dict[str, Any] = {"features": self.space.name, "pictures": count}
        if count < 2:
            for name in ("samples", "reconstructions"):
                found |= missing(name, "a distance of sets needs two pictures at least")
            return {"fid": found}
        if self.known is None:
            self.known = self.real.gaussian()
            _write(self.kept, self.known)
        repeats = [frechet(self.known, each.gaussian()) for each in self.samples_of if each.count]
        found["samples"] = sum(repeats) / len(repeats)
        found["samples_deviation"] = statistics.stdev(repeats) if len(repeats) > 1 else None
        found["repeats"] = len(repeats)
        found["reconstructions"] = frechet(self.known, self.reconstructions.gaussian())
        dims = len(self.known[0])
        if count < dims:
            found["warning"] = f"{count} pictures in {dims} dimensions: both covariances lack rank"
            print(
                f"FID: {count} pictures are fewer than the {dims} dimensions of {self.space.name}, so it says little; "
                f"compare it only with an FID of the same {count} pictures",
                file=sys.stderr,
            )
        return {"fid": found}


def _read(path: Path | None) -> tuple[Tensor, Tensor] | None:
    from safetensors.torch import load_file

    if path is None or not path.is_file():
        return None
    try:
        found = load_file(path)
        return found["mean"], found["covariance"]
    except Exception:  # a damaged file is measured anew
        return None


def _write(path: Path | None, gaussian: tuple[Tensor, Tensor]) -> None:
    from safetensors.torch import save_file

    if path is None:
        return
    with suppress(UserError, OSError), atomic(path) as draft:
        mean, covariance = gaussian
        save_file({"mean": mean.contiguous(), "covariance": covariance.contiguous()}, draft)


def fid(space: FeatureSpace, real: Iterable[Tensor], others: Iterable[Tensor]) -> float | None:
    """FID between two streams of batches of images (N, 3, H, W) in [-1, 1]; None with under two on a side."""
    features, sides = Features(space), (Moments(), Moments())
    for moments, images in zip(sides, (real, others)):
        for batch in images:
            moments.add(features(batch))
    if min(moments.count for moments in sides) < 2:
        return None
    return frechet(sides[0].gaussian(), sides[1].gaussian())
