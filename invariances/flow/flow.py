"""The conditional invertible network t: latent z̄ given representation z ↔ invariance v ~ N(0, I)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from invariances.flow.continuous import ContinuousTransform
from invariances.flow.embedders.embedder import (
    VECTOR_DEPTH,
    Embedder,
    EmbedderKind,
    ResidualEmbedder,
    log_probabilities,
)
from invariances.flow.layers import LIMIT, FlowBlock
from invariances.system.errors import UserError

Transform = Literal["coupling", "continuous"]


class ConditionalFlow(nn.Module):
    """v = t(z̄ | z), with log p(z̄ | z) = log N(v; 0, I) + log |det ∂v/∂z̄|.

    "coupling", as published: `blocks` times ActNorm, double affine coupling and a fixed random permutation, each block
    told the embedded representation. "continuous": one `ContinuousTransform`, told it at all times. What v says, z̄
    knows and z does not: the invariances of the layer.

    Latents and invariances are (N, D), or (N, D, 1, 1); representations are (N, C) or (N, C, H, W),
    vectors also (N, C, 1, 1). Values between blocks are held within ±1e12, so that even a representation
    far from all training data gives finite samples. Source: Rombach et al. 2020, section 3.2.

    Args:
        latent_dim: D, at least 2.
        representation_shape: (C,) or (C, H, W), without batch; () or None for an unconditional flow.
        blocks: number of blocks; of a continuous transform, residual blocks of its velocity.
        width: of the hidden layers of the coupling's nets, or of the velocity.
        depth: number of their hidden layers, width to width, after the first.
        embedder: "published", or "residual": see `ResidualEmbedder`.
        embedder_depth: widths, ends included, of a vector's published embedder (4; the published flow on the
            average-pooled AnimalFaces ResNet has 6). Maps need no number: see `MapEmbedder`.
        embedder_width: of a residual embedder: channels of its first halving block, or a 16th of its hidden units.
        embedder_auxiliary: values, besides the latent, that a residual one learns to guess: see `ResidualEmbedder`.
        embedder_statistics: whether a residual one reads the statistics of a map's channels too.
        probabilities: the representation is a softmax: its logarithm is embedded (the published flows embed
            probabilities as they are, and so lose what lies in the faint ones).
        transform: "coupling" or "continuous".

    Raises:
        UserError: where a size is impossible, or a tensor has another shape than announced here.
    """

    def __init__(
        self,
        latent_dim: int,
        representation_shape: Sequence[int] | None = (),
        blocks: int = 20,
        width: int = 1024,
        depth: int = 2,
        embedder: EmbedderKind = "published",
        embedder_depth: int = VECTOR_DEPTH,
        embedder_width: int = 64,
        embedder_auxiliary: int = 0,
        embedder_statistics: bool = False,
        probabilities: bool = False,
        transform: Transform = "coupling",
    ) -> None:
        super().__init__()
        shape = [int(size) for size in representation_shape or ()]
        if len(shape) == 3 and shape[1:] == [1, 1]:
            shape = shape[:1]
        _check(latent_dim, shape, blocks, width, depth, embedder_depth)
        if embedder not in get_args(EmbedderKind) or embedder_width < 1 or embedder_auxiliary < 0:
            raise UserError(
                f"an embedder {embedder!r} of width {embedder_width} with {embedder_auxiliary} auxiliary values cannot "
                "be made; use 'published' or 'residual', a width of at least 1, and 0 values or more"
            )
        if transform not in get_args(Transform):
            raise UserError(f"transform {transform!r} is unknown; use 'coupling' or 'continuous'")
        self.latent_dim = latent_dim
        self.representation_shape = tuple(shape)
        self.config: dict[str, Any] = {
            "latent_dim": latent_dim,
            "representation_shape": shape,
            "blocks": blocks,
            "width": width,
            "depth": depth,
            "embedder": embedder,
            "embedder_depth": embedder_depth,
            "embedder_width": embedder_width,
            "embedder_auxiliary": embedder_auxiliary,
            "embedder_statistics": embedder_statistics,
            "probabilities": probabilities,
            "transform": transform,
        }
        self.continuous = transform == "continuous"
        self.embedder = Embedder(
            shape,
            latent_dim,
            embedder,
            embedder_depth,
            embedder_width,
            embedder_auxiliary,
            mixes=not self.continuous,
            statistics=embedder_statistics,
        )
        told = self.embedder.outputs
        self.blocks = nn.ModuleList(
            [ContinuousTransform(latent_dim, told, width, blocks, depth)]
            if self.continuous
            else [FlowBlock(latent_dim, told, width, depth) for _ in range(blocks)]
        )

    def forward(
        self, latent: Tensor, representation: Tensor | None = None, gaussian: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(invariance (N, D), log |det| (N,)) of latents (N, D) given their representations.

        `gaussian` may come in place of these where the embedder is residual: what `self.gaussian` made of them.
        """
        x, condition = self._told(latent, representation, gaussian)
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            x, block_log_det = block(x, condition)
            log_det = log_det + block_log_det
        return x, log_det

    def matching_loss(
        self,
        latent: Tensor,
        representation: Tensor | None,
        gaussian: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """What a continuous transform learns by, (N,): see `ContinuousTransform.matching_loss`."""
        x, condition = self._told(latent, representation, gaussian)
        transform = self.blocks[0]
        assert isinstance(transform, ContinuousTransform)
        return transform.matching_loss(x, condition, generator)

    def inverse(self, invariance: Tensor, representation: Tensor | None = None) -> Tensor:
        """The latents (N, D) whose invariances (N, D), given the representations, these are."""
        y = self._vectors(invariance, "invariance")
        return self._inverse(y, self._condition(representation, len(y)))

    def log_prob(self, latent: Tensor, representation: Tensor | None = None) -> Tensor:
        """Log-density in nats, log p(z̄ | z) = −½‖v‖² − D/2 · log 2π + log |det|; (N,)."""
        invariance, log_det = self(latent, representation)
        constant = 0.5 * self.latent_dim * math.log(2 * math.pi)
        log_prob: Tensor = log_det - 0.5 * invariance.square().sum(dim=1) - constant
        return log_prob

    @property
    def residual_embedder(self) -> ResidualEmbedder | None:
        """The embedder, if it is one that a regression teaches first."""
        return self.embedder.net if isinstance(self.embedder.net, ResidualEmbedder) else None

    def gaussian(self, representation: Tensor) -> Tensor:
        """(N, 2 D + 2 S) or longer, all that a residual embedder passes on: see `ResidualEmbedder.gaussian`."""
        assert self.residual_embedder is not None
        return self.residual_embedder.gaussian(self.read(self._announced(representation)))

    def gaussian_log_prob(self, latent: Tensor, representation: Tensor) -> Tensor:
        """Log N(z̄; μ(z), σ²(z)) in nats, (N,): the residual embedder's own density of the latent."""
        assert self.residual_embedder is not None
        return self.residual_embedder.log_prob(self._vectors(latent, "latent"), self.gaussian(representation))

    @torch.no_grad()
    def sample(
        self,
        representation: Tensor | None = None,
        n: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """z̄ = t⁻¹(temperature · ε | z), ε ~ N(0, I): n latents for each representation; (N, n, D).

        Args:
            representation: (N, C) or (N, C, H, W); None for an unconditional flow (then N = 1).
            n: samples for each.
            temperature: standard deviation of the invariances; 0 gives the most typical latent.
            generator: source of ε; on the flow's device or on the CPU.
        """
        embedding = self.embed(representation)
        count = len(embedding) * n
        weight = self._weight()
        device = weight.device if generator is None else generator.device
        noise = torch.randn(count, self.latent_dim, generator=generator, device=device, dtype=weight.dtype)
        condition = embedding.repeat_interleave(n, dim=0)
        latents = self._inverse(temperature * noise.to(weight.device), condition)
        return latents.view(len(embedding), n, self.latent_dim)

    def embed(self, representation: Tensor | None = None) -> Tensor:
        """The embedded representations (N, E); (N, 0) where the flow has none."""
        if not self.representation_shape:
            return self._weight().new_zeros(1 if representation is None else len(representation), 0)
        expected = self.representation_shape
        if representation is None:
            raise UserError(f"this flow needs a representation of shape {('N', *expected)}; none was given.")
        embedding: Tensor = self.embedder(self.read(self._announced(representation)))
        return embedding

    def read(self, representation: Tensor) -> Tensor:
        """What the embedder is given: the representation, or its logarithm where it is one of probabilities."""
        return log_probabilities(representation) if self.config["probabilities"] else representation

    def _announced(self, representation: Tensor) -> Tensor:
        """The representation in the flow's dtype, if it has the shape that the flow was built for."""
        expected, z = self.representation_shape, representation
        if len(expected) == 1 and z.dim() == 4 and z.shape[2:] == (1, 1):
            z = z.flatten(1)
        if tuple(z.shape[1:]) != expected:
            raise UserError(
                f"the representation has shape {tuple(z.shape)}, but this flow was built for "
                f"{('N', *expected)}; use the layer and network that it was trained for."
            )
        return z.to(self._weight().dtype)

    def _inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            assert isinstance(block, (FlowBlock, ContinuousTransform))
            y = block.inverse(y, condition)
        return y

    def _condition(self, representation: Tensor | None, count: int) -> Tensor:
        condition = self.embed(representation)
        if len(condition) == count:
            return condition
        if not self.representation_shape or len(condition) == 1:
            return condition.expand(count, -1)
        raise UserError(
            f"{len(condition)} representations were given for {count} latents; give one for each, "
            "or one for all."
        )

    def _told(
        self, latent: Tensor, representation: Tensor | None, gaussian: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Latents (N, D) and what the blocks are told of them, (N, E)."""
        x = self._vectors(latent, "latent")
        return x, self._condition(representation, len(x)) if gaussian is None else self._mixed(gaussian)

    def _mixed(self, gaussian: Tensor) -> Tensor:
        assert self.residual_embedder is not None
        return self.residual_embedder.mixed(gaussian).clamp(-LIMIT, LIMIT)

    def _vectors(self, x: Tensor, name: str) -> Tensor:
        if x.dim() == 4 and x.shape[2:] == (1, 1):
            x = x.flatten(1)
        if x.dim() != 2 or x.shape[1] != self.latent_dim:
            raise UserError(
                f"the {name} has shape {tuple(x.shape)}, but this flow works on (N, {self.latent_dim})."
            )
        return x.to(self._weight().dtype)

    def _weight(self) -> Tensor:
        """Any parameter, for its device and dtype."""
        return next(self.blocks.parameters())


def _check(
    latent_dim: int, shape: list[int], blocks: int, width: int, depth: int, embedder_depth: int
) -> None:
    if latent_dim < 2:
        raise UserError(f"latent_dim is {latent_dim}, but a coupling needs two halves; give at least 2.")
    if len(shape) not in (0, 1, 3) or any(size < 1 for size in shape):
        raise UserError(
            f"representation_shape is {tuple(shape)}; give (C,), (C, H, W), or () for an unconditional flow."
        )
    if blocks < 1 or width < 1 or depth < 0 or embedder_depth < 2:
        raise UserError(
            f"blocks = {blocks}, width = {width}, depth = {depth}, embedder_depth = {embedder_depth} "
            "make no flow; give at least 1, 1, 0 and 2."
        )
