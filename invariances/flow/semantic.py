"""The second invertible network e: latent ↔ residual e₀ and factors e₁ … e_K, taught by pictures that share some."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from invariances.flow.layers import mlp
from invariances.system.errors import UserError


class SemanticFlow(nn.Module):
    """e(z̄) = (z̄ − m(s), s) with s = W r(z̄): the factors s = (e₁, …, e_K) are read, what they tell is taken off z̄.

    These are two additive couplings of (z̄, 0), the latent beside as many zeros as the factors have dimensions, so
    that e⁻¹(e₀, s) = e₀ + m(s) undoes e, exactly, with log-determinant 0. (The published network keeps the number of
    dimensions and couples random halves.) Latents are standardised first; W makes each factor's mean 0 and its
    directions uncorrelated, with the variance of what they tell (`training.semantic.whiten`).
    Sources: Rombach et al. 2020; Esser, Rombach, Ommer 2020, "A Disentangling Invertible Interpretation Network";
    additive couplings, Dinh et al. 2014.

    Args:
        latent_dim: D; latents are (N, D), codes (N, D + F).
        sizes: Dimensions of each factor, by name; F is their sum.
        width: Of the hidden layers of r and m.
        depth: Hidden layers after the first.

    Attributes:
        parts: Where each factor lies in a code; the residual lies before them.

    Raises:
        UserError: There is no factor, or one has no dimension.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    whiten: Tensor

    def __init__(self, latent_dim: int, sizes: Mapping[str, int], width: int = 384, depth: int = 2) -> None:
        super().__init__()
        if not sizes or min(sizes.values()) < 1:
            raise UserError(f"factors of {dict(sizes)} dimensions are none; give each one or more")
        self.config = {"latent_dim": latent_dim, "sizes": dict(sizes), "width": width, "depth": depth}
        self.parts: dict[str, slice] = {}
        start = latent_dim
        for name, size in sizes.items():
            self.parts[name] = slice(start, start + size)
            start += size
        total = start - latent_dim
        self.reading = mlp(latent_dim, width, depth, total)
        self.writing = mlp(total, width, depth, latent_dim)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("deviation", torch.ones(latent_dim))
        self.register_buffer("centre", torch.zeros(total))
        self.register_buffer("whiten", torch.eye(total))

    def forward(self, latents: Tensor) -> Tensor:
        """Codes (N, D + F): the residual, then the factors."""
        x = (latents - self.mean) / self.deviation
        factors = self.read(x)
        return torch.cat([x - self.writing(factors), factors], dim=1)

    def inverse(self, codes: Tensor) -> Tensor:
        """The latents (N, D) of codes."""
        residual, factors = codes.tensor_split([len(self.mean)], dim=1)
        latents: Tensor = (residual + self.writing(factors)) * self.deviation + self.mean
        return latents

    def read(self, x: Tensor) -> Tensor:
        """Factors (N, F) of standardised latents."""
        factors: Tensor = (self.reading(x) - self.centre) @ self.whiten
        return factors

    def groups(self, factors: Tensor) -> list[Tensor]:
        """Each factor of (…, F) by itself, in the order of `sizes`."""
        first = len(self.mean)
        return [factors[..., part.start - first : part.stop - first] for part in self.parts.values()]

    @torch.no_grad()
    def edit(self, latents: Tensor, name: str, others: Tensor) -> Tensor:
        """e⁻¹ of the latents' codes with the factor `name` of the others': (N, D) of (N, D) and (N, D).

        Raises:
            UserError: No such factor.
        """
        if name not in self.parts:
            raise UserError(f"{name!r} is no factor of this network; it has {', '.join(self.parts)}")
        part, codes = self.parts[name], self(latents)
        codes[:, part] = self(others)[:, part]
        return self.inverse(codes)

    @torch.no_grad()
    def kept(self, latents: Tensor, samples: Tensor) -> dict[str, float]:
        """1 − E‖e_k(z̄') − e_k(z̄)‖² / (2 Var e_k) by factor: the share of it that samples of a layer keep.

        NaN of a factor that e cannot read.

        Args:
            latents: z̄ of N pictures, (N, D).
            samples: z̄' ~ p(z̄ | z), n of each, (N, n, D).
        """
        codes, drawn = self(latents).double(), self(samples.flatten(0, 1)).double()
        apart = (drawn.view(*samples.shape[:2], -1) - codes[:, None]).square().mean(dim=(0, 1))
        spread = codes.var(dim=0, unbiased=False)
        return {
            name: float(1 - apart[part].sum() / (2 * spread[part].sum())) for name, part in self.parts.items()
        }


def unlikeness(factor: Tensor, shared: Tensor, correlation: float) -> Tensor:
    """Wilks: ln det(W + (1 − σ) T) − ln det T: how unlike a factor's codes are among pictures that share it; a scalar.

    W is the covariance within groups, T that of all (their quotient is Wilks' Λ). The lower, the more the codes tell
    of what is shared: for Gaussian codes it grows with minus the information between two pictures of a group. Of codes
    that tell nothing it is about 0; (1 − σ) keeps one that is told already from being told ever more finely.

    Args:
        factor: Codes, (N, d).
        shared: (N,) numbers, equal where pictures share the factor.
        correlation: σ, between 0 and 1.
    """
    within, total = covariances(factor, shared)
    ridge = 1e-4 * torch.eye(len(total)).to(total)
    return torch.logdet(within + (1 - correlation) * total + ridge) - torch.logdet(total + ridge)


def covariances(factor: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """(W, T), each (d, d): of codes (N, d) within groups of equal numbers (N,), and of all."""
    group, count = torch.unique(shared, return_inverse=True, return_counts=True)[1:]
    means = factor.new_zeros(len(count), factor.shape[1]).index_add(0, group, factor) / count[:, None]
    within, every = factor - means[group], factor - factor.mean(dim=0)
    return within.T @ within / max(1, len(factor) - len(count)), every.T @ every / len(factor)
