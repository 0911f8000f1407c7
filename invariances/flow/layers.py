"""The transforms of a flow block: ActNorm, affine coupling and permutation, each with its log-determinant."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

LIMIT = 1e12
"""Largest magnitude that passes between blocks: far above any meaningful value, far below overflow."""


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


class AffineHalf(nn.Module):
    """y = x · exp(s) + t, with s = tanh(MLP(kept)) and t = MLP(kept); log-det = Σ s."""

    def __init__(self, changed: int, kept: int, width: int, depth: int) -> None:
        super().__init__()
        self.s = mlp(kept, width, depth, changed)
        self.t = mlp(kept, width, depth, changed)

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(y, log-det (N,)) for x (N, changed) and kept (N, kept)."""
        s = torch.tanh(self.s(kept))
        return x * s.exp() + self.t(kept), s.sum(dim=1)

    def inverse(self, y: Tensor, kept: Tensor) -> Tensor:
        """Undo: x = (y − t) · exp(−s)."""
        x: Tensor = (y - self.t(kept)) * torch.tanh(self.s(kept)).neg().exp()
        return x


class DoubleCoupling(nn.Module):
    """Two affine couplings: the second half given the first, then the first given the new second.

    The halves leave swapped. An odd dimension gives the first half one more entry. Each half is told
    the embedded representation besides the half that it is given.
    """

    def __init__(self, dim: int, condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.sizes = [dim - dim // 2, dim // 2]
        a, b = self.sizes
        self.first = AffineHalf(b, a + condition, width, depth)
        self.second = AffineHalf(a, b + condition, width, depth)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(y (N, D), log-det (N,)) for x (N, D) and condition (N, E)."""
        a, b = torch.split(x, self.sizes, dim=1)
        b, log_det_b = self.first(b, torch.cat([a, condition], dim=1))
        a, log_det_a = self.second(a, torch.cat([b, condition], dim=1))
        return torch.cat([b, a], dim=1), log_det_a + log_det_b

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """The x that forward maps to y."""
        b, a = torch.split(y, self.sizes[::-1], dim=1)
        a = self.second.inverse(a, torch.cat([b, condition], dim=1))
        b = self.first.inverse(b, torch.cat([a, condition], dim=1))
        return torch.cat([a, b], dim=1)


class Permutation(nn.Module):
    """y = x[:, order], a fixed random order; log-det = 0."""

    order: Tensor
    back: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        order = torch.randperm(dim)
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def forward(self, x: Tensor) -> Tensor:
        """Reorder (N, D)."""
        return x[:, self.order]

    def inverse(self, y: Tensor) -> Tensor:
        """Restore the order."""
        return y[:, self.back]


class FlowBlock(nn.Module):
    """ActNorm, double affine coupling, permutation."""

    def __init__(self, dim: int, condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.norm = ActNorm(dim)
        self.coupling = DoubleCoupling(dim, condition, width, depth)
        self.permutation = Permutation(dim)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(y (N, D), log-det (N,)); |y| is held below `LIMIT`."""
        y = self.norm(x)
        y, log_det = self.coupling(y, condition)
        return self.permutation(y).clamp(-LIMIT, LIMIT), log_det + self.norm.log_det()

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """The x that forward maps to y; |x| is held below `LIMIT`."""
        x = self.coupling.inverse(self.permutation.inverse(y), condition)
        return self.norm.inverse(x).clamp(-LIMIT, LIMIT)
