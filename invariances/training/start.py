"""A start for embedders that see faint directions of a representation as well as strong ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from invariances.features.stream import Features
from invariances.flow.embedders.published import PublishedEmbedder
from invariances.flow.embedders.regression import RegressionEmbedder
from invariances.flow.embedders.residual import Whitening
from invariances.flow.flow import ConditionalFlow
from invariances.system.seeds import seeded

_FAINTEST = 1e-5
_MOST_PICTURES, _MOST_VALUES, _PICTURES_AT_ONCE = 10_000, 25_000_000, 64
_MOST_INPUTS, _MOST_PATCH_VALUES = 5000, 10_000_000
_MOST_PRECISE = 2048
"""Larger systems of equations are solved in float32, in half the memory."""
RIDGES = (1e-5, 1e-3, 1e-2, 0.1, 1.0, 10.0)


def start_embedder(flow: ConditionalFlow, features: Features, seed: int = 0, progress: bool = False) -> None:
    """`whiten_embedder`, then `read_out`, with pictures drawn from those to train on: 5,000 to 10,000.

    Where these do not fit into 100 MB, as many as do are whitened, and the read-out passes over all in small parts.

    Args:
        flow: A new one. Vectors that a regression embedder reads are whitened only; maps that it reads are left alone.
        features: Of the layer that the flow is for.
        seed: Of the choice of pictures and of the rotations.
        progress: A bar on stderr where reading takes long, as where the network has to run for it.
    """
    published = isinstance(flow.embedder, PublishedEmbedder)
    if not published and _whitening(flow) is None:
        return
    values = math.prod(flow.representation_shape)
    chosen = torch.randperm(features.n, generator=seeded("start", seed))[: _most_rows(flow)]
    few = chosen[: max(100, _MOST_VALUES // values)]
    again = published and len(few) < len(chosen)
    device = next(flow.parameters()).device
    total = len(few) + len(chosen) * again
    with tqdm(total=total, desc="embedder's start", unit="img", delay=2, disable=not progress) as bar:

        def read(indices: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            for part in torch.split(indices, _PICTURES_AT_ONCE):
                mean, _, z = features.batch(part)
                yield z.to(device).reshape(len(part), *flow.representation_shape), mean.to(device).flatten(1)
                bar.update(len(part))

        z = torch.empty(len(few), *flow.representation_shape, device=device)
        latent = torch.empty(len(few), flow.latent_dim, device=device)
        for start, (some, mean) in zip(range(0, len(few), _PICTURES_AT_ONCE), read(few)):
            z[start : start + len(some)] = some
            latent[start : start + len(some)] = mean
        whiten_embedder(flow, z, seed)
        pairs: Iterable[tuple[Tensor, Tensor]] = [(z, latent)]
        if again:
            del z, latent
            pairs = read(chosen)
        read_out(flow, pairs)


@torch.no_grad()
def whiten_embedder(flow: ConditionalFlow, representation: Tensor, seed: int = 0) -> None:
    """W = Q Λ^(−½) Uᵀ in each of the embedder's layers but the last: whitened principal components of its inputs.

    UΛUᵀ is the covariance of what a layer is given (of a convolution: of patches, and U has as many columns as it has
    outputs; of a linear layer U has all, the faintest too), and Q is random with orthonormal rows or columns.
    A regression embedder of vectors has one such layer, its `Whitening`, which stays as it is set here.
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
    x, whitening = flow.embedder.read(representation), _whitening(flow)
    if whitening is not None:
        _set(whitening, x.flatten(1), generator)
    if not isinstance(flow.embedder, PublishedEmbedder):
        return
    flow.train()
    parts = [each for each in flow.embedder.net.children() if not isinstance(each, nn.Flatten)]
    learning = [index for index, each in enumerate(parts) if isinstance(each, (nn.Linear, nn.Conv2d))]
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
            layer.bias.copy_(-(components @ rows.mean(0).cpu().double()).to(layer.bias))
        given = torch.split(x, 1000)
        if stop == learning[-1]:
            given = given[:1]  # what follows the last of these layers is only to see some pictures
        x = torch.cat([nn.Sequential(*parts[start:stop])(each) for each in given])


def _whitening(flow: ConditionalFlow) -> Whitening | None:
    """Of a regression embedder of vectors."""
    return flow.embedder.whitening if isinstance(flow.embedder, RegressionEmbedder) else None


def _set(whitening: Whitening, rows: Tensor, generator: torch.Generator) -> None:
    """From vectors (N, C); nothing changes where they never vary."""
    if float(rows.std(0).max()) > 0:
        size = rows.shape[1]
        whitening.mean.copy_(rows.mean(0))
        whitening.weight.copy_(_whitened_components(rows, size, size, generator))


def _inputs(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What single outputs of a layer are computed from, (rows, K): as many as a covariance needs, or memory allows."""
    if isinstance(layer, nn.Linear):
        return x if x.shape[1] <= _MOST_INPUTS else x[:_MOST_INPUTS]
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    assert not isinstance(padding, str)
    inputs = layer.weight[0].numel()
    most = max(_MOST_PATCH_VALUES // inputs, 2 * inputs) if inputs <= _MOST_INPUTS else _MOST_INPUTS
    places = max(1, x.shape[2] // stride[0] * (x.shape[3] // stride[1]))
    some = x[: max(2, -(-most // places))]
    patches = F.unfold(some, kernel, padding=padding, stride=stride).movedim(1, 2).flatten(0, 1)
    return patches[torch.linspace(0, len(patches) - 1, min(most, len(patches))).long()]


def _whitened_components(rows: Tensor, outputs: int, most: int, generator: torch.Generator) -> Tensor:
    """Weights (outputs, K) whose outputs, over these rows, have no covariance and the variance 1."""
    centred = rows - rows.mean(0)
    count, inputs = rows.shape
    if inputs <= count:
        values, vectors = torch.linalg.eigh((centred.T @ centred).cpu().double() / (count - 1))
    else:  # fewer rows than inputs: the same directions from the rows' own products
        values, mixed = torch.linalg.eigh((centred @ centred.T).cpu().double() / (count - 1))
        vectors = centred.T.cpu().double() @ mixed
        vectors = vectors / vectors.norm(dim=0).clamp(min=1e-12)
        most = min(most, count - 1)
    kept = min(most, inputs)
    values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
    floor = float(values[0]) * _FAINTEST
    tall = torch.randn(max(outputs, kept), min(outputs, kept), generator=generator, dtype=torch.float64)
    mixing = torch.linalg.qr(tall)[0]
    mixing = mixing if outputs >= kept else mixing.T
    weights: Tensor = (mixing / values.clamp(min=floor).sqrt()) @ vectors.T
    return weights


@torch.no_grad()
def read_out(
    flow: ConditionalFlow, pairs: Iterable[tuple[Tensor, Tensor]], ridges: Sequence[float] = RIDGES
) -> None:
    """W = (FᵀF + λI)⁻¹ Fᵀ z̄ in the embedder's last layer, F the features before it: e starts as a guess of z̄.

    The blocks then begin with the best linear guess of the latent that the embedder's random features allow, instead
    of finding it step by step; λ is the one that guesses best a fifth of the pictures set aside. Initialises the
    embedder's ActNorms from the first pictures.

    Args:
        flow: A new one, with a representation; its embedding has the latent's length.
        pairs: Representations (N, C) or (N, C, H, W) and latents (N, D), in parts, of some thousand pictures.
        ridges: λ to choose from, as shares of the features' mean variance.
    """
    last = _last_layer(flow)
    if last is None or not isinstance(flow.embedder, PublishedEmbedder):
        return
    seen: list[Tensor] = []
    latents, count, most = [], 0, _most_rows(flow)
    hook = last.register_forward_hook(lambda _, given, __: seen.append(given[0].flatten(1)))
    flow.train()
    for representation, latent in pairs:
        for part in torch.split(representation[: most - count], 1000):
            flow.embed(part)
        latents.append(latent[: most - count].flatten(1))
        count += len(latents[-1])
        if count == most:
            break
    hook.remove()
    features, wanted = torch.cat(seen).float(), torch.cat(latents).float()
    seen.clear()
    wanted = (wanted - wanted.mean(0)) / wanted.std(0).clamp(min=1e-6)
    centre = features.mean(0)
    features -= centre
    weight = _best_regression(features, wanted, ridges)
    last.weight.copy_(weight.reshape(last.weight.shape).to(last.weight))
    if last.bias is not None:
        last.bias.copy_((-weight @ centre.to(weight)).to(last.bias))


def _last_layer(flow: ConditionalFlow) -> nn.Linear | nn.Conv2d | None:
    layers = [each for each in flow.embedder.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    return layers[-1] if layers else None


def _most_rows(flow: ConditionalFlow) -> int:
    """Pictures to read the last layer out with: fewer where its inputs are many, since their product is dear."""
    last = _last_layer(flow)
    return _MOST_PICTURES if last is None or last.weight[0].numel() <= _MOST_INPUTS else _MOST_INPUTS


def _best_regression(features: Tensor, wanted: Tensor, ridges: Sequence[float]) -> Tensor:
    """Weights (D, K) for the ridge whose guess, made from four fifths of the rows, is nearest to the others."""
    known = max(1, len(features) * 4 // 5)
    tall = known >= features.shape[1]
    products = features.T @ features if tall else features @ features.T
    targets = features.T @ wanted if tall else wanted
    if len(products) <= _MOST_PRECISE:
        products, targets = products.double(), targets.double()
    solve = partial(_ridge_regression, tall=tall)
    if known == len(features):
        return solve(products, targets, features, max(ridges))
    others, unseen = features[known:], wanted[known:]
    if tall:
        some = products - others.T @ others, targets - others.T @ unseen
    else:
        some = products[:known, :known], targets[:known]

    def error(ridge: float) -> float:
        guess = others @ solve(*some, features[:known], ridge).to(others).T
        return float((guess - unseen).square().mean())

    best, lowest = max(ridges), math.inf
    for ridge in sorted(ridges, reverse=True):
        if not (each := error(ridge)) < lowest:
            break  # it has one minimum
        best, lowest = ridge, each
    return solve(products, targets, features, best)


def _ridge_regression(
    products: Tensor, targets: Tensor, features: Tensor, ridge: float, tall: bool
) -> Tensor:
    """((FᵀF + λsI)⁻¹ Fᵀz̄)ᵀ = (Fᵀ(FFᵀ + λsI)⁻¹ z̄)ᵀ, (D, K), by the smaller product; s is the mean energy of F's columns.

    Args:
        products: FᵀF if `tall`, else FFᵀ.
        targets: Fᵀz̄ if `tall`, else z̄.
        features: F, (rows, K).
        ridge: λ.
        tall: Whether F has more rows than columns.
    """
    regularised = products.clone()
    regularised.diagonal().add_(ridge * float(products.trace()) / features.shape[1] + 1e-12)
    factor, failed = torch.linalg.cholesky_ex(regularised)
    solved = torch.linalg.solve(regularised, targets) if failed else torch.cholesky_solve(targets, factor)
    weights: Tensor = (solved if tall else features.T.to(solved) @ solved).T
    return weights
