"""Numbers as tables of pictures: what a mean or a ratio is made of, so that two networks can be compared in pairs.

A `Table` holds some columns per picture, and the name of how the number follows from their means. It can be kept in a
file; the interval of the difference of two tables of the same pictures comes of resampling the same pictures in both.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invariances.evaluation.bootstrap import Statistic, interval, missing, number
from invariances.system.errors import UserError
from invariances.system.files import atomic


def _mean(means: Tensor) -> Tensor:
    return means[:, 0]


def _ratio(means: Tensor) -> Tensor:
    return torch.where(means[:, 1] > 0, means[:, 0] / means[:, 1], math.nan)


def _explained(means: Tensor) -> Tensor:
    return 1 - _ratio(means) / 2


def _over_chance(means: Tensor) -> Tensor:
    """(agreement − chance) / (ceiling − chance)."""
    ceiling = means[:, 1] - means[:, 2]
    return torch.where(ceiling > 1e-6, (means[:, 0] - means[:, 2]) / ceiling, math.nan)


def _scaled(means: Tensor, sign: float) -> Tensor:
    """(value − random) / (reconstruction − random), NaN where the scale has lost its order."""
    value, reconstruction, random = means.unbind(1)
    span = reconstruction - random
    return torch.where(sign * span > 1e-6, (value - random) / span, math.nan)


STATISTICS: dict[str, Statistic] = {
    "mean": _mean,
    "ratio": _ratio,
    "explained": _explained,
    "over_chance": _over_chance,
    "scaled_higher": lambda means: _scaled(means, 1.0),
    "scaled_lower": lambda means: _scaled(means, -1.0),
}
"""How numbers follow from means (R, k): the first; first / second; 1 − first / (2 second); a share over chance, of
samples, ceiling and chance; samples, reconstructions and others on the scale where others are 0, reconstructions 1."""
_UNSUITED = (
    "random other pictures are no worse than the reconstructions, so there is no scale; an autoencoder that knows such "
    "pictures would tell"
)
LOST = {
    "mean": "there are no pictures",
    "ratio": "these pictures do not vary",
    "explained": "it does not vary in these pictures",
    "over_chance": "it does not vary in these pictures, or what reads it is no better than chance",
    "scaled_higher": _UNSUITED,
    "scaled_lower": _UNSUITED,
}
"""Why the number cannot be had where the statistic is not defined."""


@dataclass(frozen=True, eq=False)
class Table:
    """What a number is made of.

    Args:
        values: Per picture, (N, k) float64; NaN where a picture has none.
        statistic: A name of `STATISTICS`.
    """

    values: Tensor
    statistic: str = "mean"

    def told(self, name: str, seed: int = 0) -> dict[str, Any]:
        """The number with its interval, or None and a reason."""
        if not len(self.values) or not bool(self.values.isfinite().all()):
            return missing(name, "some pictures have no value, such as copies of one picture")
        found = number(name, self.values, STATISTICS[self.statistic], seed)
        if math.isnan(found[name]):
            return missing(name, LOST[self.statistic])
        return found


def difference(one: Table, other: Table, seed: int = 0) -> dict[str, Any]:
    """`{difference: other − one, difference_interval: [low, high]}` of one number on the same pictures.

    Raises:
        UserError: The tables are of different numbers or pictures.
    """
    if one.statistic != other.statistic or one.values.shape != other.values.shape:
        raise UserError("two tables are of different numbers or pictures; profile both on the same pictures")
    both = torch.cat([one.values, other.values], dim=1)
    width = one.values.shape[1]
    how = STATISTICS[one.statistic]

    def apart(means: Tensor) -> Tensor:
        return how(means[:, width:]) - how(means[:, :width])

    if not bool(both.isfinite().all()):
        return missing("difference", "one of the two cannot be had")
    value = float(apart(both.double().mean(dim=0, keepdim=True))[0])
    if math.isnan(value):
        return missing("difference", "one of the two cannot be had")
    found = interval(both, apart, seed)
    return {"difference": value} | ({} if found is None else {"difference_interval": found})


def save_tables(tables: Mapping[str, Table], path: str | os.PathLike[str]) -> None:
    """Writes tables to a safetensors file."""
    from safetensors.torch import save_file

    tensors = {
        name: each.values.clone(memory_format=torch.contiguous_format) for name, each in tables.items()
    }
    kinds = {name: each.statistic for name, each in tables.items()}
    with atomic(path) as draft:
        save_file(tensors, draft, metadata={"kind": "tables", "statistics": json.dumps(kinds)})


def load_tables(path: str | os.PathLike[str]) -> dict[str, Table]:
    """The tables that `save_tables` wrote.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            kinds = json.loads((file.metadata() or {})["statistics"])
            found = {name: Table(file.get_tensor(name), kinds[name]) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever a damaged file raises
        raise UserError(
            f"{str(path)!r} cannot be read as a profile's tables ({error}); profile again"
        ) from None
    if any(each.statistic not in STATISTICS or each.values.dim() != 2 for each in found.values()):
        raise UserError(f"{str(path)!r} was written by another version; profile again")
    return found
