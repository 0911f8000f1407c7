"""How much of the latent's variance does a layer leave open?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.evaluation.bootstrap import missing, number
from invariances.evaluation.likelihood import drawn_latents
from invariances.features.stream import Features
from invariances.flow.flow import ConditionalFlow
from invariances.system.seeds import seeded

_CHUNK, _AT_ONCE = 64, 1024
"""Pictures, and samples, that are drawn at once."""


@torch.no_grad()
def variances(flow: ConditionalFlow, features: Features, n: int = 16, seed: int = 0) -> Tensor:
    """Per picture what `variance` is a ratio of: (N, 3) float64.

    The columns are the variance of n samples, summed over dimensions; the squared distance of the picture's latent
    from their mean, less the mean's own chance (their variance / n); and the squared distance of the picture's latent
    from the mean of all pictures' latents, times N / (N − 1).
    """
    device = next(flow.parameters()).device
    flow.eval()
    columns: list[Tensor] = []
    latents: list[Tensor] = []
    for indices, mean, logvar, z in features.chunks(min(_CHUNK, max(1, _AT_ONCE // n))):
        latent = drawn_latents(DiagonalGaussian(mean, logvar), indices, seed)
        noise = [
            torch.randn(n, *flow.latent_shape, generator=seeded("variance", seed, int(k))) for k in indices
        ]
        told = flow.embed(z.to(device)).repeat_interleave(n, dim=0)
        samples = flow.inverse(torch.cat(noise).to(device), embedding=told).double().cpu()
        samples = samples.view(len(indices), n, -1)
        within = samples.var(dim=1).sum(dim=1)
        error = (latent.flatten(1).double() - samples.mean(dim=1)).square().sum(dim=1)
        columns.append(torch.stack([within, error - within / n], dim=1))
        latents.append(latent.flatten(1))
    every = torch.cat(latents)
    centre = every.double().mean(dim=0)
    apart = torch.cat([(part.double() - centre).square().sum(dim=1) for part in torch.split(every, _CHUNK)])
    spread = apart * (len(every) / (len(every) - 1) if len(every) > 1 else math.nan)
    return torch.cat([torch.cat(columns), spread[:, None]], dim=1)


def variance(flow: ConditionalFlow, features: Features, n: int = 16, seed: int = 0) -> dict[str, Any]:
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
        seed: Of samples, latents and bootstrap.

    Returns:
        Both, each with its interval; None and a reason where the pictures' latents do not vary.
    """
    return shares(variances(flow, features, n, seed), seed)


def shares(table: Tensor, seed: int = 0) -> dict[str, Any]:
    """The numbers of `variance`, of what `variances` gave."""
    found: dict[str, Any] = {}
    for k, name in enumerate(("variance_remaining", "variance_unpredicted")):
        if not float(table[:, 2].mean()) > 0:
            reason = (
                "one picture has no variance" if len(table) < 2 else "the latents of all pictures are alike"
            )
            found |= missing(name, reason)
        else:
            found |= number(name, table[:, [k, 2]], lambda means: means[:, 0] / means[:, 1], seed)
    return found
