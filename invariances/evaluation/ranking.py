"""Can the network tell from a sample which of N pictures it came from?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invariances.evaluation.looking import Accumulator, Batch, Drawn
from invariances.evaluation.tables import Table
from invariances.system.seeds import seeded

EXACT = 4096
"""Longer representations are added up into half as many numbers, with random signs: products stay within 1 or 2 %."""
_COLUMNS = 4
_CHUNK = 1024


class Ranking(Accumulator):
    """Mean reciprocal rank of the source among all N pictures, by cosine in z: 1, always first; about ln N / N, chance.

    Of up to four samples per picture, so that memory does not grow with n. Equals share their places. Representations
    of more than `EXACT` numbers are sketched (Charikar et al. 2002). `source_rank_reconstructions` is the yardstick.

    Args:
        count: Pictures.
        n: Samples of each.
        seed: Of the sketch and of the bootstrap.
    """

    def __init__(self, count: int, n: int, seed: int = 0) -> None:
        self.count, self.columns, self.seed = count, min(n, _COLUMNS), seed
        self.known: Tensor | None = None
        self.asked: list[Tensor] = []
        self.sketch: tuple[Tensor, Tensor] | None = None

    def pictures(self, batch: Batch) -> None:
        """Keeps the pictures' directions, and their reconstructions'."""
        z = self._direction(batch.pictures.z)
        if self.known is None:
            self.known = z.new_zeros(self.count, z.shape[1])
            self.asked = [z.new_zeros(self.count, z.shape[1]) for _ in range(self.columns + 1)]
        self.known[batch.indices] = z
        self.asked[0][batch.indices] = self._direction(batch.reconstructions.z)

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Keeps the samples' directions."""
        if drawn.column < self.columns:
            self.asked[drawn.column + 1][batch.indices] = self._direction(drawn.seen.z)

    def _direction(self, z: Tensor) -> Tensor:
        flat = z.flatten(1).float()
        if flat.shape[1] > EXACT:
            if self.sketch is None:
                generator = seeded("sketch", self.seed)
                places = torch.randint(EXACT // 2, (flat.shape[1],), generator=generator)
                signs = 2.0 * torch.randint(2, (flat.shape[1],), generator=generator) - 1
                self.sketch = places.to(flat.device), signs.to(flat)
            places, signs = self.sketch
            flat = flat.new_zeros(len(flat), EXACT // 2).index_add_(1, places, flat * signs)
        unit: Tensor = torch.nn.functional.normalize(flat, dim=1)
        return unit.cpu()

    def tables(self) -> dict[str, Table]:
        """What the numbers are made of."""
        if self.known is None:
            return {}
        ranks = [reciprocal_rank(self.known, each) for each in self.asked]
        return {
            "source_rank": Table(torch.stack(ranks[1:]).mean(dim=0)[:, None]),
            "source_rank_reconstructions": Table(ranks[0][:, None]),
        }

    def result(self) -> dict[str, Any]:
        """The numbers."""
        found: dict[str, Any] = {}
        for name, table in self.tables().items():
            found |= table.told(name, self.seed)
        return found


def reciprocal_rank(known: Tensor, asked: Tensor) -> Tensor:
    """1 / rank of row i of `known` by its product with row i of `asked`, both (N, C) of unit length; (N,).

    A rank is 1 + the number of rows that are nearer + half the number of those that are as near.
    """
    found = []
    for start in range(0, len(asked), _CHUNK):
        part = asked[start : start + _CHUNK]
        likeness = part @ known.T
        own = likeness.gather(1, torch.arange(start, start + len(part))[:, None])
        nearer = (likeness > own + 1e-6).sum(dim=1)
        alike = ((likeness - own).abs() <= 1e-6).sum(dim=1) - 1
        found.append(1 / (1 + nearer + 0.5 * alike.double()))
    return torch.cat(found)
