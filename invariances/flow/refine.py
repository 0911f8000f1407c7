"""Latents moved by gradient descent until a network says of their pictures what it is to say."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST_STEPS = 10_000
"""No patience suffices for more."""
_RATE = 0.05
"""Of Adam's first step, in standard deviations of a latent's entries; it falls to zero."""
_TOGETHER = 32
"""Latents at once."""


def refined(latents: Tensor, z: Tensor, see: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """(N, *latent_shape): where `steps` steps of Adam on ‖see(z̄) − z‖² / ‖z‖² lead from each latent; the best met.

    What comes out is as near to z as the start or nearer, and no sample of p(z̄ | z).

    Args:
        latents: (N, *latent_shape), the start.
        z: (N, …), what is to be seen.
        see: Latents to representations, Φ ∘ D; differentiable, each latent by itself.
        steps: How many; 0 leaves the latents as they are.
    """
    if not steps:
        return latents
    pairs = zip(torch.split(latents, _TOGETHER), torch.split(z, _TOGETHER))
    with torch.inference_mode(False), torch.enable_grad():
        return torch.cat([_descended(start.clone(), goal.clone(), see, steps) for start, goal in pairs])


def _descended(start: Tensor, goal: Tensor, see: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    wide = (-1, *[1] * (start.dim() - 1))
    scale = start.flatten(1).std(dim=1).clamp_min(1e-6).view(wide)
    size = goal.flatten(1).square().sum(dim=1).clamp_min(1e-12)
    moved = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.Adam([moved], _RATE)
    best, least = start, torch.full_like(size, torch.inf)
    for step in range(steps + 1):
        latents = start + scale * moved
        far = (see(latents) - goal).flatten(1).square().sum(dim=1) / size
        nearer = far.detach() < least
        best = torch.where(nearer.view(wide), latents.detach(), best)
        least = torch.where(nearer, far.detach(), least)
        if step < steps:
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            (moved.grad,) = torch.autograd.grad(far.sum(), moved)
            optimizer.step()
    return best
