"""The published transform: a chain of affine couplings, each block a change of variables with its log-determinant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invariances.flow.config import FlowConfig
from invariances.flow.layers import LIMIT, ActNorm, Pointwise, mlp
from invariances.flow.transform import Transform


class AffineHalf(nn.Module):
    """y = x · exp(s) + t, with s = tanh(MLP(kept)) and t = MLP(kept); log-det = Σ s."""

    def __init__(self, changed: int, kept: int, width: int, depth: int) -> None:
        super().__init__()
        self.s = mlp(kept, width, depth, changed)
        self.t = mlp(kept, width, depth, changed)

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(y, log-det (N,)) for x (N, changed) and kept (N, kept)."""
        s = torch.tanh(self.s(kept)).to(x.dtype)  # under autocast log-determinants stay in float32
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
        order = torch.empty(dim, dtype=torch.long)
        if not order.is_meta:  # where torch would import a compiler to draw nothing
            torch.randperm(dim, out=order)
        self.register_buffer("order", order)
        self.register_buffer("back", torch.empty(dim, dtype=torch.long) if order.is_meta else order.argsort())

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


class Couplings(Transform):
    """v = t_K(… t_1(x, e) …, e), K times ActNorm, double affine coupling and a fixed random permutation.

    Each block is given the embedding; one that is longer than the latent is first mixed to D numbers by a learned
    linear layer. Values between blocks are held within ±1e12. Source: Rombach et al. 2020, section 3.2.

    Args:
        config: `blocks`, and `width` and `depth` of the nets in each.
        latent_shape: Of x without batch, D numbers in all.
        condition: E, length of the embedding.
    """

    likelihood = True

    def __init__(self, config: FlowConfig, latent_shape: Sequence[int], condition: int) -> None:
        super().__init__()
        dim = math.prod(latent_shape)
        self.mixing = Pointwise(condition, dim) if condition > dim else None
        self.blocks = nn.ModuleList(
            FlowBlock(dim, min(condition, dim), config.width, config.depth) for _ in range(config.blocks)
        )

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """(v (N, *latent_shape), log |det| (N,))."""
        y, e = x.flatten(1), self._mixed(e)
        log_det = y.new_zeros(len(y))
        for block in self.blocks:
            y, block_log_det = block(y, e)
            log_det = log_det + block_log_det
        return y.view_as(x), log_det

    def inverse(self, v: Tensor, e: Tensor) -> Tensor:
        """The latents that forward maps to v."""
        x, e = v.flatten(1), self._mixed(e)
        for block in reversed(self.blocks):
            assert isinstance(block, FlowBlock)
            x = block.inverse(x, e)
        return x.view_as(v)

    def loss(self, x: Tensor, e: Tensor, generator: torch.Generator) -> Tensor:
        """½‖v‖² − log |det|, (N,)."""
        v, log_det = self(x, e)
        loss: Tensor = 0.5 * v.flatten(1).square().sum(dim=1) - log_det
        return loss

    def _mixed(self, e: Tensor) -> Tensor:
        mixed: Tensor = e if self.mixing is None else self.mixing(e).clamp(-LIMIT, LIMIT)
        return mixed
