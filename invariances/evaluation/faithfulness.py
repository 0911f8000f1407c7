"""Do samples look to the network like the picture they come from?

Every sample is shown to the network again, and its representation and top class are compared with the picture's own.
Two yardsticks stand beside it: the autoencoder's reconstruction, which no sample can be expected to beat, and a
random other picture, which a sampler that knew nothing would not beat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invariances.evaluation.bootstrap import missing, number
from invariances.evaluation.classes import Classes
from invariances.evaluation.looking import Accumulator, Batch, Drawn, Pair

YARDSTICKS = ("samples", "reconstructions", "others")
_LEAST = 1e-6
"""A scale shorter than this is none."""


def cosine(z: Tensor, other: Tensor) -> Tensor:
    """⟨z, z'⟩ / (‖z‖ ‖z'‖) of representations (N, ...), each taken as one vector; (N,)."""
    similarity: Tensor = F.cosine_similarity(z.flatten(1).double(), other.flatten(1).double(), dim=1)
    return similarity


def relative_l2(z: Tensor, other: Tensor) -> Tensor:
    """‖z' − z‖ / ‖z‖ of representations (N, ...), each taken as one vector; (N,)."""
    z, other = z.flatten(1).double(), other.flatten(1).double()
    distance: Tensor = (other - z).norm(dim=1) / z.norm(dim=1).clamp_min(1e-12)
    return distance


MEASURES: dict[str, Literal["higher", "lower"]] = {"cosine": "higher", "relative_l2": "lower"}
"""Measures of likeness, and which values of each are the better ones."""
_HOW = {"cosine": cosine, "relative_l2": relative_l2}


def scaled(means: Tensor, better: Literal["higher", "lower"]) -> Tensor:
    """(value − random) / (reconstruction − random): 0 as a random other picture, 1 as the reconstruction.

    NaN where the scale has lost its order: the random other is no worse than the reconstruction, or as good as alike.

    Args:
        means: of samples, reconstructions and random others, (R, 3).
        better: which values are the better ones.
    """
    value, reconstruction, random = means.unbind(1)
    span = reconstruction - random
    ordered = (span if better == "higher" else -span) > _LEAST
    return torch.where(ordered, (value - random) / span, math.nan)


def scaled_number(
    name: str, values: Mapping[str, Tensor], better: Literal["higher", "lower"], seed: int = 0
) -> dict[str, Any]:
    """`name` on the scale of `scaled`, with its interval, or with the reason why it cannot be had.

    Args:
        name: of the number.
        values: per picture, (N,), of samples, reconstructions and others.
        better: which values are the better ones.
        seed: of the bootstrap.
    """
    others = values["others"]
    if not bool(others.isfinite().any()):
        return missing(name, "all pictures are alike, so there is no random other to compare with")
    table = torch.stack([values[each] for each in YARDSTICKS], dim=1)
    found = number(name, table, lambda means: scaled(means, better), seed)
    if math.isnan(found[name]):
        said = f"{float(others.mean()):.4g} and {float(values['reconstructions'].mean()):.4g}"
        return missing(
            name,
            f"random other pictures are no worse than the reconstructions ({said}), so there is no scale",
        )
    if f"{name}_interval" not in found and len(others) > 1:
        found[f"{name}_interval_reason"] = (
            "the scale is lost in many resampled sets; more pictures would tell"
        )
    return found


class Faithfulness(Accumulator):
    """How well the network recognises its own samples.

    `faithfulness_cosine`, `faithfulness_relative_l2`: means over pictures and samples of `cosine` and `relative_l2`
    between z of the picture and z of the sample, `scaled`. `cosine`, `relative_l2`: the means themselves, of samples,
    reconstructions and random other pictures. `top1_agreement`: share of samples whose class is the picture's, and
    under `top1_agreement_reconstructions` and `top1_agreement_others` the same of the yardsticks.
    `autoencoder_mae`: mean |x − D(E(x))| over pixels in [-1, 1]. Each with its interval, or None and a reason.

    Args:
        count: Pictures.
        n: Samples of each.
        classes: Of the network.
        layer: Where to measure, one of the pass's; by default the layer that samples are drawn for.
        seed: Of the bootstrap.
    """

    def __init__(self, count: int, n: int, classes: Classes, layer: str | None = None, seed: int = 0) -> None:
        self.n, self.classes, self.layer, self.seed = n, classes, layer, seed
        names = [f"{measure} {each}" for measure in (*MEASURES, "top1") for each in YARDSTICKS]
        self.values = {name: torch.zeros(count, dtype=torch.float64) for name in [*names, "mae"]}
        for measure in (*MEASURES, "top1"):
            self.values[f"{measure} others"].fill_(math.nan)

    def pictures(self, batch: Batch) -> None:
        """Compares reconstructions."""
        self._compare("reconstructions", batch.indices, batch.pictures, batch.reconstructions)
        error = (batch.pictures.images - batch.reconstructions.images).abs().flatten(1).double().mean(dim=1)
        self.values["mae"][batch.indices] = error.cpu()

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Compares samples."""
        self._compare("samples", batch.indices, batch.pictures, drawn.seen, 1 / self.n)

    def others(self, pair: Pair) -> None:
        """Compares other pictures."""
        for measure in (*MEASURES, "top1"):
            self.values[f"{measure} others"][pair.indices] = 0.0
        self._compare("others", pair.indices, pair.one[0], pair.other[0])

    def _compare(self, name: str, indices: Tensor, one: Any, other: Any, share: float = 1.0) -> None:
        a, b = (each.z if self.layer is None else each.layers[self.layer] for each in (one, other))
        for measure in MEASURES:
            self.values[f"{measure} {name}"][indices] += share * _HOW[measure](a, b).cpu()
        if self.classes.kind is not None:
            same = self.classes.of(one.logits) == self.classes.of(other.logits)
            self.values[f"top1 {name}"][indices] += share * same.double().cpu()

    def result(self) -> dict[str, Any]:
        """The numbers."""
        found: dict[str, Any] = {}
        for measure, better in MEASURES.items():
            values = {each: self.values[f"{measure} {each}"] for each in YARDSTICKS}
            found |= scaled_number(f"faithfulness_{measure}", values, better, self.seed)
            found[measure] = {}
            for each, of in values.items():
                found[measure] |= self._mean(each, of)
        for each in YARDSTICKS:
            name = "top1_agreement" + ("" if each == "samples" else f"_{each}")
            if self.classes.kind is None:
                found |= missing(name, self.classes.reason)
            else:
                found |= self._mean(name, self.values[f"top1 {each}"])
        found["top1_agreement_of"] = self.classes.kind
        return found | number("autoencoder_mae", self.values["mae"], seed=self.seed)

    def _mean(self, name: str, values: Tensor) -> dict[str, Any]:
        if bool(values.isnan().any()):
            return missing(name, "all pictures are alike, so there is no random other")
        return number(name, values, seed=self.seed)
