"""A start for the embedder that sees faint directions of a representation as well as strong ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .flow import ConditionalFlow

RIDGES = (1e-5, 1e-3, 1e-2, 0.1, 1.0, 10.0)


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
    rows = flow.read(representation).movedim(1, -1).reshape(-1, representation.shape[1]).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1]))
    if not float(values.max()) > 0:
        return
    root = (vectors / values.clamp(min=float(values.max()) * floor).sqrt()) @ vectors.T
    weight = first.weight.double().movedim(1, -1) @ root
    first.weight.copy_(weight.movedim(-1, 1).to(first.weight))
    if first.bias is not None:
        centre = first.weight.flatten(2).sum(2) if first.weight.dim() == 4 else first.weight
        first.bias.copy_(-(centre @ rows.mean(0).to(centre)))


@torch.no_grad()
def read_out(
    flow: ConditionalFlow, representation: Tensor, latent: Tensor, ridges: Sequence[float] = RIDGES
) -> None:
    """W = (FᵀF + λI)⁻¹ Fᵀ z̄ in the embedder's last layer, F the features before it: e starts as a guess of z̄.

    The blocks then begin with the best linear guess of the latent that the embedder's random features allow, instead
    of finding it step by step; λ is the one that guesses best a fifth of the pictures set aside. Initialises the
    embedder's ActNorms from `representation`.

    Args:
        flow: A new one, with a representation; its embedding has the latent's length.
        representation: (N, C) or (N, C, H, W) of some thousand pictures.
        latent: (N, D), theirs.
        ridges: λ to choose from, as shares of the features' mean variance.
    """
    layers = [each for each in flow.embedder.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    if not layers:
        return
    last, seen = layers[-1], []
    hook = last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].flatten(1)))
    flow.train()
    for start in range(0, len(representation), 1000):
        flow.embed(representation[start : start + 1000])
    hook.remove()
    features, wanted = torch.cat(seen).double(), latent.double()
    wanted = (wanted - wanted.mean(0)) / wanted.std(0).clamp(min=1e-6)
    centre = features.mean(0)
    features = features - centre
    weight = _ridge(features, wanted, _best_ridge(features, wanted, ridges))
    last.weight.copy_(weight.reshape(last.weight.shape).to(last.weight))
    if last.bias is not None:
        last.bias.copy_((-weight @ centre).to(last.bias))


def _best_ridge(features: Tensor, wanted: Tensor, ridges: Sequence[float]) -> float:
    """The one whose guess, made from four fifths of the rows, is nearest to the others."""
    known = max(1, len(features) * 4 // 5)
    if known == len(features):
        return max(ridges)

    def error(ridge: float) -> float:
        guess = features[known:] @ _ridge(features[:known], wanted[:known], ridge).T
        return float((guess - wanted[known:]).square().mean())

    return min(ridges, key=error)


def _ridge(features: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """Weights (D, K) of the regression of wanted (N, D) on features (N, K)."""
    gram = features.T @ features
    gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-12)
    weights: Tensor = torch.linalg.solve(gram, features.T @ wanted).T
    return weights
