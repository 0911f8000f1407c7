"""A continuous flow over small maps, learned by guessing what a noisy map is without its noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.func import jvp, vmap

from invariances.flow.config import FlowConfig
from invariances.flow.continuous import probes
from invariances.flow.layers import ActNorm
from invariances.flow.map_velocity import MapVelocity
from invariances.flow.runge_kutta import multistep, runge_kutta
from invariances.flow.transform import Transform
from invariances.system.errors import UserError
from invariances.system.machine import bfloat16

STEPS = 16
"""Runge-Kutta steps of one length in w, where dw/ds = 1 / max(1 − s, 0.05), of four passes each: for ways back."""
PASSES = 16
"""For fresh v, and for each way of `exchanged`: multistep, with short steps where s moves fast.

Measured on four pictures of `photos64`, mean difference from 20 Runge-Kutta steps in grey levels of 255, at conv2,
conv5 and fc8: fresh samples 0.4, 0.7, 3.3 (8 Runge-Kutta steps, 32 passes: 0.1, 1.0, 4.2), exchanged 0.6, 1.6, 5.5.
There and back again, the 16 steps are off by 0.03 of 255 at conv5 and 0.8 at fc8. A fresh sample needs no way back: its
picture is another one by as much, and as good.
"""
TOLD_NOTHING = 0.1
"""Share of the items that are learnt from without their representation."""
TIMES = (-0.3, 1.0)
"""Mean and deviation of a time's logit."""
LEAST = 0.05
"""1 − s counts as no less."""
_END = 1 - math.log(LEAST)
_BEND = 0.6


class Maps(Transform):
    """v = y(0) of dy/ds = (x̂(y, s | e) − y) / max(1 − s, 0.05), y(1) = the latent, each channel of it normalised.

    The log-determinant is −∫ tr ∂u/∂y ds, its trace an estimate by `probes` above 16 dimensions. An embedding of zeros
    tells nothing: the flow is then that of the latents by themselves. In w the equation is dy/dw = x̂ − y, which is
    nowhere stiff.

    Args:
        config: `width` and `blocks` of the `MapVelocity`.
        latent_shape: (C, H, W).
        condition: Entries of the embedding: `MapVelocity.condition`, or 0 for none.

    Attributes:
        fast: x̂ in bfloat16 and no more than `PASSES` passes, but for log-determinants: eight times as fast on
            processors that compute in it.
    """

    likelihood = False
    fast = False

    def __init__(self, config: FlowConfig, latent_shape: Sequence[int], condition: int = 0) -> None:
        super().__init__()
        channels, height, breadth = latent_shape
        self.norm = ActNorm(channels).requires_grad_(False)
        self.velocity = MapVelocity(channels, height, breadth, config.width, config.blocks)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """(v (N, C, H, W), log-det (N,)) of latents and embeddings (N, E)."""
        y, aim = self.norm(x), self._aim(e)
        directions = probes(y[0].numel(), STEPS).to(y).view(STEPS, -1, *y.shape[1:])

        def slope(y: Tensor, time: float, step: int) -> tuple[Tensor, Tensor]:
            def along(direction: Tensor) -> tuple[Tensor, Tensor]:
                found = jvp(lambda y: aim(y, time) - y, (y,), (direction.expand_as(y),))
                return found[0], found[1]

            with warnings.catch_warnings():  # the first one makes torch warn of a module of its own
                warnings.simplefilter("ignore", FutureWarning)
                velocity, changes = vmap(along)(directions[step])
            return velocity[0], (changes * directions[step][:, None]).flatten(2).sum(dim=2).mean(dim=0)

        y, log_det = runge_kutta(slope, y, _END, 0.0, STEPS)
        return y, log_det + self.norm.log_det() * (y.shape[2] * y.shape[3])

    def invariance(self, x: Tensor, e: Tensor) -> Tensor:
        """`forward` without the log-determinant."""
        return self._moved(self.norm(x), self._aim(e), back=True)

    def inverse(self, v: Tensor, e: Tensor) -> Tensor:
        """The latents that forward maps to v, but for the error of the steps."""
        return self._latents(self._moved(v, self._aim(e)))

    def drawn(self, v: Tensor, e: Tensor) -> Tensor:
        """The latents of fresh v, in `PASSES` passes."""
        return self._latents(self._moved(v, self._aim(e), PASSES))

    def exchanged(self, x: Tensor, e: Tensor, instead: Tensor) -> Tensor:
        """See `Transform.exchanged`; `PASSES` passes each way."""
        v = self._moved(self.norm(x), self._aim(e), PASSES, back=True)
        return self._latents(self._moved(v, self._aim(instead), PASSES))

    def guided(self, v: Tensor, e: Tensor, guidance: float) -> Tensor:
        """dy/dw = x̂(y | nothing) + guidance · (x̂(y | e) − x̂(y | nothing)) − y: Ho & Salimans 2022."""
        if not 0 <= guidance < math.inf or not e.shape[1]:
            raise UserError(
                f"guidance is {guidance}; give a number of at least 0, and a layer to be guided by"
            )
        both = self._aim(torch.cat([e, torch.zeros_like(e)]))

        def aim(y: Tensor, w: float) -> Tensor:
            told, untold = both(torch.cat([y, y]), w).chunk(2)
            return torch.lerp(untold, told, guidance)

        return self._latents(self._moved(v, aim, PASSES))

    def _latents(self, y: Tensor) -> Tensor:
        return y / self.norm.scale.view(1, -1, 1, 1) - self.norm.loc.view(1, -1, 1, 1)

    def _aim(self, e: Tensor) -> Callable[[Tensor, float], Tensor]:
        """x̂ at w."""

        def aim(y: Tensor, w: float) -> Tensor:
            guess: Tensor = self.velocity(y, y.new_full((len(y),), time_at(w)), e if e.shape[1] else None)
            return guess

        return aim

    def _moved(
        self, y: Tensor, aim: Callable[[Tensor, float], Tensor], passes: int | None = None, back: bool = False
    ) -> Tensor:
        """The state at the other end; without `passes` as exactly as there is need for."""
        if passes is None and self.fast:
            passes = PASSES
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.fast):
            if passes is not None:
                times = [_END * (1 - (1 - k / passes) ** _BEND) for k in range(passes + 1)]
                return multistep(aim, y, times[::-1] if back else times)
            nothing, ends = y.new_zeros(len(y)), (_END, 0.0) if back else (0.0, _END)
            return runge_kutta(lambda y, w, _: (aim(y, w) - y, nothing), y, *ends, STEPS)[0]

    def loss(self, x: Tensor, e: Tensor, generator: torch.Generator) -> Tensor:
        """E‖x̂(s x + (1 − s) ε, s | e) − x‖² / (D max(1 − s, 0.05)²), (N,): the squared error of the velocity.

        The logit of s is normal, with the mean −0.3 and the deviation 1; a tenth of the items are told nothing. In
        training mode, on processors that compute in bfloat16, x̂ does.
        """
        x = self.norm(x)
        count = len(x)
        noise = torch.randn(x.shape, generator=generator).to(x)
        logits = TIMES[0] + TIMES[1] * torch.randn(count, generator=generator)
        times = logits.sigmoid().to(x)
        told = (torch.rand(count, generator=generator) >= TOLD_NOTHING).to(x)
        s = times.view(-1, 1, 1, 1)
        between = s * x + (1 - s) * noise
        given = e * told[:, None] if e.shape[1] else None
        half = self.training and x.device.type == "cpu" and x.dtype == torch.float32 and bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=True) if half else nullcontext():
            guess = self.velocity(between, times, given)
        error: Tensor = ((guess.to(x.dtype) - x) / (1 - s).clamp(min=LEAST)).square().flatten(1).mean(dim=1)
        return error


def time_at(w: float) -> float:
    """The time s of ds/dw = max(1 − s, 0.05), s(0) = 0: 1 − exp(−w) up to 0.95, then a line to 1."""
    bend = -math.log(LEAST)
    return 1 - math.exp(-w) if w <= bend else 1 - LEAST * (1 + bend - w)
