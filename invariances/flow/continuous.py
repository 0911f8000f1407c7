"""A continuous flow: an ordinary differential equation carries latents to invariances, learned by flow matching."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional as F

from invariances.flow.layers import LIMIT, ActNorm
from invariances.system.machine import bfloat16

STEPS = 16
"""Runge-Kutta steps between invariance and latent."""
_FREQUENCIES = 16


class Velocity(nn.Module):
    """u(x, s | e), (N, D): a residual network whose layers are normalised, then scaled and shifted by s and e.

    Args:
        dim: D, of x.
        condition: length of e; 0 for none.
        width: of all hidden layers.
        blocks: residual blocks.
        depth: hidden layers of a block after its first.
    """

    frequencies: Tensor

    def __init__(self, dim: int, condition: int, width: int, blocks: int, depth: int) -> None:
        super().__init__()
        turns = torch.logspace(math.log10(0.25), math.log10(8), _FREQUENCIES)
        self.register_buffer("frequencies", 2 * math.pi * turns)
        self.time = _two_layers(2 * _FREQUENCIES, width)
        self.told = _two_layers(condition, width) if condition else None
        self.first = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_ModulatedBlock(width, depth) for _ in range(blocks))
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, time: Tensor, told: Tensor | None) -> Tensor:
        """(N, D) at x (N, D) and times s (N,) in [0, 1], given what `embed` made of e."""
        phase = time[:, None] * self.frequencies
        given = self.time(torch.cat([phase.sin(), phase.cos()], dim=1))
        given = F.silu(given if told is None else given + told)
        x = self.first(x)
        for block in self.blocks:
            x = block(x, given)
        velocity: Tensor = self.last(F.silu(x))
        return velocity

    def embed(self, condition: Tensor) -> Tensor | None:
        """(N, width) of e (N, E), the same at all times; None where the flow is told nothing."""
        return None if self.told is None else self.told(condition)


def _two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


class _ModulatedBlock(nn.Module):
    """x + MLP((1 + a) · LayerNorm(x) + b), with (a, b) linear in what is given; x at first."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, width))
        last = self.net[-1]
        for each in (self.modulation, last):
            assert isinstance(each, nn.Linear)
            nn.init.zeros_(each.weight)
            nn.init.zeros_(each.bias)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        scale, shift = self.modulation(given).chunk(2, dim=1)
        out: Tensor = x + self.net(self.norm(x) * (1 + scale) + shift)
        return out


class ContinuousTransform(nn.Module):
    """v = x(0) of dx/ds = u(x, s | e) with x(1) = the latent, normalised; log-det = −∫ tr ∂u/∂x ds.

    Its density may have several modes with little between them, where affine couplings leave bridges; so it finds
    what a layer shows faintly in fewer pictures (docs/shapes.md). `STEPS` Runge-Kutta steps of fourth order make both
    directions. The trace is estimated by ε · (∂u/∂x) ε, ε of random signs that are the same at every call: without
    bias, a few nats from the truth for a single latent, and close to it in the mean of many.

    It learns by `matching_loss`. Sources: Lipman et al. 2023, "Flow matching for generative modeling"; Grathwohl et
    al. 2019 for the trace.

    Args:
        dim: D, of latents.
        condition: length of the embedding e.
        width: of the `Velocity`, like `blocks` and `depth`.
        blocks: residual blocks.
        depth: hidden layers of each after its first.
    """

    def __init__(self, dim: int, condition: int, width: int, blocks: int, depth: int) -> None:
        super().__init__()
        self.norm = ActNorm(dim).requires_grad_(False)
        self.velocity = Velocity(dim, condition, width, blocks, depth)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(y (N, D), log-det (N,)) of latents (N, D) and embeddings (N, E)."""
        x, told = self.norm(x), self.velocity.embed(condition)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, x.shape, generator=generator).to(x) * 2 - 1

        def slope(x: Tensor, time: float) -> tuple[Tensor, Tensor]:
            times = x.new_full((len(x),), time)
            with warnings.catch_warnings():  # the first one makes torch warn of a module of its own
                warnings.simplefilter("ignore", FutureWarning)
                found = jvp(lambda y: self.velocity(y, times, told), (x,), (signs,))
            return found[0], (found[1] * signs).sum(dim=1)

        x, log_det = _runge_kutta(slope, x, 1.0, 0.0)
        return x, log_det + self.norm.log_det()

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """The latents (N, D) that forward maps to y, but for the error of the steps."""
        told, nothing = self.velocity.embed(condition), y.new_zeros(len(y))

        def slope(x: Tensor, time: float) -> tuple[Tensor, Tensor]:
            return self.velocity(x, x.new_full((len(x),), time), told), nothing

        return self.norm.inverse(_runge_kutta(slope, y, 0.0, 1.0)[0])

    def matching_loss(self, x: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """E‖u(s x + (1 − s) ε, s | e) − (x − ε)‖² / D, (N,), of latents (N, D): ε ~ N(0, I), s uniform in [0, 1].

        The times of a batch are spread evenly. `generator`, on the CPU, draws both.
        """
        x = self.norm(x)
        count = len(x)
        noise = torch.randn(x.shape, generator=generator).to(x)
        times = ((torch.arange(count) + torch.rand(count, generator=generator)) / count).to(x)
        between = times[:, None] * x + (1 - times[:, None]) * noise
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16()):
            velocity = self.velocity(between, times, self.velocity.embed(condition))
        error: Tensor = (velocity.to(x.dtype) - (x - noise)).square().mean(dim=1)
        return error


def _runge_kutta(
    slope: Callable[[Tensor, float], tuple[Tensor, Tensor]], x: Tensor, start: float, stop: float
) -> tuple[Tensor, Tensor]:
    """The x (N, D) at time `stop` of what it is at `start`, and the integral (N,) of the slope's second part."""
    step, integral = (stop - start) / STEPS, x.new_zeros(len(x))
    for k in range(STEPS):
        time = start + k * step
        a, part_a = slope(x, time)
        b, part_b = slope(x + step / 2 * a, time + step / 2)
        c, part_c = slope(x + step / 2 * b, time + step / 2)
        d, part_d = slope(x + step * c, time + step)
        x = (x + step / 6 * (a + 2 * b + 2 * c + d)).clamp(-LIMIT, LIMIT)
        integral = integral + step / 6 * (part_a + 2 * part_b + 2 * part_c + part_d)
    return x, integral
