"""How many bits does a layer leave open? The density that the flow gives to the pictures' latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.features.stream import Features
from invariances.flow.flow import ConditionalFlow
from invariances.system.seeds import seeded

_CHUNK = 256


def drawn_latents(posterior: DiagonalGaussian, indices: Tensor, seed: int = 0) -> Tensor:
    """One latent (B, *latent_shape) of each posterior, a function of the picture's number alone, on the CPU."""
    mean, deviation = posterior.mean.cpu(), (0.5 * posterior.logvar).exp().cpu()
    noise = [torch.randn(mean.shape[1:], generator=seeded("latent of", seed, int(k))) for k in indices]
    return mean + deviation * torch.stack(noise)


@torch.inference_mode()
def log_probs(flow: ConditionalFlow, features: Features, seed: int = 0) -> Tensor:
    """Log p(z̄ | z) in nats of each picture, (N,) float64, z̄ as of `drawn_latents`."""
    device = next(flow.parameters()).device
    flow.eval()
    found = []
    for indices, mean, logvar, z in features.chunks(_CHUNK):
        latent = drawn_latents(DiagonalGaussian(mean, logvar), indices, seed)
        found.append(flow.log_prob(latent.to(device), z.to(device)).double().cpu())
    return torch.cat(found)


def bits_per_dim(flow: ConditionalFlow, features: Features) -> float:
    """−E[log₂ p(z̄ | z)] / D over pictures kept out, one latent drawn from each one's posterior.

    A density's logarithm: it may be below zero, and compares only flows of the same autoencoder. For an
    unconditional flow −E[log₂ p(z̄)] / D; the difference of the two is what the layer tells about the latent.
    """
    return float(in_bits(log_probs(flow, features), flow.latent_dim).mean())


def in_bits(log_prob: Tensor, dims: int) -> Tensor:
    """−log₂ p / D of log-densities in nats."""
    return -log_prob / dims / math.log(2)
