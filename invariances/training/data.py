"""What training reads: folders of pictures, split, passed once through the frozen networks, and cached."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import Dataset, random_split

from invariances.data.datasets import images_at
from invariances.data.images import ImageFolder, spread
from invariances.features.cache import build_cache
from invariances.features.stream import Features, FeatureStream
from invariances.representation.representation import Representation
from invariances.system.errors import UserError

Crop = Literal["center", "random"]


Pictures = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


Images = Pictures | Dataset[dict[str, Any]]


@dataclass
class CacheOptions:
    """Where features are kept between runs, and how much room they may take.

    Args:
        folder: Folder of all caches; by default $XDG_CACHE_HOME/invariances/features.
        max_gb: Disk budget of one cache in GB; representations that need more are computed at every step.
        dtype: How representations are stored.
        batch_size: Pictures per pass while caching.
        half: Run the autoencoder in bfloat16 while caching: up to twice as fast on devices that have it, and its
            latents differ by a few hundredths of a posterior's standard deviation.
    """

    folder: str | None = None
    max_gb: float = 20.0
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = 32
    half: bool = False


class FeatureData(LightningDataModule):
    """Pictures as cached features, one part to train on and one held out.

    Args:
        images: Folder of pictures, or several; split by `held_out`.
        held_out: Share of the pictures that is never trained on.
        also: Further folders to train on, of which nothing is held out.
        batch_size: Pictures per step and process.
        crop: "center", or "random": crops of 0.8 to 1 of the shortest side, mirrored half of the time.
        views: Random crops that are cached per picture.
        skip_broken: Leave broken pictures out instead of stopping.
        split_seed: Of the choice of held-out pictures.
    """

    def __init__(
        self,
        images: str | list[str],
        held_out: float = 0.1,
        also: list[str] | None = None,
        batch_size: int = 16,
        crop: Crop = "center",
        views: int = 1,
        skip_broken: bool = False,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; give at least 1")
        self.images: Images = images
        self.held_out: float | Images = held_out
        self.also = also
        self.batch_size, self.crop, self.views = batch_size, crop, views
        self.skip_broken, self.split_seed = skip_broken, split_seed
        self.cache, self.progress = CacheOptions(), True
        self.train_sets: list[Dataset[dict[str, Any]]] = []
        self.held_out_set: Dataset[dict[str, Any]] | None = None
        self.caches: list[Any] = []
        self.held_out_cache: Any = None

    @classmethod
    def of(cls, images: Images, held_out: float | Images = 0.1, **options: Any) -> FeatureData:
        """The same from Python: data sets are taken for folders, and held-out pictures of their own.

        Args:
            images: Pictures to train on.
            held_out: A share of them, or pictures of their own.
            options: As of the class, and `cache` and `progress`.
        """
        cache, progress = options.pop("cache", None), options.pop("progress", True)
        data = cls("", **options)
        data.images, data.held_out = images, held_out
        data.cache, data.progress = cache or CacheOptions(), progress
        return data

    def settings(self) -> dict[str, Any]:
        """The arguments of the class that make the same data; images is None for a data set."""
        named = not isinstance(self.images, Dataset)
        return {
            "images": _paths(self.images) if named else None,
            "held_out": self.held_out if isinstance(self.held_out, float) else 0.1,
            "also": self.also,
            "batch_size": self.batch_size,
            "crop": self.crop,
            "views": self.views,
            "skip_broken": self.skip_broken,
            "split_seed": self.split_seed,
        }

    def read(self, size: int) -> None:
        """Lists and splits the pictures, squares of `size` pixels.

        Raises:
            UserError: A folder is missing or empty, pictures are broken, or there is one picture only.
        """
        training = self._pictures(self.images, size)
        if isinstance(self.held_out, float):
            training, held_out = _split(training, self.held_out, self.split_seed)
        else:
            held_out = self._pictures(self.held_out, size)
        self.train_sets = [training, *([self._pictures(self.also, size)] if self.also else [])]
        self.held_out_set = _centred(held_out)

    def _pictures(self, images: Images, size: int) -> Dataset[dict[str, Any]]:
        if isinstance(images, Dataset):
            return images
        return ImageFolder(images, size, self.crop, self.views, self.skip_broken, progress=self.progress)

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
        self.read(int(autoencoder.image_size))  # type: ignore[arg-type]
        assert self.held_out_set is not None

        def cached(dataset: Dataset[dict[str, Any]]) -> Any:
            return build_cache(
                dataset,
                autoencoder,
                list(representations),
                folder=Path(self.cache.folder) if self.cache.folder else None,
                dtype=self.cache.dtype,
                max_gb=self.cache.max_gb,
                batch_size=self.cache.batch_size,
                half=self.cache.half,
                progress=self.progress,
            )

        if training:
            self.caches = [cached(each) for each in self.train_sets]
        self.held_out_cache = cached(self.held_out_set)

    def setup(self, stage: str) -> None:
        """Nothing: `prepare` has been called, outside of the trainer, so that errors and Ctrl-C are simple."""
        if not self.caches:
            raise RuntimeError("call prepare(representations, autoencoder) before training")

    def features(self, layer: str) -> Features:
        """The features to train on."""
        return Features(self.caches, layer)

    def held_out_features(self, layer: str) -> Features:
        """The features held out."""
        return Features(self.held_out_cache, layer)

    def held_out_images(self, count: int) -> Tensor:
        """Up to `count` held-out pictures, (N, 3, S, S) in [-1, 1], from evenly spaced places of the set."""
        assert self.held_out_set is not None
        return images_at(self.held_out_set, spread(count, len(self.held_out_set)))  # type: ignore[arg-type]

    def train_dataloader(self) -> FeatureStream:
        """The stream of batches that the trainer reads."""
        trainer: Any = self.trainer
        training = trainer.lightning_module
        return FeatureStream(
            self.features(training.layer),
            self.batch_size,
            training.seed,
            trainer.global_rank,
            trainer.world_size,
        )


def _paths(images: Any) -> str | list[str]:
    return (
        os.fspath(images) if isinstance(images, (str, os.PathLike)) else [os.fspath(each) for each in images]
    )


def _split(
    pictures: Dataset[dict[str, Any]], held_out: float, seed: int
) -> tuple[Dataset[dict[str, Any]], Dataset[dict[str, Any]]]:
    if isinstance(pictures, ImageFolder):
        return pictures.split(held_out, seed)
    count = len(pictures)  # type: ignore[arg-type]
    if count < 2 or not 0 < held_out < 1:
        raise UserError(f"{count} pictures cannot be split with held_out = {held_out}; give two, and a share")
    generator = torch.Generator().manual_seed(seed)
    held = min(count - 1, max(1, round(count * held_out)))
    training, rest = random_split(pictures, [count - held, held], generator)
    return training, rest


def _centred(pictures: Dataset[dict[str, Any]]) -> Dataset[dict[str, Any]]:
    """Held-out pictures are looked at once, in the middle, whatever crops training sees."""
    if not isinstance(pictures, ImageFolder) or pictures.crop == "center":
        return pictures
    return pictures.centred()
