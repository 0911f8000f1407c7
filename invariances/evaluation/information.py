"""How many bits of the latent does a layer hold?

    information = E[log₂ p(z̄ | z) − log₂ p(z̄)]

with two flows of equal size and training, one told z, the other nothing. For perfect flows this is the mutual
information I(z̄; z). For learned ones it is I(z̄; z) − E KL(p(· | z) ‖ flow) + KL(p ‖ flow): neither bound; below the
truth by what the told flow has not learned, above it by what the other has not. Along a network it cannot grow (data
processing inequality): where it does, beyond its error, a flow has not learned enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from invariances.evaluation.tables import Table, difference


def information(conditional: Tensor, unconditional: Tensor) -> Table:
    """Bits per picture, of log-densities in nats (N,) of the same latents."""
    return Table(((conditional - unconditional) / math.log(2))[:, None].double())


def violations(tables: Mapping[str, Table], order: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """Where a later layer seems to hold more than an earlier one, surely: the paired interval lies above 0.

    Args:
        tables: information by layer.
        order: the layers from input to output, each computed from the ones before.
        seed: of the bootstrap.
    """
    found = []
    for before, after in pairwise(order):
        apart = difference(tables[before], tables[after], seed)
        if apart.get("difference_interval", [0.0])[0] > 0:
            found.append({"layer": after, "above": before, **apart})
    return found
