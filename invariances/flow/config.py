"""What a flow is built from: frozen dataclasses that validate themselves, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from invariances.system.checks import choice, number
from invariances.system.errors import UserError

EmbedderKind = Literal["published", "regression"]
TransformKind = Literal["couplings", "continuous", "maps"]

HEADS = 4
"""Of attention, over maps."""
_MOST_BLOCKS, _MOST_WIDTH, _MOST_DEPTH = 1000, 65_536, 100


@dataclass(frozen=True)
class EmbedderConfig:
    """How a representation becomes the vector that the flow is given.

    Args:
        kind: "published" learns with the flow; "regression" is taught first, to guess the latent, and then stays as it
            is: it finds what a layer shows faintly, and in fewer steps.
        depth: Widths, ends included, of a vector's published embedder (the published flow on the average-pooled
            AnimalFaces ResNet has 6). Maps need no number.
        width: Of a regression embedder: channels of its first halving block, or a 16th of its hidden units.
    """

    kind: EmbedderKind = "published"
    depth: int = 4
    width: int = 64

    def __post_init__(self) -> None:
        choice("flow.embedder.kind", self.kind, EmbedderKind)
        number("flow.embedder.depth", self.depth, 2, _MOST_DEPTH + 1, whole=True)
        number("flow.embedder.width", self.width, 1, _MOST_WIDTH + 1, whole=True)


@dataclass(frozen=True)
class FlowConfig:
    """The architecture of a flow.

    Args:
        transform: "couplings" as published, or "continuous", a differential equation learned by flow matching: given
            100,000 pictures or more and long runs it draws what a layer shows faintly; it samples more slowly. "maps"
            is the same over latents that are maps (C, H, W), with a transformer and an embedder of its own, whatever
            `embedder` and `depth` say.
        blocks: Of the chain of couplings, or blocks of a continuous transform's velocity.
        width: Of their hidden layers.
        depth: Hidden layers of each after its first.
        embedder: What reads the representation.
    """

    transform: TransformKind = "couplings"
    blocks: int = 20
    width: int = 1024
    depth: int = 2
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)

    def __post_init__(self) -> None:
        choice("flow.transform", self.transform, TransformKind)
        number("flow.blocks", self.blocks, 1, _MOST_BLOCKS + 1, whole=True)
        number("flow.width", self.width, 1, _MOST_WIDTH + 1, whole=True)
        if self.transform == "maps" and self.width % HEADS:
            raise UserError(f"flow.width is {self.width}; over maps it must be a multiple of {HEADS}")
        number("flow.depth", self.depth, 0, _MOST_DEPTH + 1, whole=True)
        if not isinstance(self.embedder, EmbedderConfig):
            raise UserError(
                f"flow.embedder is {self.embedder!r}; give an EmbedderConfig (kind, depth, width)"
            )

    @classmethod
    def published(cls) -> FlowConfig:
        """The paper's: 20 couplings of width 1024, the published embedder."""
        return cls()

    @classmethod
    def minutes(cls) -> FlowConfig:
        """For some thousand pictures and some minutes of two cores: 6 couplings of width 128, a regression embedder."""
        return cls("couplings", 6, 128, 1, EmbedderConfig("regression", width=32))

    @classmethod
    def hours(cls) -> FlowConfig:
        """For 100,000 pictures or more and an hour of two cores: a continuous flow, 4 blocks of width 384."""
        return cls("continuous", 4, 384, 1, EmbedderConfig("regression", width=32))

    @classmethod
    def maps(cls) -> FlowConfig:
        """For latents that are maps, 50,000 pictures or more and many hours of a core: 6 blocks of width 192."""
        return cls("maps", 6, 192)
