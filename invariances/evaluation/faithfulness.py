"""Do samples look to the network like the picture they come from?

Every sample is shown to the network again, and its representation and top class are compared with the picture's own.
Two yardsticks stand beside it: the autoencoder's reconstruction, which no sample can be expected to beat, and a
random other picture, which a sampler that knew nothing would not beat.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invariances.evaluation.bootstrap import missing, number
from invariances.evaluation.classes import Classes
from invariances.evaluation.looking import Accumulator, Batch, Drawn, Pair
from invariances.evaluation.tables import Table

YARDSTICKS = ("samples", "reconstructions", "others")


def cosine(z: Tensor, other: Tensor) -> Tensor:
    """⟨z, z'⟩ / (‖z‖ ‖z'‖) of representations (N, ...), each taken as one vector; (N,)."""
    similarity: Tensor = F.cosine_similarity(z.flatten(1).double(), other.flatten(1).double(), dim=1)
    return similarity


def relative_l2(z: Tensor, other: Tensor) -> Tensor:
    """‖z' − z‖ / ‖z‖ of representations (N, ...), each taken as one vector; (N,)."""
    z, other = z.flatten(1).double(), other.flatten(1).double()
    distance: Tensor = (other - z).norm(dim=1) / z.norm(dim=1).clamp_min(1e-12)
    return distance


MEASURES = {"cosine": ("scaled_higher", cosine), "relative_l2": ("scaled_lower", relative_l2)}
"""Measures of likeness: how they are scaled, and how they are taken."""


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
            self.values[f"{measure} {name}"][indices] += share * MEASURES[measure][1](a, b).cpu()
        if self.classes.kind is not None:
            same = self.classes.of(one.logits) == self.classes.of(other.logits)
            self.values[f"top1 {name}"][indices] += share * same.double().cpu()

    def tables(self) -> dict[str, Table]:
        """What the numbers are made of; a layer other than the samples' has its name in front of them."""
        found = {
            f"faithfulness_{measure}": Table(
                torch.stack([self.values[f"{measure} {each}"] for each in YARDSTICKS], dim=1), how
            )
            for measure, (how, _) in MEASURES.items()
        }
        if self.classes.kind is not None:
            for each in YARDSTICKS:
                name = "top1_agreement" + ("" if each == "samples" else f"_{each}")
                found[name] = Table(self.values[f"top1 {each}"][:, None])
        return found | {"autoencoder_mae": Table(self.values["mae"][:, None])}

    def result(self) -> dict[str, Any]:
        """The numbers."""
        found: dict[str, Any] = {}
        tables = self.tables()
        for measure in MEASURES:
            table = tables[f"faithfulness_{measure}"]
            found |= self._scaled(f"faithfulness_{measure}", table)
            found[measure] = {}
            for each, of in zip(YARDSTICKS, table.values.unbind(1)):
                found[measure] |= self._mean(each, of)
        for each in YARDSTICKS:
            name = "top1_agreement" + ("" if each == "samples" else f"_{each}")
            if self.classes.kind is None:
                found |= missing(name, self.classes.reason)
            else:
                found |= self._mean(name, self.values[f"top1 {each}"])
        found["top1_agreement_of"] = self.classes.kind
        return found | number("autoencoder_mae", self.values["mae"], seed=self.seed)

    def _scaled(self, name: str, table: Table) -> dict[str, Any]:
        if not bool(table.values.isfinite().all()):
            return missing(name, "all pictures are alike, so there is no random other to compare with")
        found = table.told(name, self.seed)
        if found[name] is None:
            _, reconstruction, random = table.values.mean(dim=0).tolist()
            return missing(
                name,
                f"random other pictures are no worse than the reconstructions ({random:.4g} and "
                f"{reconstruction:.4g}), so there is no scale",
            )
        if f"{name}_interval" not in found and len(table.values) > 1:
            found[f"{name}_interval_reason"] = (
                "the scale is lost in many resampled sets; more pictures would tell"
            )
        return found

    def _mean(self, name: str, values: Tensor) -> dict[str, Any]:
        if bool(values.isnan().any()):
            return missing(name, "all pictures are alike, so there is no random other")
        return number(name, values, seed=self.seed)
