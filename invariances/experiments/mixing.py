"""Image mixing: what a layer knows of one picture with what it ignores of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invariances.evaluation.faithfulness import cosine
from invariances.experiments.samples import in_chunks, needs_encoder, pictures_of
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError

MOST = 16


@dataclass(frozen=True)
class Mixture:
    """N × N pictures.

    Attributes:
        pictures: (N, 3, S, S).
        mixed: (N, N, 3, S, S): row i has the content of picture i, column j the invariances of picture j; on the
            diagonal lie the autoencoder's reconstructions.
        kept: Cosine of the representations of mixed (i, j) and of picture i, (N, N).
    """

    pictures: Tensor
    mixed: Tensor
    kept: Tensor

    def grid(self) -> Tensor:
        """(N + 1, N + 1, 3, S, S): the pictures as headers of rows and columns, a white corner."""
        corner = torch.ones_like(self.pictures[:1])
        rows = [torch.cat([own[None], row]) for own, row in zip(self.pictures, self.mixed)]
        return torch.stack([torch.cat([corner, self.pictures]), *rows])

    def numbers(self, network: str, layer: str) -> dict[str, Any]:
        """What was kept, with the names of network and layer, as JSON takes it."""
        told = {"network": network, "layer": layer, "rows": "content", "columns": "invariances"}
        return {**told, "kept": self.kept.tolist()}


@torch.no_grad()
def mix(interpreter: Interpreter, images: Tensor) -> Mixture:
    """Every picture's content with every picture's invariances.

    Args:
        interpreter: With an encoder.
        images: (N, 3, H, W) in [-1, 1], at most 16.

    Raises:
        UserError: None or too many pictures, or no encoder.
    """
    needs_encoder(interpreter, "mixing")
    pictures = interpreter.resized(images)
    count = len(pictures)
    if not 1 <= count <= MOST:
        raise UserError(f"{count} pictures give {count * count} mixtures; give 1 to {MOST}")
    z, v = interpreter.represent(pictures), interpreter.encode(pictures)
    mixed = pictures_of(interpreter, v[None].expand(count, *v.shape), z)
    seen = torch.cat([interpreter.represent(part) for part in in_chunks(mixed.flatten(0, 1))])
    kept = cosine(seen, z.repeat_interleave(count, dim=0)).reshape(count, count)
    return Mixture(pictures.cpu(), mixed.cpu(), kept.cpu())
