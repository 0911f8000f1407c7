"""One pass over pictures that feeds all numbers: Φ, E and D run once per picture or sample.

    look(interpreter, pictures, [Faithfulness(…), FID(…)], Sampling(n=8))

For N pictures of n samples each E runs on N, D on N + nN, Φ on N + N + nN pictures. Pictures are visited in a random
order, and the *other* of each is the one visited before it whose content differs: never itself nor a copy. All draws
are functions of seed, picture and sample, so nothing depends on the batch size or on n; memory does not grow with n.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.data.datasets import images_at
from invariances.evaluation.classes import Classes, classes_of
from invariances.evaluation.tables import Table
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation, Representations
from invariances.system.checks import MOST_SAMPLES, number
from invariances.system.errors import UserError
from invariances.system.seeds import seeded

_AT_ONCE = 32
"""Pictures that Φ sees at once."""


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Args:
        n: Samples per picture.
        temperature: Of the samples; 1 is the truth, lower shows less variety.
        seed: Of samples, and of the choice of other pictures.
        batch_size: Pictures at a time; nothing depends on it beyond rounding.
    """

    n: int = 8
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        number("n", self.n, 1, MOST_SAMPLES + 1, whole=True)
        number("temperature", self.temperature, 0)
        number("seed", self.seed, 0, whole=True)
        number("batch_size", self.batch_size, 1, whole=True)


@dataclass(frozen=True)
class Seen:
    """Pictures, and what the network makes of them.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        z: the representation, (B, …).
        logits: (B, C); None of a network without classes.
        layers: representations by layer, the interpreter's own and those that are measured besides.
    """

    images: Tensor
    z: Tensor
    logits: Tensor | None = None
    layers: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, place: slice) -> Seen:
        """Some of them."""
        return self._each(lambda tensor: tensor[place])

    def columns(self, count: int) -> list[Seen]:
        """Of pictures that belong together by `count`, first the first of each."""
        return [self._each(lambda tensor, k=k: tensor[k::count]) for k in range(count)]

    def _each(self, change: Any) -> Seen:
        logits = None if self.logits is None else change(self.logits)
        layers = {name: change(each) for name, each in self.layers.items()}
        return Seen(change(self.images), change(self.z), logits, layers)


def joined(parts: Sequence[Seen]) -> Seen:
    """Several as one."""
    logits = [each.logits for each in parts if each.logits is not None]
    names = parts[0].layers
    return Seen(
        torch.cat([each.images for each in parts]),
        torch.cat([each.z for each in parts]),
        torch.cat(logits) if logits else None,
        {name: torch.cat([each.layers[name] for each in parts]) for name in names},
    )


@dataclass(frozen=True)
class Batch:
    """Some pictures and their reconstructions.

    Attributes:
        indices: which pictures, (B,).
        pictures: as they are.
        reconstructions: as the autoencoder makes them.
        posterior: q(z̄ | x).
    """

    indices: Tensor
    pictures: Seen
    reconstructions: Seen
    posterior: DiagonalGaussian


@dataclass(frozen=True)
class Drawn:
    """One sample of each picture of a batch.

    Attributes:
        column: the sample's number, from 0.
        latents: z̄' (B, *latent_shape).
        seen: the decoded samples.
    """

    column: int
    latents: Tensor
    seen: Seen


@dataclass(frozen=True)
class Pair:
    """Pictures, and other pictures chosen at random.

    Attributes:
        indices: which pictures, (B,).
        one: they, and their reconstructions.
        other: the others, and theirs.
    """

    indices: Tensor
    one: tuple[Seen, Seen]
    other: tuple[Seen, Seen]


class Accumulator:
    """A number that grows with what a pass shows it; each method takes what it needs and ignores the rest."""

    def pictures(self, batch: Batch) -> None:
        """Pictures and their reconstructions; each picture comes once."""

    def samples(self, batch: Batch, drawn: Drawn) -> None:
        """One sample of each picture of the batch that was shown last; n times per batch."""

    def others(self, pair: Pair) -> None:
        """Another picture for each; none come where all pictures are alike."""

    def tables(self) -> dict[str, Table]:
        """What numbers that are means over pictures are made of, by name."""
        return {}

    def result(self) -> dict[str, Any]:
        """What was found, as JSON takes it."""
        return {}


@torch.no_grad()
def look(
    interpreter: Interpreter,
    pictures: Any,
    accumulators: Sequence[Accumulator],
    sampling: Sampling = Sampling(),
    layers: Iterable[str] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """All that the accumulators find, in one dict.

    Args:
        interpreter: Network, autoencoder and flow.
        pictures: A data set of items with an `image` (3, H, W) in [-1, 1], kept out of training.
        accumulators: What to measure.
        sampling: How samples are drawn.
        layers: Further layers of the network to measure all pictures at.
        progress: A bar on stderr.
    """
    eye = Eye(interpreter.representation, layers)
    pairs = _Pairs()
    count = len(pictures)
    order = torch.randperm(count, generator=seeded("order", sampling.seed))
    bar = tqdm(total=count, desc="looking", unit="img", disable=not progress, file=sys.stderr)
    for indices in torch.split(order, sampling.batch_size):
        raw = images_at(pictures, indices.tolist())
        batch = _batch(interpreter, eye, indices, interpreter.resized(raw))
        for each in accumulators:
            each.pictures(batch)
        for pair in pairs.of(batch, raw):
            for each in accumulators:
                each.others(pair)
        for drawn in _drawn(interpreter, eye, batch, sampling):
            for each in accumulators:
                each.samples(batch, drawn)
        bar.update(len(indices))
    for pair in pairs.left():
        for each in accumulators:
            each.others(pair)
    bar.close()
    found: dict[str, Any] = {}
    for each in accumulators:
        found |= each.result()
    return found


class Eye:
    """Φ at one or several layers, and the classes where there are any, in one pass of the network.

    Args:
        representation: The layer under study.
        layers: Further ones.
    """

    def __init__(self, representation: Representation, layers: Iterable[str] = ()) -> None:
        own = representation.layer
        more = [each for each in dict.fromkeys(layers) if each != own]
        self.own, self.network = own, Representations([representation, *map(representation.at, more)])
        self.classes: Classes = classes_of(representation)

    def __call__(self, images: Tensor) -> Seen:
        """What the network makes of images (N, 3, S, S), some at a time."""
        return joined([self._some(part) for part in torch.split(images, _AT_ONCE)])

    def _some(self, images: Tensor) -> Seen:
        if self.classes.kind is None:
            found, logits = self.network(images), None
        else:
            found, logits = self.network.with_logits(images)
        return Seen(images, found[self.own], logits, found)


def _batch(interpreter: Interpreter, eye: Eye, indices: Tensor, images: Tensor) -> Batch:
    if not interpreter.encodes:
        kind = type(interpreter.autoencoder).__name__
        raise UserError(
            f"{kind} has no encoder, so pictures have no latents here and nothing can be measured"
        )
    encode: Any = interpreter.autoencoder.encode
    posterior: DiagonalGaussian = encode(images)
    return Batch(indices, eye(images), eye(interpreter.decode(posterior.mode())), posterior)


def _drawn(interpreter: Interpreter, eye: Eye, batch: Batch, sampling: Sampling) -> Iterable[Drawn]:
    """The samples of a batch, one after the other; several are made at once where the batch is small."""
    count = len(batch.indices)
    together = max(1, _AT_ONCE // count)
    embedding = interpreter.flow.embed(batch.pictures.z)
    for start in range(0, sampling.n, together):
        columns = range(start, min(start + together, sampling.n))
        noise = torch.stack(
            [
                _noise(batch.posterior.mean.shape[1:], sampling, int(index), column)
                for index in batch.indices
                for column in columns
            ]
        ).to(interpreter.device)
        told = embedding.repeat_interleave(len(columns), dim=0)
        latents = interpreter.flow.inverse(noise, embedding=told)
        seen = eye(interpreter.decode(latents)).columns(len(columns))
        for k, column in enumerate(columns):
            yield Drawn(column, latents[k :: len(columns)], seen[k])


def _noise(shape: Sequence[int], sampling: Sampling, index: int, column: int) -> Tensor:
    generator = seeded("samples", sampling.seed, index, column)
    return sampling.temperature * torch.randn(*shape, generator=generator)


class _Visited(NamedTuple):
    """One picture that was looked at, and its content's digest."""

    place: int
    digest: bytes
    picture: Seen
    reconstruction: Seen

    def own(self) -> _Visited:
        """A copy that does not hold the rest of its batch in memory."""
        return self._replace(
            picture=self.picture._each(Tensor.clone), reconstruction=self.reconstruction._each(Tensor.clone)
        )


class _Pairs:
    """For each picture the one visited before it whose content differs; the first ones get the last."""

    def __init__(self) -> None:
        self.recent: list[_Visited] = []
        self.waiting: list[_Visited] = []

    def of(self, batch: Batch, raw: Tensor) -> list[Pair]:
        """The pairs of a batch, which is kept no longer than it is needed."""
        found: list[tuple[_Visited, _Visited]] = []
        for k, index in enumerate(batch.indices.tolist()):
            digest = hashlib.blake2b(raw[k].contiguous().cpu().numpy().tobytes(), digest_size=16).digest()
            one = _Visited(index, digest, batch.pictures[k : k + 1], batch.reconstructions[k : k + 1])
            other = self._other(digest)
            if other is not None:
                found.append((one, other))
            else:  # a copy of all that came before: what the network makes of it need not be kept twice
                first = self.waiting[0] if self.waiting else one.own()
                self.waiting.append(first._replace(place=index))
            if not self.recent or self.recent[-1].digest != digest:
                self.recent = [*self.recent[-1:], one]
        self.recent = [each.own() for each in self.recent]
        return _paired(found)

    def left(self) -> list[Pair]:
        """The pairs of the pictures that came before any other."""
        found = [(one, self._other(one.digest)) for one in self.waiting]
        return _paired([(one, other) for one, other in found if other is not None])

    def _other(self, digest: bytes) -> _Visited | None:
        return next((each for each in reversed(self.recent) if each.digest != digest), None)


def _paired(found: Sequence[tuple[_Visited, _Visited]]) -> list[Pair]:
    pairs = []
    for start in range(0, len(found), _AT_ONCE):
        part = found[start : start + _AT_ONCE]
        one, other = (
            (joined([each[k].picture for each in part]), joined([each[k].reconstruction for each in part]))
            for k in (0, 1)
        )
        pairs.append(Pair(torch.tensor([each.place for each, _ in part]), one, other))
    return pairs
