"""The samples that differ most: the extent of an invariance, not its mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invariances.interpreter import Interpreter
from invariances.system.errors import UserError


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
    chosen = [first, second][: max(n, 1)] if first != second else [first]
    while len(chosen) < n:
        least = distances[:, chosen].amin(dim=1)
        least[chosen] = -1.0
        chosen.append(int(least.argmax()))
    return chosen


@torch.no_grad()
def diverse_samples(
    interpreter: Interpreter,
    images: Tensor,
    n: int = 8,
    among: int = 64,
    generator: torch.Generator | None = None,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """(N, n, 3, S, S): of `among` samples of each picture the n that are most unlike each other.

    Args:
        interpreter: Network, autoencoder and flow.
        images: The pictures, (N, 3, H, W).
        n: To give back.
        among: To choose from.
        generator: Makes them repeat.
        distance: Between two sets of pictures (M, 3, S, S), such as LPIPS; by default between latents, which decodes
            the chosen samples only.
    """
    if not 1 <= n <= among:
        raise UserError(f"{n} samples cannot be chosen among {among}; give n from 1 to {among}")
    found = []
    for image in interpreter.resized(images):
        latents = interpreter.flow.sample(interpreter.represent(image[None]), among, generator=generator)[0]
        if distance is None:
            flat = latents.flatten(1)
            found.append(interpreter.decode(latents[most_different(torch.cdist(flat, flat), n)]))
            continue
        pictures = interpreter.decode(latents)
        rows = [distance(each.expand_as(pictures), pictures) for each in pictures]
        found.append(pictures[most_different(torch.stack(rows), n)])
    return torch.stack(found)
