"""How much of what is known of pictures a layer keeps, for any attribute: told by samples, and by a probe.

    samples: 1 − E[(r(z̄') − r(z̄))²] / (2 Var r), or the agreement of r(z̄') with r(z̄), chance taken out,

for a reader r that learned the attribute from the autoencoder's code of training pictures; z̄ is the picture's code, z̄'
a sample's. The probe learned it from z itself: R², or the mean calibrated probability of the truth, chance taken out.
Both are 0 where nothing is kept, and 1 where all is. As z̄ and z̄' are alike given z, the first is, for a true sampler,
what could at best be read of r(z̄) from z. `readable` says how well r reads pictures kept out: what it does not read,
samples cannot tell of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.data.attributes import Attribute
from invariances.evaluation.looking import Accumulator, Batch, Drawn
from invariances.evaluation.tables import Table
from invariances.flow.embedders.embedder import log_probabilities
from invariances.flow.embedders.residual import residual_network


class AttributeReader(nn.Module):
    """Reads attributes off vectors or maps.

    Args:
        shape: of the input without batch.
        attributes: of the training pictures, by name; their kinds, means and deviations are kept.
        width: as of `residual_network`.
        probabilities: the input is a softmax, whose logarithm is read.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        attributes: Mapping[str, Attribute],
        width: int = 16,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.attributes, self.probabilities = dict(attributes), probabilities
        self.slices: dict[str, slice] = {}
        self.scales: dict[str, tuple[float, float]] = {}
        start = 0
        for name, each in attributes.items():
            columns = len(each.kinds) or (2 if each.circular else 1)
            self.slices[name], start = slice(start, start + columns), start + columns
            if not each.kinds and not each.circular:
                known = each.values[each.known]
                self.scales[name] = float(known.mean()), max(float(known.std()), 1e-12)
        self.net = residual_network(shape, width, start, "batch")
        self.register_buffer("scale", torch.ones(start))
        self.register_buffer("shift", torch.zeros(start))

    def forward(self, inputs: Tensor) -> Tensor:
        """Calibrated outputs of inputs (N, *shape)."""
        raw: Tensor = self.net(log_probabilities(inputs) if self.probabilities else inputs)
        return raw * self.scale + self.shift

    def part(self, outputs: Tensor, name: str) -> Tensor:
        """The columns of one attribute: logits, standardised values, or points on the circle."""
        return outputs[:, self.slices[name]]

    def wanted(self, attribute: Attribute, name: str) -> Tensor:
        """What a perfect reader gives of a continuous attribute, (N, k) float64."""
        if attribute.circular:
            angle = 2 * math.pi * attribute.values
            return torch.stack([angle.cos(), angle.sin()], dim=1)
        mean, deviation = self.scales[name]
        return ((attribute.values - mean) / deviation)[:, None]

    def loss(self, outputs: Tensor, truth: Mapping[str, Attribute]) -> Tensor:
        """Σ cross-entropy of discrete attributes + Σ squared error of continuous ones, where known; a scalar."""
        total = outputs.sum() * 0
        for name, each in truth.items():
            known = each.known
            if not bool(known.any()):
                continue
            part = self.part(outputs, name)[known.to(outputs.device)]
            if each.kinds:
                total = total + F.cross_entropy(part, each.values[known].to(outputs.device))
            else:
                total = total + (part - self.wanted(each, name)[known].to(part)).square().sum(1).mean()
        return total

    @torch.no_grad()
    def calibrate(self, outputs: Tensor, truth: Mapping[str, Attribute]) -> None:
        """Fits a temperature to discrete attributes and a line to continuous ones, on outputs of other pictures."""
        for name, each in truth.items():
            known, place = each.known, self.slices[name]
            if int(known.sum()) < 2:
                continue
            part = self.part(outputs, name)[known].double()
            if each.kinds:
                grid = torch.logspace(-1.5, 1, 60, dtype=torch.float64)
                losses = [F.cross_entropy(part * scale, each.values[known]) for scale in grid]
                self.scale[place] = float(grid[int(torch.stack(losses).argmin())])
                continue
            wanted = self.wanted(each, name)[known]
            variance = part.var(0, unbiased=False).clamp(min=1e-12)
            slope = (((part - part.mean(0)) * (wanted - wanted.mean(0))).mean(0) / variance).clamp(0, 1.5)
            self.scale[place] = slope.to(self.scale)
            self.shift[place] = (wanted.mean(0) - slope * part.mean(0)).to(self.shift)


@torch.no_grad()
def probed(
    reader: AttributeReader, batches: Iterable[tuple[Tensor, Tensor]], truth: Mapping[str, Attribute]
) -> dict[str, Table]:
    """How well a reader reads each attribute of pictures kept out, of those whose truth is known.

    Args:
        reader: Trained and calibrated on others.
        batches: Inputs, as (which pictures, inputs).
        truth: Of all pictures.
    """
    home = next(reader.parameters()).device
    parts = [(indices, reader(inputs.to(home)).double().cpu()) for indices, inputs in batches]
    order = torch.cat([indices for indices, _ in parts]).argsort()
    outputs = torch.cat([each for _, each in parts])[order]
    found = {}
    for name, given in truth.items():
        known = given.known
        part, each = reader.part(outputs, name)[known], given.at(known)
        if not len(part):
            continue
        if each.kinds:
            right = part.softmax(1).gather(1, each.values[:, None])[:, 0]
            found[name] = _over_chance(right, each.values)
        else:
            wanted = reader.wanted(each, name)
            error, spread = (part - wanted).square().sum(1), (wanted - wanted.mean(0)).square().sum(1)
            found[name] = Table(torch.stack([2 * error, spread], dim=1), "explained")
    return found


class KeptAttributes(Accumulator):
    """The share of each attribute that samples keep; memory does not grow with n.

    Args:
        reader: Of the autoencoder's code.
        count: Pictures.
        n: Samples of each.
    """

    def __init__(self, reader: AttributeReader, count: int, n: int) -> None:
        self.reader, self.n = reader, n
        self.own: dict[str, Tensor] = {}
        self.apart = {name: torch.zeros(count, dtype=torch.float64) for name in reader.attributes}
        self.count = count

    def pictures(self, batch: Batch) -> None:
        """Reads the pictures' codes."""
        for name, found in self._read(batch.posterior.mode()).items():
            if name not in self.own:
                self.own[name] = torch.zeros(self.count, *found.shape[1:], dtype=found.dtype)
            self.own[name][batch.indices] = found

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Reads the samples' codes."""
        for name, found in self._read(drawn.latents).items():
            own = self.own[name][batch.indices]
            far = (
                (found == own).double()
                if self.reader.attributes[name].kinds
                else (found - own).square().sum(1)
            )
            self.apart[name][batch.indices] += far / self.n

    def _read(self, latents: Tensor) -> dict[str, Tensor]:
        outputs = self.reader(latents)
        found = {}
        for name, each in self.reader.attributes.items():
            part = self.reader.part(outputs, name).double().cpu()
            found[name] = part.argmax(1) if each.kinds else part
        return found

    def tables(self) -> dict[str, Table]:
        """What the numbers are made of, by attribute."""
        found = {}
        for name, own in self.own.items():
            if self.reader.attributes[name].kinds:
                found[name] = _over_chance(self.apart[name], own)
            else:
                spread = (own - own.mean(0)).square().sum(1)
                found[name] = Table(torch.stack([self.apart[name], spread], dim=1), "explained")
        return found


def _over_chance(agreement: Tensor, kinds: Tensor) -> Table:
    """A share over chance Σ p(kind)²: how often two of these pictures agree; (N, 3)."""
    share = torch.bincount(kinds).double() / len(kinds)
    chance = share.square().sum().expand_as(agreement)
    return Table(torch.stack([agreement, torch.ones_like(agreement), chance], dim=1), "over_chance")
