"""A start for the embedder that sees faint directions of a representation as well as strong ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .flow import ConditionalFlow


@torch.no_grad()
def whiten_embedder(flow: ConditionalFlow, representation: Tensor, floor: float = 1e-5) -> None:
    """W ← W C^(−½) in the embedder's first layer, C the covariance of the representation's channels.

    What a layer barely shows (the colour, to a classifier of shapes) lies in directions of little variance, which
    training finds late. The architecture stays as it is; only the weights that training starts from change.

    Args:
        flow: A new one, with a representation.
        representation: (N, C) or (N, C, H, W) of some hundred pictures.
        floor: Directions below this share of the largest variance are not enlarged further.
    """
    first = next((each for each in flow.embedder.modules() if isinstance(each, (nn.Linear, nn.Conv2d))), None)
    if first is None or len(representation) < 2:
        return
    rows = representation.movedim(1, -1).reshape(-1, representation.shape[1]).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1]))
    if not float(values.max()) > 0:
        return
    root = (vectors / values.clamp(min=float(values.max()) * floor).sqrt()) @ vectors.T
    weight = first.weight.double().movedim(1, -1) @ root
    first.weight.copy_(weight.movedim(-1, 1).to(first.weight))
    if first.bias is not None:
        centre = first.weight.flatten(2).sum(2) if first.weight.dim() == 4 else first.weight
        first.bias.copy_(-(centre @ rows.mean(0).to(centre)))
