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
    return {
        name: float(STATISTICS[table.statistic](table.values.mean(dim=0, keepdim=True))[0])
        for name, table in _told(samples, truth, reconstruction).items()
    }


def _told(samples: Factors, truth: Factors, reconstruction: Factors) -> dict[str, Table]:
    out: dict[str, Table] = {}
    for name in truth:
        sample, value = samples[name], truth[name]
        if sample.dim() != 2 or value.shape != sample.shape[:1] or reconstruction[name].shape != value.shape:
            raise ValueError(f"{name}: samples (N, n) need truth and reconstruction (N,), not {value.shape}")
        if FACTORS[name].discrete:
            agreement = (sample == value[:, None]).double().mean(dim=1)
            right = (reconstruction[name] == value).double()
            columns, statistic = [agreement, right, _chance(value).expand_as(right)], "over_chance"
        else:
            a, b = _embed(name, sample), _embed(name, value)
            apart = (a - b[:, None]).square().sum(-1).mean(dim=1)
            _spread(name, b)
            columns, statistic = [apart, (b - b.mean(0)).square().sum(1)], "explained"
        out[name] = Table(torch.stack(columns, dim=1), statistic)
    return out


class KeptFactors(Accumulator):
    """`kept_by_samples` in a pass, with intervals: `{"factors": {…}, "factors_interval": {…}}`.

    Args:
        reader: gives the factors of decoded pictures.
        truth: factors of the pictures, (N,) each.
        n: samples per picture.
        seed: of the bootstrap.
    """

    def __init__(self, reader: FactorReader, truth: Factors, n: int, seed: int = 0) -> None:
        self.reader, self.truth, self.n, self.seed = reader, truth, n, seed
        self.read: dict[str, Tensor] = {}
        self.reconstruction: dict[str, Tensor] = {}

    def pictures(self, batch: Batch) -> None:
        """Reads reconstructions."""
        for name, found in self.reader.read(batch.reconstructions.images).items():
            self._home(self.reconstruction, name, found)[batch.indices] = found.cpu()

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Reads samples."""
        for name, found in self.reader.read(drawn.seen.images).items():
            self._home(self.read, name, found, self.n)[batch.indices, drawn.column] = found.cpu()

    def _home(self, where: dict[str, Tensor], name: str, like: Tensor, *more: int) -> Tensor:
        if name not in where:
            count = len(next(iter(self.truth.values())))
            where[name] = torch.zeros(count, *more, dtype=like.dtype)
        return where[name]

    def tables(self) -> dict[str, Table]:
        """What the numbers are made of, by factor."""
        return _told(self.read, self.truth, self.reconstruction)

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
