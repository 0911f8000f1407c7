"""Does the network predict the same for samples as for the picture?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invariances.evaluation.bootstrap import missing
from invariances.evaluation.classes import Classes
from invariances.evaluation.faithfulness import YARDSTICKS
from invariances.evaluation.looking import Accumulator, Batch, Drawn, Pair, Seen
from invariances.evaluation.tables import Table


class PredictionKL(Accumulator):
    """KL(p(x) ‖ p(x')) in nats between the predictions for a picture and for its samples; 0: the same.

    `prediction_kl`, and under `prediction_kl_reconstructions` and `prediction_kl_others` the yardsticks. Of one logit
    the prediction is (1 − σ, σ).

    Args:
        count: Pictures.
        n: Samples of each.
        classes: Of the network.
        seed: Of the bootstrap.
    """

    def __init__(self, count: int, n: int, classes: Classes, seed: int = 0) -> None:
        self.n, self.classes, self.seed = n, classes, seed
        self.values = {name: torch.zeros(count, dtype=torch.float64) for name in YARDSTICKS}
        self.values["others"].fill_(math.nan)

    def pictures(self, batch: Batch) -> None:
        """Compares reconstructions."""
        self._compare("reconstructions", batch.indices, batch.pictures, batch.reconstructions, 1.0)

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Compares samples."""
        self._compare("samples", batch.indices, batch.pictures, drawn.seen, 1 / self.n)

    def others(self, pair: Pair) -> None:
        """Compares other pictures."""
        self.values["others"][pair.indices] = 0.0
        self._compare("others", pair.indices, pair.one[0], pair.other[0], 1.0)

    def _compare(self, name: str, indices: Tensor, one: Seen, other: Seen, share: float) -> None:
        if one.logits is None or other.logits is None:
            return
        p, q = (
            self.classes.log_probabilities(each.logits) for each in (one, other) if each.logits is not None
        )
        self.values[name][indices] += share * (p.exp() * (p - q)).sum(dim=1).cpu()

    def tables(self) -> dict[str, Table]:
        """What the numbers are made of."""
        if self.classes.kind is None:
            return {}
        return {_named(each): Table(self.values[each][:, None]) for each in YARDSTICKS}

    def result(self) -> dict[str, Any]:
        """The numbers."""
        found: dict[str, Any] = {}
        for each in YARDSTICKS:
            if self.classes.kind is None:
                found |= missing(_named(each), self.classes.reason)
            else:
                found |= Table(self.values[each][:, None]).told(_named(each), self.seed)
        return found


def _named(yardstick: str) -> str:
    return "prediction_kl" + ("" if yardstick == "samples" else f"_{yardstick}")
