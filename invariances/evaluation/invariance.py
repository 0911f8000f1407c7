"""How much does a layer leave open? Bits, and the share of the latent's variance that remains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.features.stream import Features, negative_log_likelihood
from invariances.flow.flow import ConditionalFlow
from invariances.system.seeds import seeded


def bits_per_dim(flow: ConditionalFlow, features: Features) -> float:
    """−E[log₂ p(z̄ | z)] / D over pictures kept out, one latent drawn from each one's posterior.

    A density's logarithm: it may be below zero, and compares only flows of the same autoencoder. For an
    unconditional flow −E[log₂ p(z̄)] / D; the difference of the two is what the layer tells about the latent.
    """
    total, count = negative_log_likelihood(flow, features).tolist()
    return float(total / count / flow.latent_dim / math.log(2))


@torch.no_grad()
def variance(flow: ConditionalFlow, features: Features, n: int = 16, seed: int = 0) -> dict[str, float]:
    """The latent's variance that remains once the representation is known, as shares of all of it.

    `variance_remaining` is Σ E[Var(z̄ | z)] / Σ Var(z̄), sums over dimensions: above, the variance of n samples of
    the flow at one z (divided by n − 1), mean over pictures; below, that of latents drawn from the posteriors of all
    pictures. 0: the layer knows everything the latent knows; 1: nothing. This is the paper's share of z̄'s variance
    that is explained by v.

    `variance_unpredicted` is Σ E[(z̄ − E[z̄ | z])²] / Σ Var(z̄): how far the picture's own latent is from what the flow
    expects, the mean of n samples, whose own chance (their variance / n) is taken off. Equal to the first for a flow
    that has learned the truth; above it, the flow is too sure of itself; below it, not sure enough.

    Args:
        flow: The flow.
        features: Of pictures kept out, at least two.
        n: Samples per picture, at least 2.
        seed: Of samples and of latents.
    """
    device = next(flow.parameters()).device
    within = errors = 0.0
    first, second = torch.zeros(flow.latent_dim).double(), torch.zeros(flow.latent_dim).double()
    origin: Tensor | None = None
    flow.eval()
    for indices, mean, logvar, z in features.chunks(64):
        latent = DiagonalGaussian(mean, logvar).sample(seeded("latents", seed, int(indices[0]))).double()
        noise = seeded("variance", seed, int(indices[0]))
        samples = flow.sample(z.to(device), n, generator=noise).double().cpu()
        within += float(samples.var(dim=1).sum())
        chance = samples.var(dim=1).sum() / n
        errors += float((latent - samples.mean(dim=1)).square().sum() - chance)
        origin = latent[0] if origin is None else origin
        first += (latent - origin).sum(dim=0)
        second += (latent - origin).square().sum(dim=0)
    spread = second - first.square() / features.n
    total = float(spread.sum()) / max(features.n - 1, 1)
    scale = features.n * total
    if scale <= 0:
        return {"variance_remaining": math.nan, "variance_unpredicted": math.nan}
    return {"variance_remaining": within / scale, "variance_unpredicted": errors / scale}
