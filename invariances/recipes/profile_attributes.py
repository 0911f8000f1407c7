"""What a profile says of attributes: a reader of the autoencoder's code, and a probe of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from invariances.data.attributes import Attribute, attributes_of
from invariances.evaluation.attributes import AttributeReader, probed
from invariances.evaluation.profiling import LayerProfile
from invariances.evaluation.tables import Table
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation
from invariances.training.attributes import fit_attribute_reader
from invariances.training.data import FeatureData

LEAST = 0.05
"""A reader that surely reads more than this of an attribute can tell what samples keep of it."""


Known = tuple[Mapping[str, Attribute], Mapping[str, Attribute]]
"""Attributes by name: of the training pictures, and of those kept out."""


@dataclass(frozen=True, eq=False)
class Readers:
    """What can be read of pictures whose attributes are known.

    Args:
        data: Prepared, with the training pictures.
        training: Attributes of those.
        kept_out: Of the pictures kept out.
        code: Reader of the autoencoder's code; None where there is one of pictures.
        readable: How well it reads the pictures kept out, by attribute.
        seed: Of weights and batches.
    """

    data: FeatureData
    training: Mapping[str, Attribute]
    kept_out: Mapping[str, Attribute]
    code: AttributeReader | None
    readable: Mapping[str, Table]
    seed: int

    def added(self, found: LayerProfile, layer: Representation) -> LayerProfile:
        """What was found of a layer, with what a probe reads, and without what cannot be read of samples."""
        features, others = self.data.features(layer.layer), self.data.held_out_features(layer.layer)
        probe = fit_attribute_reader(
            lambda places: features.batch(places)[2],
            layer.shape,
            self.training,
            self.seed,
            probabilities=layer.probabilities,
            device=layer.device,
            description=f"probe of {layer.layer}",
            progress=self.data.progress,
        )
        batches = ((indices, z) for indices, _, _, z in others.chunks())
        told = {f"probe {name}": each for name, each in probed(probe, batches, self.kept_out).items()}
        told |= {f"readable {name}": each for name, each in self.readable.items()}
        unread = {f"factor {name}" for name in self.training if self.code and not self._reads(name)}
        kept = {name: each for name, each in found.tables.items() if name not in unread}
        return replace(found, tables={**kept, **told})

    def _reads(self, name: str) -> bool:
        return name in self.readable and can_be_read(self.readable[name], self.seed)


def can_be_read(table: Table, seed: int) -> bool:
    """Whether a reader surely reads more than `LEAST` of what it was taught."""
    low, _ = table.told("share", seed).get("share_interval", (0.0, 0.0))
    return bool(low > LEAST)


def known_of(data: FeatureData) -> Known:
    """What is known of the training pictures, and of those kept out."""
    training, kept_out = attributes_of([ConcatDataset(data.train_sets), data.held_out_set])
    return training, kept_out


def readers_of(
    interpreters: Mapping[str, Interpreter],
    data: FeatureData,
    known: Known,
    seed: int,
    of_code: bool = True,
) -> Readers | None:
    """Readers of what is known of the pictures; None where nothing is.

    Args:
        interpreters: By layer.
        data: With training pictures and others kept out.
        known: As of `known_of`.
        seed: Of weights and batches.
        of_code: Whether a reader of the code is wanted.
    """
    training, kept_out = known
    if not training:
        return None
    first, own = next(iter(interpreters.values())), copy(data)
    own.prepare([each.representation for each in interpreters.values()], first.autoencoder)
    if not of_code:
        return Readers(own, training, kept_out, None, {}, seed)
    layer = first.representation.layer
    features, others = own.features(layer), own.held_out_features(layer)
    code = fit_attribute_reader(
        lambda places: features.moments(places)[0],
        features.latent_shape,
        training,
        seed,
        device=first.device,
        description="reader of the code",
        progress=data.progress,
    )
    places: list[Tensor] = list(torch.split(torch.arange(others.n), 256))
    readable = probed(code, ((part, others.moments(part)[0]) for part in places), kept_out)
    return Readers(own, training, kept_out, code, readable, seed)
