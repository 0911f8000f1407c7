"""All that is said of one layer in a profile, from one pass of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from invariances.data.images import to_uint8
from invariances.evaluation.attributes import AttributeReader, KeptAttributes
from invariances.evaluation.classes import classes_of
from invariances.evaluation.factors import KeptFactors
from invariances.evaluation.faithfulness import Faithfulness
from invariances.evaluation.information import information
from invariances.evaluation.invariance import variances
from invariances.evaluation.likelihood import log_probs
from invariances.evaluation.looking import Accumulator, Batch, Drawn, Sampling, look
from invariances.evaluation.predictions import PredictionKL
from invariances.evaluation.ranking import Ranking
from invariances.evaluation.spread import Distance, Map, Spread, in_pixels
from invariances.evaluation.tables import Table
from invariances.features.stream import Features
from invariances.interpreter import Interpreter
from invariances.zoo.factor_reader import FactorReader, Factors


@dataclass(frozen=True)
class Beside:
    """What a profile may measure besides.

    Args:
        distances: Between pictures, by name: LPIPS, or the features of a second network.
        reader: Reads factors off decoded pictures.
        truth: The pictures' own factors, (N,) each.
        code_reader: Reads attributes off the autoencoder's code, where no reader of pictures is given.
    """

    distances: Mapping[str, Distance] = field(default_factory=dict)
    reader: FactorReader | None = None
    truth: Factors | None = None
    code_reader: AttributeReader | None = None

    def factors(self, count: int, n: int, seed: int) -> KeptFactors | KeptAttributes | None:
        """What measures the factors that samples keep."""
        if self.reader is not None and self.truth is not None:
            return KeptFactors(self.reader, self.truth, n, seed)
        return None if self.code_reader is None else KeptAttributes(self.code_reader, count, n)


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """What was found.

    Attributes:
        tables: numbers by name; `at JAY faithfulness_cosine` is measured at layer JAY on samples of this one, and
            `factor F` the share of F that samples keep.
        pictures: 8-bit (K, 2 + n, S, S, 3): some pictures, their reconstructions, samples.
        maps: where samples vary, (K, S, S) of these pictures, and (S, S) of all.
    """

    tables: dict[str, Table]
    pictures: Tensor
    maps: tuple[Tensor, Tensor]


class Kept(Accumulator):
    """Some pictures as they were seen, 8-bit, (K, 2 + n, S, S, 3)."""

    def __init__(self, shown: Sequence[int], n: int) -> None:
        self.place = {index: k for k, index in enumerate(shown)}
        self.n = n
        self.images: Tensor | None = None

    def pictures(self, batch: Batch) -> None:
        """Keeps pictures and reconstructions."""
        for column, seen in enumerate((batch.pictures, batch.reconstructions)):
            self._keep(batch.indices, column, seen.images)

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """Keeps samples."""
        if drawn.column < self.n:
            self._keep(batch.indices, 2 + drawn.column, drawn.seen.images)

    def _keep(self, indices: Tensor, column: int, images: Tensor) -> None:
        wanted = [k for k, index in enumerate(indices.tolist()) if index in self.place]
        if not wanted:
            return
        made = to_uint8(images[wanted])
        if self.images is None:
            self.images = torch.zeros(len(self.place), 2 + self.n, *made.shape[1:], dtype=torch.uint8)
        for k, each in zip(wanted, made):
            self.images[self.place[int(indices[k])], column] = each


def profile_layer(
    interpreter: Interpreter,
    pictures: Any,
    features: Features,
    order: Sequence[str],
    unconditional: Tensor | None = None,
    sampling: Sampling = Sampling(),
    beside: Beside = Beside(),
    shown: Sequence[int] = (),
) -> LayerProfile:
    """Measures one layer; one pass for all that needs samples.

    Args:
        interpreter: Network, autoencoder and flow of the layer.
        pictures: To draw samples of, kept out of training.
        features: Of all pictures kept out, at this layer.
        order: All layers, at which samples are measured.
        unconditional: log p(z̄) of the features' pictures by a flow that is told nothing, (N,); None leaves it out.
        sampling: How samples are drawn; temperature 1 for numbers that mean what they say.
        beside: What to measure besides.
        shown: Pictures to keep.
    """
    count, n, seed = len(pictures), sampling.n, sampling.seed
    flow = interpreter.flow
    tables: dict[str, Table] = {}
    if unconditional is not None:
        tables["information"] = information(log_probs(flow, features, seed), unconditional)
    variance = variances(flow, features, max(n, 2), seed)
    tables["variance_remaining"] = Table(variance[:, [0, 2]], "ratio")
    tables["variance_unpredicted"] = Table(variance[:, [1, 2]], "ratio")
    classes = classes_of(interpreter.representation)
    own = interpreter.representation.layer
    at = {layer: Faithfulness(count, n, classes, layer, seed) for layer in dict.fromkeys([own, *order])}
    ranking, kl = Ranking(count, n, seed), PredictionKL(count, n, classes, seed)
    spreads = {"variance_in_pixels": in_pixels, **beside.distances}
    others = [Spread(name, distance, count, seed) for name, distance in spreads.items()] if n > 1 else []
    factors = beside.factors(count, n, seed)
    where, kept = Map(shown, n), Kept(shown, min(n, 8))
    measures = [*at.values(), ranking, kl, *others, where, kept, *([factors] if factors else [])]
    look(interpreter, pictures, measures, sampling, order)
    for layer, each in at.items():
        found = each.tables()
        if layer == own:
            tables |= found
        tables[f"at {layer} faithfulness_cosine"] = found["faithfulness_cosine"]
    for measure in (ranking, kl, *others):
        tables |= measure.tables()
    if factors is not None:
        tables |= {f"factor {name}": table for name, table in factors.tables().items()}
    maps = [where.own.get(index, torch.zeros_like(where.mean())) for index in shown]
    images = (
        kept.images if kept.images is not None else torch.zeros(0, 2 + kept.n, 1, 1, 3, dtype=torch.uint8)
    )
    return LayerProfile(tables, images, (torch.stack(maps) if maps else where.mean()[None][:0], where.mean()))
