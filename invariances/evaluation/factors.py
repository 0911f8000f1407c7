"""How much of each known factor a layer keeps: told by samples, and by a probe of the layer itself.

Both numbers share one scale. For a continuous factor f, samples s of a picture x give

    kept = 1 − E[(f(s) − f(x))²] / (2 Var f),

which is 0 where samples are as random pictures and 1 where they are as x. A sampler of the true posterior has
E[(f(s) − f(x))²] = 2 E[Var(f | z)], so kept is then R² of the best regression on z: what the probe estimates.
For a discrete factor, agreement of s with x under the true posterior is E[p(true kind | z)], the mean
probability that a calibrated probe gives to the truth; chance is taken out of both, the reader's errors out
of the samples'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invariances.data.shapes import FACTORS
from invariances.evaluation.looking import Accumulator, Batch, Drawn
from invariances.evaluation.tables import STATISTICS, Table
from invariances.zoo.factor_reader import SLICES, FactorReader, Factors, targets


def kept_by_samples(samples: Factors, truth: Factors, reconstruction: Factors) -> dict[str, float]:
    """Share of each factor that samples keep, 0 (as a random picture) to 1 (as the reconstruction).

    Args:
        samples: factors read off decoded samples, (N, n) each, n samples of each of N pictures.
        truth: factors of the pictures, (N,) each.
        reconstruction: factors read off decoded reconstructions, (N,) each; discrete factors that the reader
            (or the autoencoder) loses there are not held against the samples.

    Returns:
        One number per factor of `truth`; sampling noise may carry it a little below 0 or above 1.

    Raises:
        ValueError: shapes do not fit, or a factor does not vary over the pictures.
    """
    apart: dict[str, Tensor] = {}
    for name, value in truth.items():
        sample = samples[name]
        if sample.dim() != 2 or value.shape != sample.shape[:1] or reconstruction[name].shape != value.shape:
            raise ValueError(f"{name}: samples (N, n) need truth and reconstruction (N,), not {value.shape}")
        apart[name] = _apart(name, sample, value[:, None]).mean(dim=1)
    return {
        name: float(STATISTICS[table.statistic](table.values.mean(dim=0, keepdim=True))[0])
        for name, table in _told(apart, truth, reconstruction).items()
    }


def _apart(name: str, one: Tensor, other: Tensor) -> Tensor:
    """Whether kinds agree, or the squared distance of continuous factors; float64."""
    if FACTORS[name].discrete:
        return (one == other).double()
    return (_embed(name, one) - _embed(name, other)).square().sum(-1)


def _told(apart: Mapping[str, Tensor], truth: Factors, reconstruction: Factors) -> dict[str, Table]:
    """By factor, of `_apart` of the samples, mean over them, (N,)."""
    out: dict[str, Table] = {}
    for name, value in truth.items():
        if FACTORS[name].discrete:
            right = (reconstruction[name] == value).double()
            columns, statistic = [apart[name], right, _chance(value).expand_as(right)], "over_chance"
        else:
            points = _embed(name, value)
            _spread(name, points)
            columns, statistic = [apart[name], (points - points.mean(0)).square().sum(1)], "explained"
        out[name] = Table(torch.stack(columns, dim=1), statistic)
    return out


class KeptFactors(Accumulator):
    """`kept_by_samples` in a pass, with intervals: `{"factors": {…}, "factors_interval": {…}}`.

    Memory does not grow with n.

    Args:
        reader: gives the factors of decoded pictures.
        truth: factors of the pictures, (N,) each.
        n: samples per picture.
        seed: of the bootstrap.
    """

    def __init__(self, reader: FactorReader, truth: Factors, n: int, seed: int = 0) -> None:
        self.reader, self.truth, self.n, self.seed = reader, truth, n, seed
        self.apart = {name: torch.zeros(len(each), dtype=torch.float64) for name, each in truth.items()}
        self.reconstruction = {name: torch.zeros_like(each) for name, each in truth.items()}

    def pictures(self, batch: Batch) -> None:
        """Reads reconstructions."""
        found = self.reader.read(batch.reconstructions.images)
        for name, each in self.reconstruction.items():
            each[batch.indices] = found[name].cpu().to(each.dtype)

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Reads samples."""
        found = self.reader.read(drawn.seen.images)
        for name, each in self.apart.items():
            each[batch.indices] += _apart(name, found[name].cpu(), self.truth[name][batch.indices]) / self.n

    def tables(self) -> dict[str, Table]:
        """What the numbers are made of, by factor."""
        return _told(self.apart, self.truth, self.reconstruction)

    def result(self) -> dict[str, Any]:
        """The numbers."""
        found: dict[str, Any] = {}
        intervals: dict[str, Any] = {}
        for name, table in self.tables().items():
            found |= table.told(name, self.seed)
            intervals[name] = found.pop(f"{name}_interval", None)
        return {"factors": found, "factors_interval": intervals}


def kept_by_probe(outputs: Tensor, truth: Factors) -> dict[str, float]:
    """Share of each factor that a representation keeps, by a calibrated probe's outputs on kept-out pictures.

    Args:
        outputs: (N, OUTPUTS) of a `FactorReader` on the representations.
        truth: factors of the pictures, (N,) each.

    Returns:
        R² for continuous factors (hues on the circle); for discrete ones the mean probability of the truth,
        chance taken out.
    """
    wanted, out = targets(truth), {}
    for name in truth:
        part = outputs[:, SLICES[name]].double()
        if FACTORS[name].discrete:
            chance = _chance(truth[name])
            probability = part.softmax(1).gather(1, truth[name][:, None]).mean()
            out[name] = float((probability - chance) / (1 - chance))
        else:
            error = (part - wanted[:, SLICES[name]].double()).square().sum(1).mean()
            out[name] = float(1 - error / _spread(name, wanted[:, SLICES[name]].double()))
    return out


def reading_quality(read: Factors, truth: Factors) -> dict[str, float]:
    """How well factors were read: share of right kinds, or R² (hues on the circle), per factor; (N,) each."""
    out = {}
    for name in truth:
        if FACTORS[name].discrete:
            out[name] = float((read[name] == truth[name]).double().mean())
        else:
            a, b = _embed(name, read[name]), _embed(name, truth[name])
            out[name] = float(1 - (a - b).square().sum(-1).mean() / _spread(name, b))
    return out


def _chance(kinds: Tensor) -> Tensor:
    """Σ p(kind)²: how often two pictures of this world agree."""
    share = torch.bincount(kinds).double() / len(kinds)
    return share.square().sum()


def _embed(name: str, value: Tensor) -> Tensor:
    """A continuous factor as a point (…, 1), or as one on the unit circle (…, 2)."""
    if FACTORS[name].circular:
        angle = 2 * math.pi * value.double()
        return torch.stack([angle.cos(), angle.sin()], -1)
    return value.double().unsqueeze(-1)


def _spread(name: str, points: Tensor) -> Tensor:
    """E‖e − E e‖², the variance of points (N, k)."""
    spread = (points - points.mean(0)).square().sum(1).mean()
    if not float(spread) > 0:
        raise ValueError(f"{name} does not vary over these pictures, so nothing can be said about keeping it")
    return spread
