"""The samples that differ most to the eye: decoded first, then chosen by a distance between pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invariances.flow.diverse import AMONG, most_different
from invariances.interpreter import Interpreter


@torch.no_grad()
def diverse_samples(
    interpreter: Interpreter,
    images: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    n: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(N, n, 3, S, S): of 8 n samples of each picture the n that are most unlike each other.

    By latents, which decodes the chosen ones only: `Interpreter.sample(…, diverse=True)`.

    Args:
        interpreter: Network, autoencoder and flow.
        images: The pictures, (N, 3, H, W).
        distance: Between two sets of pictures (M, 3, S, S), such as LPIPS; (M,).
        n: To give back.
        generator: Makes them repeat.
    """
    found = []
    for image in interpreter.resized(images):
        pictures = interpreter.sample(image[None], AMONG * n, generator=generator)[0]
        rows = [distance(each.expand_as(pictures), pictures) for each in pictures]
        found.append(pictures[most_different(torch.stack(rows), n)])
    return torch.stack(found)
