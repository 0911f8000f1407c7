"""The second invertible network e: latent ↔ residual e₀ and factors e₁ … e_K, taught by pairs that share some."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from invariances.flow.couplings import AffineHalf
from invariances.flow.layers import ActNorm
from invariances.system.errors import UserError


class Exchange(nn.Module):
    """ActNorm, then an affine coupling of the factors given the residual, and of the residual given the new factors."""

    def __init__(self, residual: int, factors: int, width: int, depth: int) -> None:
        super().__init__()
        self.sizes = [residual, factors]
        self.norm = ActNorm(residual + factors)
        self.factors = AffineHalf(factors, residual, width, depth)
        self.residual = AffineHalf(residual, factors, width, depth)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(y (N, D), log-det (N,))."""
        residual, factors = torch.split(self.norm(x), self.sizes, dim=1)
        factors, of_factors = self.factors(factors, residual)
        residual, of_residual = self.residual(residual, factors)
        return torch.cat([residual, factors], dim=1), of_factors + of_residual + self.norm.log_det()

    def inverse(self, y: Tensor) -> Tensor:
        """The x that forward maps to y."""
        residual, factors = torch.split(y, self.sizes, dim=1)
        residual = self.residual.inverse(residual, factors)
        factors = self.factors.inverse(factors, residual)
        return self.norm.inverse(torch.cat([residual, factors], dim=1))


class SemanticFlow(nn.Module):
    """e(z̄) = (e₀, e₁, …, e_K), each N(0, I); of two pictures that share factor k, e_k correlates by σ, else by 0.

    In place of the random halves of the published network the couplings exchange between residual and factors: a
    factor is read off the residual, and what it tells is taken off the residual. The factors begin as the latent's
    last dimensions. Sources: Rombach et al. 2020; Esser, Rombach, Ommer 2020, "A Disentangling Invertible
    Interpretation Network".

    Args:
        latent_dim: D; latents are (N, D), and so are codes.
        sizes: Dimensions of each factor, by name; D minus their sum is left for the residual.
        blocks: Exchanges.
        width: Of the nets' hidden layers.
        depth: Hidden layers after the first.

    Attributes:
        parts: Where each factor lies in a code.

    Raises:
        UserError: The factors leave nothing for the residual, or one has no dimension.
    """

    def __init__(
        self, latent_dim: int, sizes: Mapping[str, int], blocks: int = 4, width: int = 256, depth: int = 1
    ) -> None:
        super().__init__()
        total = sum(sizes.values())
        if not sizes or min(sizes.values()) < 1 or total >= latent_dim:
            raise UserError(
                f"factors of {dict(sizes)} dimensions do not fit in a latent of {latent_dim}; give each one or more, "
                "and leave some for the residual"
            )
        self.config = {
            "latent_dim": latent_dim,
            "sizes": dict(sizes),
            "blocks": blocks,
            "width": width,
            "depth": depth,
        }
        self.parts: dict[str, slice] = {}
        start = latent_dim - total
        for name, size in sizes.items():
            self.parts[name] = slice(start, start + size)
            start += size
        self.blocks = nn.ModuleList(Exchange(latent_dim - total, total, width, depth) for _ in range(blocks))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(codes (N, D), log |det| (N,))."""
        codes, log_det = latents, latents.new_zeros(len(latents))
        for block in self.blocks:
            codes, part = block(codes)
            log_det = log_det + part
        return codes, log_det

    def inverse(self, codes: Tensor) -> Tensor:
        """The latents (N, D) of codes."""
        latents = codes
        for block in reversed(self.blocks):
            assert isinstance(block, Exchange)
            latents = block.inverse(latents)
        return latents

    def loss(self, a: Tensor, b: Tensor, shared: Tensor, correlation: float = 0.9) -> Tensor:
        """−log p(z̄ᵃ, z̄ᵇ) in nats, (N,): e_k(b) ~ N(σ e_k(a), 1 − σ²) where a pair shares k, else N(0, 1).

        Args:
            a: Latents of one picture of each pair, (N, D).
            b: Of the other.
            shared: Which factors, in the order of `sizes`, a pair shares, (N, K) booleans.
            correlation: σ.
        """
        codes, log_det = self(torch.cat([a, b]))
        first, second = codes.chunk(2)
        sizes = [part.stop - part.start for part in self.parts.values()]
        same = shared.repeat_interleave(torch.tensor(sizes, device=shared.device), dim=1)
        sigma = torch.zeros_like(first)
        sigma[:, -same.shape[1] :] = correlation * same
        variance = 1 - sigma.square()
        apart = (second - sigma * first).square() / variance + variance.log()
        energy = 0.5 * (first.square() + apart + 2 * math.log(2 * math.pi)).sum(dim=1)
        loss: Tensor = energy - log_det.view(2, -1).sum(dim=0)
        return loss

    @torch.no_grad()
    def edit(self, latents: Tensor, name: str, others: Tensor) -> Tensor:
        """e⁻¹ of the latents' codes with the factor `name` of the others': (N, D) of (N, D) and (N, D).

        Raises:
            UserError: No such factor.
        """
        part = self._part(name)
        codes = self(latents)[0].clone()
        codes[:, part] = self(others)[0][:, part]
        return self.inverse(codes)

    @torch.no_grad()
    def kept(self, latents: Tensor, samples: Tensor) -> dict[str, float]:
        """1 − E‖e_k(z̄') − e_k(z̄)‖² / (2 Var e_k) by factor: the share of it that samples of a layer keep.

        Args:
            latents: z̄ of N pictures, (N, D).
            samples: z̄' ~ p(z̄ | z), n of each, (N, n, D).
        """
        codes, drawn = self(latents)[0].double(), self(samples.flatten(0, 1))[0].double()
        apart = (drawn.view(*samples.shape) - codes[:, None]).square().mean(dim=(0, 1))
        spread = codes.var(dim=0, unbiased=False)
        return {
            name: float(1 - apart[part].sum() / (2 * spread[part].sum())) for name, part in self.parts.items()
        }

    def _part(self, name: str) -> slice:
        if name not in self.parts:
            raise UserError(f"{name!r} is no factor of this network; it has {', '.join(self.parts)}")
        return self.parts[name]
