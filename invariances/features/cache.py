"""Moments and representations of every image, once: what a flow trains on.

`build_cache` passes each item of a data set once through the frozen networks and keeps the results as arrays on disk
(`Shards`), one folder each under `$XDG_CACHE_HOME/invariances/features/`:

- moments: mean and logvar side by side, (N, 2D) float32, or (N, 2, C, H, W) where latents are maps; labels: (N,)
  int64, -1 where items have none.
- one array per layer: z, (N, C) or (N, C, H, W), float16 unless asked otherwise; float32 where a value is beyond
  float16's 65504, which is said on stderr.

A folder's name is a hash of what its array depends on: the data set (files with sizes and times, crops), and the
autoencoder's weights, or the network's weights and code, layer, preprocessing and the dtype. A changed input is another
folder; another layer or a second run share what is there. No hash sees all of the code that a network runs, so a few
rows of what is there are computed again and compared. All processes that want an array fill it, each its part: a batch
at a time, claimed by locks that the system frees when a process ends however it ends. The bytes are the same for any
number of them, and interrupted builds go on with the rows that are not done. Arrays that do not fit into `max_gb` are
not kept: their representations are computed whenever they are asked for.

A data set is any torch Dataset of dict items with `image` (3, H, W) in [-1, 1] and perhaps `label`; what it depends
on is its `fingerprint()`, or without one a hash of all its images. Reading takes memory for a batch, not for the set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from invariances.data.datasets import Images, collate, fingerprint, hash_of, items, tell
from invariances.features.config import CacheConfig, Precision, StoredType
from invariances.features.filling import FeaturePass
from invariances.features.networks import LABELS, MOMENTS
from invariances.features.shards import Array, Shards, writing
from invariances.representation.representation import Representation
from invariances.system.checks import choice
from invariances.system.errors import UserError, nearest
from invariances.system.files import cache_home

Indices = Sequence[int] | Array | Tensor


class FeatureCache(Dataset[dict[str, Any]]):
    """The features of a data set, read from disk, or computed where they are not kept.

    Items are dicts: mean and logvar (*latent_shape), z (a dict: layer -> representation), label (-1: none), index.

    Attributes:
        n: number of items.
        layers: names of the layers.
    """

    def __init__(
        self,
        dataset: Images,
        moments: Shards,
        labels: Shards,
        stored: Mapping[str, Shards],
        representations: Mapping[str, Representation],
    ) -> None:
        self.n, self.layers = moments.rows, list(representations)
        self._dataset, self._moments, self._labels = dataset, moments, labels
        self._stored, self._representations = dict(stored), dict(representations)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._checked([index])
        mean, logvar = self.moments(row)
        z = {layer: self._z(row, layer)[0] for layer in self.layers}
        label = int(self._labels.read(row)[0])
        return {"mean": mean[0], "logvar": logvar[0], "z": z, "label": label, "index": index}

    def shape(self, layer: str) -> tuple[int, ...]:
        """(C,) or (C, H, W): the shape of a layer's representation."""
        return tuple(self._known(layer).shape)

    def on_the_fly(self, layer: str) -> bool:
        """Whether a layer is computed at every read, for want of room on the disk."""
        self._known(layer)
        return layer not in self._stored

    def dtype(self, layer: str) -> str:
        """How a layer is stored: "float16" or "float32"; computed ones are "float32"."""
        return "float32" if self.on_the_fly(layer) else self._stored[layer].dtype.name

    @property
    def labels(self) -> Tensor:
        """All labels, (N,) int64; -1 where items have none."""
        return torch.from_numpy(self._labels.read(np.arange(self.n)))

    def moments(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Mean and logvar of some items, each (B, *latent_shape) float32."""
        rows = torch.from_numpy(self._moments.read(self._checked(indices)))
        mean, logvar = rows.chunk(2, dim=1) if rows.dim() == 2 else rows.unbind(1)
        return mean, logvar

    def batch(self, indices: Indices, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and logvar (B, *latent_shape) and representation (B, C) or (B, C, H, W) of some items, float32, CPU.

        Raises:
            UserError: the cache has no such layer.
        """
        self._known(layer)
        rows = self._checked(indices)
        return (*self.moments(rows), self._z(rows, layer))

    def layer(self, name: str) -> LayerFeatures:
        """The data set of one layer's (mean, logvar, z), for a torch DataLoader."""
        self._known(name)
        return LayerFeatures(self, name)

    def _known(self, layer: str) -> Shards | Representation:
        if layer not in self._representations:
            raise UserError(f"layer {layer!r} is not in this cache; it has {nearest(layer, self.layers)}")
        return self._stored.get(layer, self._representations[layer])

    def _checked(self, indices: Indices) -> Array:
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n):
            raise IndexError(f"indices {rows.min()} to {rows.max()} are outside of a cache of {self.n}")
        return rows

    def _z(self, rows: Array, layer: str) -> Tensor:
        if layer in self._stored:
            return torch.from_numpy(self._stored[layer].read(rows)).float()
        with torch.no_grad():
            images = collate(items(self._dataset, rows.tolist()))["image"]
            z: Tensor = self._representations[layer](images.contiguous(memory_format=torch.channels_last))
        return z.float().cpu()


class LayerFeatures(Dataset[tuple[Tensor, ...]]):
    """(mean, logvar, z) of one layer, of one item each; whole batches at once in a loader with `collate_fn=tuple`."""

    def __init__(self, cache: FeatureCache, name: str) -> None:
        self.cache, self.name, self.shape = cache, name, cache.shape(name)

    def __len__(self) -> int:
        return self.cache.n

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(each[0] for each in self.cache.batch([index], self.name))

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        """The batch at `indices`, already collated."""
        return self.cache.batch(indices, self.name)


def build_cache(
    dataset: Images,
    autoencoder: nn.Module,
    representations: Representation | Sequence[Representation],
    config: CacheConfig = CacheConfig(),
    *,
    precision: Precision = "32-true",
    workers: int = 0,
    progress: bool = True,
) -> FeatureCache:
    """The cached features of a data set, computed where they are not on the disk yet.

    Args:
        dataset: of dict items with an `image`; see the top of this file.
        autoencoder: with `encode(images) -> posterior`, `latent_shape` or `latent_dim`, and `fingerprint()`.
        representations: the layers; those of one network are computed in one pass, on the device where it is, which
            must be the autoencoder's too.
        config: where arrays are kept, how representations are stored (probabilities always as float32, since float16
            has none below 6e-8), and the room for all arrays of this cache: layers that do not fit, the largest first,
            are computed at every read.
        precision: "32-true", or "bf16-mixed": the autoencoder (not the network) in bfloat16.
        workers: processes that load items; 0 loads the next batch in a thread meanwhile.
        progress: a bar with images/s and time left.

    Raises:
        UserError: an empty data set, items that are no images, images that are not the autoencoder's size, parts on
            different devices, a network that gives NaN or infinity, a folder that cannot be written, or a full disk.
    """
    choice("precision", precision, Precision)
    layers = _by_layer(representations)
    if not len(cast(Sized, dataset)):
        raise UserError("the data set is empty; give at least one picture")
    root = cache_root(config)
    data = fingerprint(dataset, config.batch_size, workers, progress)
    work = FeaturePass(dataset, autoencoder, layers, config.batch_size, workers, progress, precision)
    arrays = _arrays(root, data, work, config.dtype)
    work.renew(arrays)
    left_out: set[str] = set()
    while missing := _missing(arrays, config.max_gb, left_out):
        _check_room(root, missing)
        work.fill(missing)
        arrays |= missing
    stored = {layer: arrays[layer] for layer in layers if layer not in left_out}
    return FeatureCache(dataset, arrays[MOMENTS], arrays[LABELS], stored, layers)


def cache_root(config: CacheConfig) -> Path:
    """The folder of all caches."""
    return Path(config.folder).expanduser() if config.folder else cache_home() / "features"


def _by_layer(representations: Representation | Sequence[Representation]) -> dict[str, Representation]:
    given = [representations] if isinstance(representations, Representation) else list(representations)
    layers = {each.layer: each for each in given}
    if len(layers) < len(given):
        raise UserError(
            f"layers {[each.layer for each in given]} are not all different; build one cache for each network"
        )
    return layers


def _arrays(root: Path, data: str, work: FeaturePass, dtype: StoredType) -> dict[str, Shards]:
    """All arrays of a cache, each as it is on the disk, or else still to be built."""
    code = cast(Any, work.autoencoder)
    half = [] if work.precision == "32-true" else ["bfloat16"]
    about = {"kind": "moments", "autoencoder": type(code).__name__}
    arrays = {
        LABELS: _array(root, [data], work, LABELS, "int64", {"kind": "labels"}),
        MOMENTS: _array(root, [data, code.fingerprint(), *half], work, MOMENTS, "float32", about),
    }
    for layer, each in work.layers.items():
        about = {"kind": "representation", "network": each.network_name, "layer": layer}
        number = "float32" if each.probabilities else dtype
        arrays[layer] = _array(root, [data, each.fingerprint(), number], work, layer, number, about)
    return arrays


def _array(
    root: Path, key: list[str], work: FeaturePass, name: str, dtype: str, about: dict[str, Any]
) -> Shards:
    """The array of this key: as it is on the disk, or else still to be built."""
    rows = len(cast(Sized, work.dataset))
    folder = root / hash_of([about["kind"], rows, *key])[:32]
    found = Shards.load(folder)
    if found is None:  # measured only now that it is not known
        found = Shards(folder, rows, work.row(name), dtype, about={**about, "key": key})
    return found


def _missing(arrays: Mapping[str, Shards], max_gb: float, left_out: set[str]) -> dict[str, Shards]:
    """Arrays still to be built. Layers that do not fit go to `left_out`, the largest first, with a line each."""
    room = max_gb * 1e9 - sum(array.bytes for array in arrays.values() if array.complete)
    missing = {}
    for name in sorted(arrays, key=lambda name: (name not in (LABELS, MOMENTS), arrays[name].bytes)):
        array = arrays[name]
        if array.complete or name in left_out:
            continue
        room -= array.bytes
        if room >= 0 or name in (LABELS, MOMENTS):
            missing[name] = array
            continue
        room += array.bytes
        left_out.add(name)
        tell(
            f"layer {name!r} would take {array.bytes / 1e9:.3g} GB for {array.rows} images, more than is left of "
            f"cache.max_gb = {max_gb:g}: its representations are computed at every step"
        )
    return missing


def _check_room(root: Path, missing: Mapping[str, Shards]) -> None:
    """Stops before a pass that the disk cannot hold."""
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    needed = sum(max(0, array.bytes - array.occupied) for array in missing.values())
    if needed > free:
        raise UserError(
            f"the cache needs {needed / 1e9:.3g} GB and the disk of {str(root)!r} has {free / 1e9:.3g} GB free; "
            "free some space, or choose another cache.folder or a smaller cache.max_gb"
        )
