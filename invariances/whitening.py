"""A start for the embedder that sees faint directions of a representation as well as strong ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .flow import ConditionalFlow

_FAINTEST, _MOST_PATCHES = 1e-5, 200_000
RIDGES = (1e-5, 1e-3, 1e-2, 0.1, 1.0, 10.0)


@torch.no_grad()
def whiten_embedder(flow: ConditionalFlow, representation: Tensor, seed: int = 0) -> None:
    """W = Q Λ^(−½) Uᵀ in each of the embedder's layers but the last: whitened principal components of its inputs.

    UΛUᵀ is the covariance of what a layer is given (of a convolution: of patches, and U has as many columns as it has
    outputs; of a linear layer U has all, the faintest too), and Q is random with orthonormal rows or columns.
    So as little as possible is lost on the way to the embedding, and what a layer barely shows (the colour, to a
    classifier of shapes) counts as much as what it shows well; training finds it late otherwise. The architecture
    stays as it is; only the weights that training starts from change. Nothing changes where the representation
    never varies.

    Args:
        flow: A new one, with a representation.
        representation: (N, C) or (N, C, H, W) of some hundred pictures.
        seed: Of the rotations.
    """
    if len(representation) < 2 or not flow.representation_shape:
        return
    generator = torch.Generator().manual_seed(seed)
    flow.train()
    parts = [each for each in flow.embedder.net.children() if not isinstance(each, nn.Flatten)]
    learning = [index for index, each in enumerate(parts) if isinstance(each, (nn.Linear, nn.Conv2d))]
    x = flow.read(representation).reshape(len(representation), *flow.representation_shape)
    for start, stop in pairwise(learning):
        layer = parts[start]
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        rows = _inputs(layer, x)
        if not float(rows.std(0).max()) > 0:
            return
        kept = rows.shape[1] if isinstance(layer, nn.Linear) else len(layer.weight)
        components = _whitened_components(rows, len(layer.weight), kept, generator)
        layer.weight.copy_(components.reshape(layer.weight.shape).to(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(-(components @ rows.mean(0).to(components)))
        x = torch.cat([nn.Sequential(*parts[start:stop])(each) for each in torch.split(x, 1000)])


def _inputs(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What single outputs of a layer are computed from, (rows, K), some hundred thousand at most."""
    if isinstance(layer, nn.Linear):
        return x
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    assert not isinstance(padding, str)
    places = max(1, x.shape[2] // stride[0] * (x.shape[3] // stride[1]))
    some = x[: max(2, _MOST_PATCHES // places)]
    return F.unfold(some, kernel, padding=padding, stride=stride).movedim(1, 2).flatten(0, 1)


def _whitened_components(rows: Tensor, outputs: int, most: int, generator: torch.Generator) -> Tensor:
    """Weights (outputs, K) whose outputs, over these rows, have no covariance and the variance 1."""
    values, vectors = torch.linalg.eigh(torch.cov(rows.T.double()).reshape(rows.shape[1], rows.shape[1]))
    kept = min(most, rows.shape[1])
    values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
    floor = float(values[0]) * _FAINTEST
    tall = torch.randn(max(outputs, kept), min(outputs, kept), generator=generator, dtype=torch.float64)
    mixing = torch.linalg.qr(tall)[0]
    mixing = mixing if outputs >= kept else mixing.T
    weights: Tensor = (mixing / values.clamp(min=floor).sqrt()) @ vectors.T
    return weights


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
    weight = _regression(*_products(features, wanted), _best_ridge(features, wanted, ridges))
    last.weight.copy_(weight.reshape(last.weight.shape).to(last.weight))
    if last.bias is not None:
        last.bias.copy_((-weight @ centre).to(last.bias))


def _best_ridge(features: Tensor, wanted: Tensor, ridges: Sequence[float]) -> float:
    """The one whose guess, made from four fifths of the rows, is nearest to the others."""
    known = max(1, len(features) * 4 // 5)
    if known == len(features):
        return max(ridges)

    gram, cross = _products(features[:known], wanted[:known])

    def error(ridge: float) -> float:
        guess = features[known:] @ _regression(gram, cross, ridge).T
        return float((guess - wanted[known:]).square().mean())

    return min(ridges, key=error)


def _products(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """FᵀF (K, K) and Fᵀz̄ (K, D): all that a regression needs, whatever its ridge."""
    return features.T @ features, features.T @ wanted


def _regression(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Weights (D, K) of the ridge regression with these products."""
    added = ridge * gram.diagonal().mean() + 1e-12
    weights: Tensor = torch.linalg.solve(gram + torch.diag(added.expand(len(gram))), cross).T
    return weights
