"""Layers that transforms and embedders share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

LIMIT = 1e12
"""Largest magnitude that passes from part to part of a flow: far above any meaningful value, far below overflow."""


class ActNorm(nn.Module):
    """y = scale · (x + loc), one loc and scale per channel; log-det = Σ log|scale|.

    The first batch seen in training mode sets loc = −mean and scale = 1 / (std + 1e-6), so that this
    batch leaves with mean 0 and standard deviation 1. Under torch.distributed the moments are those of
    all ranks together, hence the same everywhere. A channel without spread (a batch of one, a constant
    feature) gets scale 1. In eval mode nothing is initialised.

    Inputs are (N, C) or (N, C, H, W). Source: Kingma and Dhariwal 2018, section 3.1.
    """

    loc: nn.Parameter
    scale: nn.Parameter
    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(channels))
        self.scale = nn.Parameter(torch.ones(channels))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        self._ready = False  # spares a device synchronisation at every step

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift `x`."""
        if self.training and not self._ready:
            self._initialise(x)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return self.scale.view(shape) * (x + self.loc.view(shape))

    def inverse(self, y: Tensor) -> Tensor:
        """Undo: x = y / scale − loc, for (N, C)."""
        return y / self.scale - self.loc

    def log_det(self) -> Tensor:
        """Σ log|scale|, a scalar, for (N, C)."""
        return self.scale.abs().log().sum()

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        if not self.initialized:
            dims = [d for d in range(x.dim()) if d != 1]
            x = x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
            count = _total(x.new_tensor(float(x.numel() // x.shape[1])))
            mean = _total(x.sum(dim=dims)) / count
            shape = (1, -1) + (1,) * (x.dim() - 2)
            variance = _total((x - mean.view(shape)).square().sum(dim=dims)) / (count - 1).clamp(min=1)
            std = variance.sqrt()
            constant = std <= 1e-5 * mean.abs()  # rounding noise is no spread
            self.loc.copy_(-mean)
            self.scale.copy_(torch.where(constant, torch.ones_like(std), 1 / (std + 1e-6)))
            self.initialized.fill_(1)
        self._ready = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = False

    def extra_repr(self) -> str:
        """Channels."""
        return f"{self.loc.numel()}"


def _total(x: Tensor) -> Tensor:
    """`x` summed over all ranks."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(x)
    return x


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """Inputs → width → (width) × depth → outputs, with LeakyReLU(0.01) between."""
    widths = [inputs, *[width] * (depth + 1)]
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Pointwise(nn.Linear):
    """A 1×1 convolution of vectors (N, C).

    In eval mode on a CPU it runs as one, as in the published networks, whose rounding it thereby repeats to the
    bit: deep flows amplify a last digit, and long ones with random weights make a whole number of it. Training
    takes the matrix product, which is twice as fast.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C) → (N, O)."""
        if self.training or input.device.type != "cpu":
            return super().forward(input)
        return F.conv2d(input[:, :, None, None], self.weight[:, :, None, None], self.bias).flatten(1)
