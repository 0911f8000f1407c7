"""The conditional invertible network t: latent z̄ given representation z ↔ invariance v ~ N(0, I)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.continuous import Continuous
from invariances.flow.couplings import Couplings, Permutation
from invariances.flow.embedders.embedder import Embedder, NoEmbedder
from invariances.flow.embedders.maps import MapEmbedder
from invariances.flow.embedders.published import PublishedEmbedder
from invariances.flow.embedders.regression import RegressionEmbedder
from invariances.flow.layers import ActNorm
from invariances.flow.map_velocity import grid_of
from invariances.flow.maps import Maps
from invariances.flow.transform import Transform
from invariances.system.checks import MOST_SAMPLES, number
from invariances.system.errors import UserError

EMBEDDERS: dict[str, Callable[[EmbedderConfig, Sequence[int], int, bool], Embedder]] = {
    "published": PublishedEmbedder,
    "regression": RegressionEmbedder,
}
TRANSFORMS: dict[str, Callable[[FlowConfig, Sequence[int], int], Transform]] = {
    "couplings": Couplings,
    "continuous": Continuous,
    "maps": Maps,
}


class ConditionalFlow(nn.Module):
    """v = t(z̄ | e), e = embed(z), with log p(z̄ | z) = log N(v; 0, I) + log |det ∂v/∂z̄|.

    What v says, z̄ knows and z does not: the invariances of the layer. Latents and invariances are (N, *latent_shape),
    of a flat shape also (N, D, 1, 1); representations are (N, C) or (N, C, H, W), vectors also (N, C, 1, 1). In place
    of a representation `embedding` may come: what `embed` gave. Source: Rombach et al. 2020, section 3.2.

    Args:
        config: The architecture.
        latent_shape: (D,) or (C, H, W), without batch; two numbers or more in all.
        representation_shape: (C,) or (C, H, W), without batch; () for an unconditional flow.
        probabilities: The representation is a softmax: its logarithm is embedded (the published flows embed
            probabilities as they are, and so lose what lies in the faint ones).

    Attributes:
        latent_dim: D, numbers of a latent.
        embedder: An `Embedder`.
        transform: A `Transform`.

    Raises:
        UserError: A shape is impossible, or a tensor has another one than announced here.
    """

    def __init__(
        self,
        config: FlowConfig,
        latent_shape: Sequence[int],
        representation_shape: Sequence[int] = (),
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.probabilities = config, bool(probabilities)
        self.latent_shape = _latent_shape(latent_shape)
        self.latent_dim = math.prod(self.latent_shape)
        if config.transform == "maps" and len(self.latent_shape) != 3:
            raise UserError(
                f"flow.transform 'maps' needs latents that are maps (C, H, W), and these are {self.latent_shape}; "
                "take an autoencoder of such (photos64_ae, taef2), or another transform"
            )
        self.representation_shape = _representation_shape(representation_shape)
        shape = self.representation_shape
        self.embedder: Embedder = NoEmbedder()
        if shape:
            self.embedder = self._embedder()
        self.transform = TRANSFORMS[config.transform](config, self.latent_shape, self.embedder.outputs)

    def _embedder(self) -> Embedder:
        config, shape = self.config, self.representation_shape
        if config.transform == "maps":
            return MapEmbedder(shape, config.width, grid_of(*self.latent_shape[1:]), self.probabilities)
        make = EMBEDDERS[config.embedder.kind]
        return make(config.embedder, shape, self.latent_dim, self.probabilities)

    def forward(
        self, latent: Tensor, representation: Tensor | None = None, embedding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(invariance (N, *latent_shape), log |det| (N,)) of latents given their representations."""
        x = self._announced(latent, "latent")
        invariance, log_det = self.transform(x, self._condition(representation, embedding, len(x)))
        return invariance, log_det

    def invariance(
        self, latent: Tensor, representation: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """The invariances (N, *latent_shape) alone, as `forward` gives them beside the log-determinants."""
        x = self._announced(latent, "latent")
        return self.transform.invariance(x, self._condition(representation, embedding, len(x)))

    def inverse(
        self, invariance: Tensor, representation: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """The latents (N, *latent_shape) whose invariances, given the representations, these are."""
        v = self._announced(invariance, "invariance")
        return self.transform.inverse(v, self._condition(representation, embedding, len(v)))

    def drawn(
        self, invariance: Tensor, representation: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """The latents (N, *latent_shape) of fresh invariances: see `Transform.drawn`."""
        v = self._announced(invariance, "invariance")
        return self.transform.drawn(v, self._condition(representation, embedding, len(v)))

    def exchanged(self, latent: Tensor, representation: Tensor, instead: Tensor) -> Tensor:
        """The latents (N, *latent_shape) of these ones' invariances, given other representations."""
        x = self._announced(latent, "latent")
        e, other = (self._condition(each, None, len(x)) for each in (representation, instead))
        return self.transform.exchanged(x, e, other)

    def log_prob(
        self, latent: Tensor, representation: Tensor | None = None, embedding: Tensor | None = None
    ) -> Tensor:
        """Log-density in nats, log p(z̄ | z) = −½‖v‖² − D/2 · log 2π + log |det|; (N,)."""
        invariance, log_det = self(latent, representation, embedding)
        constant = 0.5 * self.latent_dim * math.log(2 * math.pi)
        log_prob: Tensor = log_det - 0.5 * invariance.flatten(1).square().sum(dim=1) - constant
        return log_prob

    def loss(
        self,
        latent: Tensor,
        generator: torch.Generator,
        representation: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """What the transform learns by, (N,): see `Transform.loss`."""
        x = self._announced(latent, "latent")
        return self.transform.loss(x, self._condition(representation, embedding, len(x)), generator)

    @torch.no_grad()
    def sample(
        self,
        representation: Tensor | None = None,
        n: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """z̄ = t⁻¹(temperature · ε | z), ε ~ N(0, I): n latents for each representation; (N, n, *latent_shape).

        Args:
            representation: (N, C) or (N, C, H, W); None for an unconditional flow (then N = 1).
            n: Samples for each.
            temperature: Standard deviation of the invariances; 0 gives the most typical latent.
            generator: Source of ε; on the flow's device or on the CPU.
            guidance: See `Transform.guided`; 1 for samples of p(z̄ | z).

        Raises:
            UserError: `n` or `temperature` gives no samples, or the flow cannot be guided.
        """
        number("n", n, 1, MOST_SAMPLES + 1, whole=True)
        number("temperature", temperature, 0)
        embedding = self.embed(representation)
        count, weight = len(embedding) * n, self._weight()
        device = weight.device if generator is None else generator.device
        noise = torch.randn(count, *self.latent_shape, generator=generator, device=device, dtype=weight.dtype)
        condition = embedding.repeat_interleave(n, dim=0)
        v = temperature * noise.to(weight.device)
        transform = self.transform
        latents = transform.drawn(v, condition) if guidance == 1 else transform.guided(v, condition, guidance)
        return latents.view(len(embedding), n, *self.latent_shape)

    def embed(self, representation: Tensor | None = None) -> Tensor:
        """The embedded representations (N, E); (N, 0) where the flow has none."""
        if not self.representation_shape:
            return self._weight().new_zeros(1 if representation is None else len(representation), 0)
        if representation is None:
            expected = ("N", *self.representation_shape)
            raise UserError(f"this flow needs a representation of shape {expected}; none was given.")
        embedding: Tensor = self.embedder(representation)
        return embedding

    def spec(self) -> dict[str, Any]:
        """Plain values that `restored` builds the same architecture from."""
        return {
            "config": asdict(self.config),
            "latent_shape": list(self.latent_shape),
            "representation_shape": list(self.representation_shape),
            "probabilities": self.probabilities,
        }

    @classmethod
    def restored(cls, spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> ConditionalFlow:
        """The flow of a `spec` with the weights of a state dict, compared with it before any memory is taken.

        Raises:
            UserError: The spec is of an older version or impossible, or the weights are not those of such a flow.
        """
        if "latent_dim" in spec:
            raise UserError("the flow was written by an older version; train again")

        def build(config: FlowConfig) -> ConditionalFlow:
            shapes = spec["latent_shape"], spec["representation_shape"]
            return cls(config, *shapes, spec["probabilities"])

        return filled(build, spec, state)

    def _condition(self, representation: Tensor | None, embedding: Tensor | None, count: int) -> Tensor:
        if embedding is None:
            frozen = self.training and self.embedder.taught_first
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                embedding = self.embed(representation)
        elif embedding.shape[1:] != (self.embedder.outputs,):
            raise UserError(
                f"the embedding has shape {tuple(embedding.shape)}, but this flow's are (N, {self.embedder.outputs})."
            )
        embedding = embedding.to(self._weight().dtype)
        if len(embedding) == count:
            return embedding
        if not self.representation_shape or len(embedding) == 1:
            return embedding[:1].expand(count, -1)
        raise UserError(
            f"{len(embedding)} representations were given for {count} latents; give one for each, "
            "or one for all."
        )

    def _announced(self, x: Tensor, name: str) -> Tensor:
        if len(self.latent_shape) == 1 and x.dim() == 4 and x.shape[2:] == (1, 1):
            x = x.flatten(1)
        if tuple(x.shape[1:]) != self.latent_shape:
            expected = ", ".join(map(str, ("N", *self.latent_shape)))
            raise UserError(f"the {name} has shape {tuple(x.shape)}, but this flow works on ({expected}).")
        return x.to(self._weight().dtype)

    def _weight(self) -> Tensor:
        """Any parameter, for its device and dtype."""
        return next(self.transform.parameters())


def _whole(shape: object) -> tuple[int, ...]:
    """The sizes of a shape; empty where it is none."""
    try:
        return tuple(operator.index(size) for size in shape)  # type: ignore[attr-defined]
    except TypeError:
        return (0,)


def _latent_shape(shape: Sequence[int]) -> tuple[int, ...]:
    found = _whole(shape)
    if len(found) not in (1, 3) or min(found) < 1 or math.prod(found) < 2:
        raise UserError(f"latent_shape is {shape!r}; give (D,) or (C, H, W), of two numbers or more in all.")
    return found


def _representation_shape(shape: Sequence[int]) -> tuple[int, ...]:
    found = _whole(shape)
    if len(found) not in (0, 1, 3) or any(size < 1 for size in found):
        raise UserError(
            f"representation_shape is {shape!r}; give (C,), (C, H, W), or () for an unconditional flow."
        )
    return found[:1] if found[1:] == (1, 1) else found


F = TypeVar("F", bound=nn.Module)


def filled(build: Callable[[FlowConfig], F], spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> F:
    """What `build` makes of the spec's configuration, with the weights of a state dict.

    Both are compared before any memory is taken.

    Raises:
        UserError: The spec is damaged or impossible, or the weights are not those of such a flow.
    """
    try:
        config = dict(spec["config"])
        embedder = EmbedderConfig(**config.pop("embedder"))
        made = FlowConfig(**config, embedder=embedder)
        with torch.device("meta"):
            expected = build(made).state_dict()
        differ = [
            name
            for name in {**expected, **state}
            if name not in state or name not in expected or state[name].shape != expected[name].shape
        ]
        if differ:
            raise UserError(
                f"the weights are of another architecture than it says ({differ[0]} is missing, too much, or of "
                "another shape); train again"
            )
        flow = build(made)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("the flow's description is damaged or of another version; train again") from None
    except (RuntimeError, OverflowError):
        raise UserError("the flow's description names impossible sizes; train again") from None
    flow.load_state_dict(state)
    _check_weights(flow)
    return flow


def _check_weights(flow: nn.Module) -> None:
    """Refuses weights that no training leaves.

    Raises:
        UserError: Naming the first.
    """
    for name, module in flow.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        wrong = [key for key, each in own if not bool(each.isfinite().all())]
        if isinstance(module, ActNorm) and not bool(module.scale.all()):
            wrong.append("scale")
        if isinstance(module, Permutation):
            places = torch.arange(len(module.order), device=module.order.device)
            if not torch.equal(module.order.sort().values, places) or not torch.equal(
                module.order.argsort(), module.back
            ):
                wrong.append("order")
        if wrong:
            raise UserError(
                f"the weights are damaged: {name}.{wrong[0]} holds values that no training leaves; fetch or train again"
            )
