"""How much of each known factor a layer keeps: told by samples, and by a probe of the layer itself.

Both numbers share one scale. For a continuous factor f, samples s of a picture x give

    kept = 1 − E[(f(s) − f(x))²] / (2 Var f),

which is 0 where samples are as random pictures and 1 where they are as x. A sampler of the true posterior has
E[(f(s) − f(x))²] = 2 E[Var(f | z)], so kept is then R² of the best regression on z: what the probe estimates.
For a discrete factor, agreement of s with x under the true posterior is E[p(true kind | z)], the mean
probability that a calibrated probe gives to the truth; chance is taken out of both, the reader's errors out
of the samples'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from invariances.data.shapes import FACTORS, Factor
from invariances.flow.embedder import log_probabilities
from invariances.flow.residual import residual_network
from invariances.muon import MuonAdam
from invariances.network_file import read_network, save_network

Factors = Mapping[str, Tensor]


def _columns(factor: Factor) -> int:
    return len(factor.kinds) if factor.discrete else 2 if factor.circular else 1


SLICES: dict[str, slice] = {}
"""Where each factor lies in a reader's output: logits, cosine and sine of a hue, or a standardised value."""
for _name, _each in FACTORS.items():
    _start = max((part.stop for part in SLICES.values()), default=0)
    SLICES[_name] = slice(_start, _start + _columns(_each))
OUTPUTS = max(part.stop for part in SLICES.values())


def targets(factors: Factors) -> Tensor:
    """What a perfect reader puts out for continuous factors; (N, OUTPUTS), zero in all other columns."""
    out = torch.zeros(len(next(iter(factors.values()))), OUTPUTS)
    for name, given in factors.items():
        factor, value = FACTORS[name], given.float()
        if factor.circular:
            out[:, SLICES[name]] = torch.stack([(2 * math.pi * value).cos(), (2 * math.pi * value).sin()], 1)
        elif not factor.discrete:
            deviation = (factor.high - factor.low) / math.sqrt(12)
            out[:, SLICES[name].start] = (value - (factor.low + factor.high) / 2) / deviation
    return out


def loss(outputs: Tensor, factors: Factors) -> Tensor:
    """Σ cross-entropy of discrete factors + Σ squared error of standardised continuous ones; a scalar."""
    wanted = targets(factors).to(outputs)
    total = outputs.new_zeros(())
    for name, factor in FACTORS.items():
        part = outputs[:, SLICES[name]]
        if factor.discrete:
            total = total + F.cross_entropy(part, factors[name].to(outputs.device))
        else:
            total = total + (part - wanted[:, SLICES[name]]).square().sum(1).mean()
    return total


def values(outputs: Tensor) -> dict[str, Tensor]:
    """Factors that `outputs` (…, OUTPUTS) stand for, in the world's units, each of shape (…)."""
    out = {}
    for name, factor in FACTORS.items():
        part = outputs[..., SLICES[name]]
        if factor.discrete:
            out[name] = part.argmax(-1)
        elif factor.circular:
            out[name] = (torch.atan2(part[..., 1], part[..., 0]) / (2 * math.pi)).remainder(1.0)
        else:
            deviation = (factor.high - factor.low) / math.sqrt(12)
            out[name] = part[..., 0] * deviation + (factor.low + factor.high) / 2
    return out


class FactorReader(nn.Module):
    """Reads every factor of `Shapes` off a picture or off a layer's representation.

    Args:
        shape: of the input without batch, (C, H, W) or (C,); (3, 64, 64) reads pictures.
        width: of its `residual_network`.
        probabilities: the input is a softmax, whose logarithm is read.
        statistics: as of `residual_network`.
    """

    temperature: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(
        self,
        shape: Sequence[int] = (3, 64, 64),
        width: int = 24,
        probabilities: bool = False,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "shape": list(shape),
            "width": width,
            "probabilities": probabilities,
            "statistics": statistics,
        }
        self.net = residual_network(shape, width, OUTPUTS, "batch", statistics)
        self.register_buffer("temperature", torch.ones(OUTPUTS))
        self.register_buffer("slope", torch.ones(OUTPUTS))
        self.register_buffer("offset", torch.zeros(OUTPUTS))

    def forward(self, inputs: Tensor) -> Tensor:
        """Calibrated outputs (N, OUTPUTS) of inputs (N, *shape)."""
        raw: Tensor = self.net(log_probabilities(inputs) if self.config["probabilities"] else inputs)
        return (raw / self.temperature) * self.slope + self.offset

    @torch.inference_mode()
    def read(self, inputs: Tensor, batch_size: int = 256) -> dict[str, Tensor]:
        """Every factor of inputs (N, *shape), each (N,), in the world's units."""
        return values(torch.cat([self(part) for part in torch.split(inputs, batch_size)]))

    @torch.no_grad()
    def calibrate(self, inputs: Tensor, factors: Factors, batch_size: int = 256) -> None:
        """Fit a temperature for each discrete factor, a line for each continuous column, on kept-out inputs."""
        self.temperature.fill_(1.0), self.slope.fill_(1.0), self.offset.zero_()
        outputs = torch.cat([self(part) for part in torch.split(inputs, batch_size)])
        wanted = targets(factors)
        for name, factor in FACTORS.items():
            part = SLICES[name]
            if factor.discrete:
                grid = torch.logspace(-1, 1.5, 60)
                losses = [F.cross_entropy(outputs[:, part] / t, factors[name]) for t in grid]
                self.temperature[part] = grid[int(torch.stack(losses).argmin())]
                continue
            x, y = outputs[:, part].double(), wanted[:, part].double()
            variance = x.var(0, unbiased=False).clamp(min=1e-12)
            slope = (((x - x.mean(0)) * (y - y.mean(0))).mean(0) / variance).clamp(0, 1.5)
            self.slope[part], self.offset[part] = slope.float(), (y.mean(0) - slope * x.mean(0)).float()


def fit_readers(
    readers: Mapping[str, FactorReader],
    batch: Callable[[Tensor], tuple[Mapping[str, Tensor], Factors]],
    n: int,
    *,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.02,
    optimizer: Literal["adam", "muon"] = "adam",
    seed: int = 0,
    half: bool = False,
    progress: bool = True,
    description: str = "reader",
) -> None:
    """Train readers side by side on the same pictures (all layers of a network in one pass), ending in eval mode.

    Args:
        readers: by name.
        batch: indices (B,) to ({name: inputs (B, *shape)}, factors of these pictures).
        n: indices are drawn below this.
        steps: optimiser steps.
        batch_size: pictures per step.
        learning_rate: the highest, reached after a fifth of the steps.
        weight_decay: decoupled.
        optimizer: "adam", or "muon" for the weight matrices.
        seed: decides the batches.
        half: compute in bfloat16 (twice as fast on processors that have it).
        progress: show a bar on stderr.
        description: the bar's words.
    """
    parameters = [p for reader in readers.values() for p in reader.parameters()]
    matrices = [p for p in parameters if p.dim() > 1] if optimizer == "muon" else []
    learner = MuonAdam(parameters, matrices, lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(learner, learning_rate, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    for reader in readers.values():
        reader.train()
    bar = tqdm(range(steps), desc=description, unit="step", disable=not progress)
    for step in bar:
        inputs, factors = batch(torch.randint(n, (batch_size,), generator=generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = {name: reader(inputs[name]) for name, reader in readers.items()}
        total = torch.stack([loss(each.float(), factors) for each in outputs.values()]).sum()
        learner.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        learner.step()
        schedule.step()
        if step % 20 == 19:
            bar.set_postfix(loss=f"{total.item() / len(readers):.3f}")
    for reader in readers.values():
        reader.eval()


def kept_by_samples(samples: Factors, truth: Factors, reconstruction: Factors) -> dict[str, float]:
    """Share of each factor that samples keep, 0 (as a random picture) to 1 (as the reconstruction).

    Args:
        samples: factors read off decoded samples, (N, n) each, n samples of each of N pictures.
        truth: factors of the pictures, (N,) each.
        reconstruction: factors read off decoded reconstructions, (N,) each; discrete factors that the reader
            (or the autoencoder) loses there are not held against the samples.

    Returns:
        One number per factor of `truth`; sampling noise may carry it a little below 0 or above 1.

    Raises:
        ValueError: shapes do not fit, or a factor does not vary over the pictures.
    """
    out = {}
    for name in truth:
        sample, value = samples[name], truth[name]
        if sample.dim() != 2 or value.shape != sample.shape[:1] or reconstruction[name].shape != value.shape:
            raise ValueError(f"{name}: samples (N, n) need truth and reconstruction (N,), not {value.shape}")
        if FACTORS[name].discrete:
            chance = _chance(value)
            ceiling = (reconstruction[name] == value).double().mean()
            agreement = (sample == value[:, None]).double().mean()
            out[name] = float((agreement - chance) / (ceiling - chance).clamp(min=1e-9))
        else:
            a, b = _embed(name, sample), _embed(name, value)
            apart = (a - b[:, None]).square().sum(-1).mean()
            out[name] = float(1 - apart / (2 * _spread(name, b)))
    return out


def kept_by_probe(outputs: Tensor, truth: Factors) -> dict[str, float]:
    """Share of each factor that a representation keeps, by a calibrated probe's outputs on kept-out pictures.

    Args:
        outputs: (N, OUTPUTS) of a `FactorReader` on the representations.
        truth: factors of the pictures, (N,) each.

    Returns:
        R² for continuous factors (hues on the circle); for discrete ones the mean probability of the truth,
        chance taken out.
    """
    wanted, out = targets(truth), {}
    for name in truth:
        part = outputs[:, SLICES[name]].double()
        if FACTORS[name].discrete:
            chance = _chance(truth[name])
            probability = part.softmax(1).gather(1, truth[name][:, None]).mean()
            out[name] = float((probability - chance) / (1 - chance))
        else:
            error = (part - wanted[:, SLICES[name]].double()).square().sum(1).mean()
            out[name] = float(1 - error / _spread(name, wanted[:, SLICES[name]].double()))
    return out


def reading_quality(read: Factors, truth: Factors) -> dict[str, float]:
    """How well factors were read: share of right kinds, or R² (hues on the circle), per factor; (N,) each."""
    out = {}
    for name in truth:
        if FACTORS[name].discrete:
            out[name] = float((read[name] == truth[name]).double().mean())
        else:
            a, b = _embed(name, read[name]), _embed(name, truth[name])
            out[name] = float(1 - (a - b).square().sum(-1).mean() / _spread(name, b))
    return out


def _chance(kinds: Tensor) -> Tensor:
    """Σ p(kind)²: how often two pictures of this world agree."""
    share = torch.bincount(kinds).double() / len(kinds)
    return share.square().sum()


def _embed(name: str, value: Tensor) -> Tensor:
    """A continuous factor as a point (…, 1), or as one on the unit circle (…, 2)."""
    if FACTORS[name].circular:
        angle = 2 * math.pi * value.double()
        return torch.stack([angle.cos(), angle.sin()], -1)
    return value.double().unsqueeze(-1)


def _spread(name: str, points: Tensor) -> Tensor:
    """E‖e − E e‖², the variance of points (N, k)."""
    spread = (points - points.mean(0)).square().sum(1).mean()
    if not float(spread) > 0:
        raise ValueError(f"{name} does not vary over these pictures, so nothing can be said about keeping it")
    return spread


def save_readers(
    readers: Mapping[str, FactorReader], path: str | Path, dtype: torch.dtype = torch.float16, **notes: Any
) -> None:
    """Write readers, by name, into one safetensors file with their architectures and JSON-able notes."""
    tensors = {
        f"{name}/{key}": each for name, reader in readers.items() for key, each in reader.state_dict().items()
    }
    architecture = {"name": "FactorReader", "readers": {name: each.config for name, each in readers.items()}}
    save_network(path, architecture, tensors, dtype, notes)


def load_readers(path: str | Path, names: Iterable[str] | None = None) -> dict[str, FactorReader]:
    """The readers (all, or those of `names`) that `save_readers` wrote, frozen and in eval mode.

    Raises:
        UserError: the file is missing, truncated, or holds no readers.
    """
    architecture, tensors = read_network(
        path, "FactorReader", "factor reader", "make them with `invariances models build shapes`"
    )
    readers = {}
    for name in names or architecture["readers"]:
        reader = FactorReader(**architecture["readers"][name])
        start = f"{name}/"
        reader.load_state_dict(
            {key.removeprefix(start): each for key, each in tensors.items() if key.startswith(start)}
        )
        readers[name] = reader.requires_grad_(False).eval()
    return readers
