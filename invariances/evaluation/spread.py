"""How much do samples vary to the eye, and where in the picture?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from invariances.evaluation.looking import Accumulator, Batch, Drawn, Pair
from invariances.evaluation.tables import Table
from invariances.representation.representation import Representation


class Distance(Protocol):
    """How far two pictures are apart."""

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """(B,) between images (B, 3, S, S)."""


def in_pixels(one: Tensor, other: Tensor) -> Tensor:
    """‖x − x'‖², (B,)."""
    distance: Tensor = (one - other).flatten(1).double().square().sum(dim=1)
    return distance


class InFeatures:
    """‖Φ(x) − Φ(x')‖² in a layer of any network."""

    def __init__(self, representation: Representation) -> None:
        self.representation = representation

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """(B,) between images (B, 3, S, S)."""
        both = self.representation(torch.cat([one, other])).flatten(1).double()
        distance: Tensor = (both[: len(one)] - both[len(one) :]).square().sum(dim=1)
        return distance


class Spread(Accumulator):
    """E d(x', x'') of two samples of one picture, over E d(x̂, x̂°) of two pictures' reconstructions.

    0: samples are all the same; 1: they vary as pictures do. With squared distances this is the share of the
    variance that remains. Takes two samples per picture at least.

    Args:
        name: Of the number.
        distance: Between pictures: `in_pixels`, `InFeatures`, or LPIPS.
        count: Pictures.
        seed: Of the bootstrap.
    """

    def __init__(self, name: str, distance: Distance, count: int, seed: int = 0) -> None:
        self.name, self.distance, self.seed = name, distance, seed
        self.values = torch.zeros(count, 2, dtype=torch.float64)
        self.values[:, 1] = math.nan
        self.pairs = torch.zeros(count, dtype=torch.float64)
        self.before: Tensor | None = None

    def pictures(self, batch: Batch) -> None:
        """A new batch: its samples have none before them."""
        self.before = None

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Compares each sample with the one before it."""
        if self.before is not None:
            apart = self.distance(self.before, drawn.seen.images).double().cpu()
            self.values[batch.indices, 0] += apart
            self.pairs[batch.indices] += 1
        self.before = drawn.seen.images

    def others(self, pair: Pair) -> None:
        """Compares the reconstructions of two pictures."""
        apart = self.distance(pair.one[1].images, pair.other[1].images).double().cpu()
        self.values[pair.indices, 1] = apart

    def tables(self) -> dict[str, Table]:
        """What the number is made of."""
        values = self.values.clone()
        values[:, 0] /= self.pairs  # NaN where there was one sample only
        return {self.name: Table(values, "ratio")}

    def result(self) -> dict[str, Any]:
        """The number."""
        return self.tables()[self.name].told(self.name, self.seed)


class Map(Accumulator):
    """Where samples vary: per pixel, the standard deviation over samples, root of the mean over channels.

    Bright places are those that the layer does not look at, or whose content it has let go.

    Args:
        shown: Pictures whose own map is kept.
        n: Samples per picture.

    Attributes:
        own: maps (S, S) by picture.
    """

    def __init__(self, shown: Sequence[int] = (), n: int = 8) -> None:
        self.shown, self.n = set(shown), n
        self.own: dict[int, Tensor] = {}
        self.total: Tensor | None = None
        self.count = 0
        self._first: Tensor = torch.empty(0)
        self._sums: list[Tensor] = []

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Takes one sample of each picture in."""
        x = drawn.seen.images.double().cpu()
        if drawn.column == 0:
            self._first, self._sums = x, [torch.zeros_like(x), torch.zeros_like(x)]
        apart = x - self._first
        self._sums[0] += apart
        self._sums[1] += apart.square()
        if drawn.column < self.n - 1 or self.n < 2:
            return
        variance = (self._sums[1] - self._sums[0].square() / self.n) / (self.n - 1)
        maps = variance.clamp(min=0).mean(dim=1)
        self.total = maps.sum(dim=0) + (0.0 if self.total is None else self.total)
        self.count += len(maps)
        for index, each in zip(batch.indices.tolist(), maps):
            if index in self.shown:
                self.own[index] = each.sqrt()

    def mean(self) -> Tensor:
        """The map (S, S) of all pictures together."""
        if self.total is None:
            return torch.zeros(1, 1, dtype=torch.float64)
        return (self.total / self.count).sqrt()
