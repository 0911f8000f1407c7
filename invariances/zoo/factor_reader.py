"""A network that reads every factor of `Shapes` off a picture, or off a layer's representation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.data.shapes import FACTORS, Factor
from invariances.flow.embedders.embedder import log_probabilities
from invariances.flow.embedders.residual import residual_network
from invariances.system.errors import UserError
from invariances.system.network_file import read_network, save_network

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
    """

    temperature: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(
        self, shape: Sequence[int] = (3, 64, 64), width: int = 24, probabilities: bool = False
    ) -> None:
        super().__init__()
        self.config = {"shape": list(shape), "width": width, "probabilities": probabilities}
        self.net = residual_network(shape, width, OUTPUTS, "batch")
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
        config = dict(architecture["readers"][name])
        if config.pop("statistics", False):
            raise UserError(f"{path} was written by an older version; make it anew")
        reader = FactorReader(**config)
        start = f"{name}/"
        reader.load_state_dict(
            {key.removeprefix(start): each for key, each in tensors.items() if key.startswith(start)}
        )
        readers[name] = reader.requires_grad_(False).eval()
    return readers
