"""The samples that differ most: the extent of an invariance, not its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from invariances.flow.flow import ConditionalFlow
from invariances.system.errors import UserError

AMONG = 8
"""Of so many samples one is kept."""


def most_different(distances: Tensor, n: int) -> list[int]:
    """`n` of M items that are far from one another: the farthest pair, then always the one farthest from the chosen.

    Its least distance is at least half of the best choice's (Gonzalez 1985).

    Args:
        distances: (M, M), symmetric.
        n: How many, at most M.
    """
    count = len(distances)
    if not 1 <= n <= count:
        raise UserError(f"{n} of {count} samples cannot be chosen; give a number from 1 to {count}")
    first, second = divmod(int(distances.argmax()), count)
    chosen = [first, second][:n] if first != second else [first]
    while len(chosen) < n:
        least = distances[:, chosen].amin(dim=1)
        least[chosen] = -1.0
        chosen.append(int(least.argmax()))
    return chosen


def diverse_latents(
    flow: ConditionalFlow,
    z: Tensor,
    n: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """(N, n, *latent_shape): of 8 n samples of each z the n whose latents are most unlike each other.

    Args:
        flow: Draws them.
        z: Representations, (N, …).
        n: To give back.
        temperature: Of the samples.
        generator: Makes them repeat.
        guidance: As of `ConditionalFlow.sample`.

    Raises:
        UserError: `n` gives no samples.
    """
    if n < 1:
        raise UserError(f"n = {n} gives no samples; use n ≥ 1")
    found = []
    for each in z:
        latents = flow.sample(each[None], AMONG * n, temperature, generator, guidance)[0]
        flat = latents.flatten(1)
        found.append(latents[most_different(torch.cdist(flat, flat), n)])
    return torch.stack(found)
