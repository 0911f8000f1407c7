"""What training reads: pictures, split, passed once through the frozen networks, and cached."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from invariances.data.datasets import images_at
from invariances.data.given import as_dataset
from invariances.data.images import ImageFolder
from invariances.data.published.catalogue import by_name, is_name, meant
from invariances.data.published.pictures import PublishedSet
from invariances.data.published.samples import TestSamples, TrainSamples
from invariances.data.splitting import limited, split, spread
from invariances.features.cache import build_cache
from invariances.features.stream import Features
from invariances.flow.flow import ConditionalFlow
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.training.config import (
    DEBUG_BATCHES_HELD_OUT,
    DEBUG_STEPS,
    CacheConfig,
    DataConfig,
    Precision,
)
from invariances.zoo.loading import load

Pictures = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Images = Pictures | Dataset[dict[str, Any]]
MOST_REMEMBERED = 250_000_000
"""Pictures times numbers of an embedding that are kept in memory; 1 GB."""


_DRAWN: dict[Any, Any] = {each.name: each for each in (TrainSamples, TestSamples)}


class FeatureData:
    """Pictures as cached features, one part to train on and one held out.

    Args:
        images: Folder of pictures, or several, or a data set.
        held_out: Pictures of their own to keep out; None for those that `config` says.
        config: Which pictures, and how they are cut.
        cache: Where features are kept.
        precision: Of the autoencoder while caching.
        progress: Bars on stderr.

    Attributes:
        most: Pictures of a debug run's step; None for all pictures.
        generator: What draws `TrainSamples`, where the run's autoencoder is one without encoder.
    """

    def __init__(
        self,
        images: Images,
        held_out: Images | None = None,
        config: DataConfig = DataConfig(),
        cache: CacheConfig = CacheConfig(),
        precision: Precision = "32-true",
        progress: bool = True,
    ) -> None:
        self.images, self.held_out = images, held_out
        self.config, self.cache, self.precision, self.progress = config, cache, precision, progress
        self.most: int | None = None
        self.generator: Any = None
        self.train_sets: list[Dataset[dict[str, Any]]] = []
        self.held_out_set: Any = None
        self.caches: list[Any] = []
        self.held_out_cache: Any = None

    def read(self, size: int) -> None:
        """Lists and splits the pictures, squares of `size` pixels.

        Raises:
            UserError: A folder is missing or empty, pictures are broken, or there is one picture only.
        """
        config = self.config
        training = self._pictures(self.images, size)
        apart = self.held_out
        if apart is None and isinstance(config.held_out, (str, list)):
            apart = config.held_out
        if apart is not None:
            held_out = self._pictures(apart, size)
        elif config.held_out is None:
            raise UserError(
                "data.held_out is null: its pictures were given in Python; name a folder of pictures"
            )
        else:
            assert isinstance(config.held_out, (int, float))
            training, held_out = split(training, config.held_out, config.split_seed)
        if self.most is not None:
            training = limited(training, self.most * DEBUG_STEPS)
            held_out = limited(held_out, self.most * DEBUG_BATCHES_HELD_OUT)
        self.train_sets = [training, *([self._pictures(config.also, size)] if config.also else [])]
        self.held_out_set = _centred(held_out)

    def _pictures(self, images: Images, size: int) -> Dataset[dict[str, Any]]:
        config = self.config
        if not _named(images):
            return as_dataset(images, size)
        folders: Any = images
        name = folders[0] if isinstance(folders, (list, tuple)) and len(folders) == 1 else folders
        if isinstance(name, str) and name in _DRAWN and self.generator is not None:
            made: Dataset[dict[str, Any]] = _DRAWN[name](
                self.generator, dequantiser=_dequantiser_of(self.generator)
            )
            return made
        if is_name(name):
            crop = config.crop if config.crop == "random" else None  # as published, unless told
            return by_name(name, size, crop, config.views, progress=self.progress)
        if (near := meant(name)) is not None:
            raise UserError(f"folder {name!r} does not exist; the data set's name is {near!r}")
        return ImageFolder(
            folders, size, config.crop, config.views, config.skip_broken, progress=self.progress
        )

    def prepare(
        self, representations: Sequence[Representation], autoencoder: nn.Module, training: bool = True
    ) -> None:
        """Passes every picture through the frozen networks, or finds the cache where that was done before.

        Args:
            representations: Layers of one network.
            autoencoder: For the latents.
            training: False for the held-out pictures alone.

        Raises:
            UserError: The pictures, or the cache's folder, cannot be used.
        """
        if not hasattr(autoencoder, "encode"):
            self.generator = autoencoder
        if self.held_out_set is None:
            self.read(int(autoencoder.image_size))  # type: ignore[arg-type]

        def cached(dataset: Dataset[dict[str, Any]]) -> Any:
            return build_cache(
                dataset,
                autoencoder,
                list(representations),
                self.cache,
                precision=self.precision,
                progress=self.progress,
            )

        if training:
            self.caches = [cached(each) for each in self.train_sets]
        self.held_out_cache = cached(self.held_out_set)

    def features(self, layer: str) -> Features:
        """The features to train on."""
        return Features(self.caches, layer)

    def held_out_features(self, layer: str) -> Features:
        """The features held out."""
        return Features(self.held_out_cache, layer)

    def held_out_images(self, count: int) -> Tensor:
        """Up to `count` held-out pictures, (N, 3, S, S) in [-1, 1], from evenly spaced places of the set."""
        return images_at(self.held_out_set, spread(count, len(self.held_out_set)))

    def shown(self, count: int, layer: str, training: bool) -> tuple[Tensor, Tensor]:
        """Up to `count` pictures to train on or kept out, from evenly spaced places, and their latents' means."""
        pictures: Any = self.train_sets[0] if training else self.held_out_set
        features = self.features(layer) if training else self.held_out_features(layer)
        places = spread(count, len(pictures))
        return images_at(pictures, places), features.moments(torch.tensor(places))[0]


class Embedded:
    """Features with a frozen embedder's outputs, computed once, in place of representations.

    Args:
        features: Of representations.
        flow: Whose embedder is frozen.
        progress: A bar where it takes over two seconds.
    """

    def __init__(self, features: Features, flow: ConditionalFlow, progress: bool) -> None:
        self.features, self.n, self.latent_shape = features, features.n, features.latent_shape
        device = next(flow.parameters()).device
        flow.eval()
        parts = []
        with (
            torch.inference_mode(),
            tqdm(total=self.n, desc="embeddings", unit="img", delay=2, disable=not progress) as bar,
        ):
            for _, _, _, z in features.chunks():
                parts.append(flow.embed(z.to(device)).cpu())
                bar.update(len(z))
        self.embeddings = torch.cat(parts).clone()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape), and embeddings (B, E)."""
        mean, logvar = self.features.moments(indices)
        return mean, logvar, self.embeddings[indices]

    def chunks(self, size: int = 256, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, ...]]:
        """All items in order as (indices, mean, logvar, embedding); every `world`-th chunk only."""
        for start in range(rank * size, self.n, world * size):
            indices = torch.arange(start, min(start + size, self.n))
            yield (indices, *self.batch(indices))


def worth_remembering(features: Features, flow: ConditionalFlow, seen: int) -> bool:
    """Whether a frozen embedder's outputs are computed once: each is used more than once, and they fit into memory.

    Args:
        features: Of representations.
        flow: With the embedder.
        seen: Pictures that training will look at.
    """
    size = features.n * flow.embedder.outputs
    return flow.embedder.taught_first and features.n <= seen and size <= MOST_REMEMBERED


def _dequantiser_of(generator: Any) -> Any:
    """The published one for a published generator, else none."""
    if getattr(generator, "published_name", None) is None:
        return None
    return load("dequant_vae")


def _centred(pictures: Dataset[dict[str, Any]]) -> Dataset[dict[str, Any]]:
    """Held-out pictures are looked at once, in the middle, whatever crops training sees."""
    if not isinstance(pictures, (ImageFolder, PublishedSet)) or pictures.crop == "center":
        return pictures
    return pictures.centred()


def _named(images: Any) -> bool:
    """Whether these are folders."""
    if isinstance(images, (str, os.PathLike)):
        return True
    return isinstance(images, (list, tuple)) and all(isinstance(each, (str, os.PathLike)) for each in images)


def paths_of(images: Any) -> str | list[str] | None:
    """What a config can say of pictures; data sets of Python's have no name."""
    if not _named(images):
        return None
    return (
        os.fspath(images) if isinstance(images, (str, os.PathLike)) else [os.fspath(each) for each in images]
    )
