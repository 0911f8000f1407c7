"""The one pass of a data set through the frozen networks that fills a cache's arrays.

Items are loaded in batches, the next one while the networks work on this one. Every few seconds the rows so far are
brought to the disk for certain, so that an interrupted pass goes on from there.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from invariances.data.datasets import Batch, Images, batches, collate, items, tell
from invariances.features.networks import LABELS, MOMENTS, FrozenParts
from invariances.features.shards import Shards, writing
from invariances.features.stale import differs, rows_to_try
from invariances.representation.representation import Representation
from invariances.system.errors import UserError

COMMIT_SECONDS = 5.0
"""At most this much work is lost to a kill."""
HALF_MAX = 65504.0
"""The largest float16."""


class _Overflow(Exception):
    """A layer has a value beyond float16; `args` are its name and the value."""


class FeaturePass:
    """A data set on its way through the frozen networks.

    Args:
        dataset: of dict items with an `image`.
        autoencoder: as of `build_cache`.
        layers: the representations by layer; those of one network run together.
        batch_size: images at a time.
        workers: of the loader.
        progress: a bar on stderr.
        precision: "32-true", or "bf16-mixed": the autoencoder in bfloat16.

    Raises:
        UserError: the parts are on different devices.
    """

    def __init__(
        self,
        dataset: Images,
        autoencoder: nn.Module,
        layers: Mapping[str, Representation],
        batch_size: int,
        workers: int,
        progress: bool,
        precision: str = "32-true",
    ) -> None:
        self.dataset, self.autoencoder, self.layers = dataset, autoencoder, layers
        self.precision = precision
        self._parts = FrozenParts(autoencoder, layers, precision != "32-true")
        self.batch_size, self.workers, self.progress = batch_size, workers, progress

    def renew(self, arrays: dict[str, Shards]) -> None:
        """Takes rows away that the networks would not give today, with a line: entries are replaced by empty ones.

        Some rows of each array that is there, complete or not, are computed again. Networks that were let through
        although they are no functions of the picture are believed.
        """
        for name in self._stale(arrays):
            array = arrays[name]
            with _locked(array.folder):
                if self._stale({name: Shards.load(array.folder) or array}):  # nobody has mended it meanwhile
                    what = "the autoencoder" if name == MOMENTS else f"layer {name!r}"
                    tell(
                        f"{what} gives other values now than those that were cached: they are computed again"
                    )
                    Shards(
                        array.folder, array.rows, self.row(name), array.dtype.name, about=array.about
                    ).start()
            arrays[name] = Shards.load(array.folder) or array

    def row(self, name: str) -> tuple[int, ...]:
        """The shape of a row of an array, as the networks give it today."""
        if name == LABELS:
            return ()
        if name != MOMENTS:
            return self.layers[name].shape
        latent = self._parts.latent_shape
        return (2 * latent[0],) if len(latent) == 1 else (2, *latent)

    def _stale(self, arrays: Mapping[str, Shards]) -> list[str]:
        """The names of arrays that hold other rows than the networks give today."""
        tried = [
            name
            for name, array in arrays.items()
            if array.done and (name == MOMENTS or (name != LABELS and self.layers[name].check))
        ]
        if not tried:
            return []
        rows = rows_to_try(min(arrays[name].done for name in tried))
        batch = collate(items(self.dataset, rows))
        self._check_size(batch)
        now = self._parts.features(batch, tried)
        kept = {name: torch.from_numpy(arrays[name].read(np.array(rows))) for name in tried}
        return [name for name in tried if differs(kept[name], now[name])]

    def fill(self, arrays: dict[str, Shards]) -> None:
        """Completes the arrays, each by its name, from wherever they stand, after waiting for others who do.

        Entries of `arrays` may be replaced. A float16 array that meets a larger value is begun anew as float32 and
        left incomplete, since it takes twice the room.

        Raises:
            UserError: see `build_cache`.
        """
        with ExitStack() as locks:
            for name in sorted(arrays, key=lambda name: arrays[name].folder):
                locks.enter_context(_locked(arrays[name].folder))
            for name, array in arrays.items():
                found = Shards.load(array.folder)
                if found and found.rows == array.rows and found.shape == array.shape:
                    arrays[name] = found
                else:
                    array.start()
            open_arrays = {name: array for name, array in arrays.items() if not array.complete}
            try:
                if open_arrays:
                    self._run(open_arrays)
            except _Overflow as overflow:
                name, peak = overflow.args
                tell(
                    f"layer {name!r} reaches {peak:.4g}, beyond float16's {HALF_MAX:g}: it is stored as float32"
                )
                narrow = arrays[name]
                arrays[name] = Shards(narrow.folder, narrow.rows, narrow.shape, "float32", about=narrow.about)
                arrays[name].start()

    def _run(self, arrays: Mapping[str, Shards]) -> None:
        count = next(iter(arrays.values())).rows
        first = min(array.done for array in arrays.values())
        saved = time.monotonic()
        bar = tqdm(
            total=count,
            initial=first,
            desc="caching",
            unit="img",
            delay=1,
            disable=not self.progress,
            file=sys.stderr,
        )
        try:
            for start, batch in batches(self.dataset, first, self.batch_size, self.workers):
                self._check_size(batch)
                stop = start + len(batch["label"])
                wanted = {name: array for name, array in arrays.items() if array.written < stop}
                for name, values in self._parts.features(batch, list(wanted)).items():
                    wanted[name].write(start, _checked(values, name, wanted[name], batch).numpy())
                bar.update(stop - start)
                if time.monotonic() - saved > COMMIT_SECONDS:
                    _commit(arrays)
                    saved = time.monotonic()
            _commit(arrays)
        except (KeyboardInterrupt, _Overflow) as stop:
            _commit(arrays)
            if isinstance(stop, KeyboardInterrupt):
                done = min(array.done for array in arrays.values())
                tell(f"{done} of {count} images are cached; the same command goes on from there")
            raise
        finally:
            bar.close()
            for array in arrays.values():
                array.close()

    def _check_size(self, batch: Batch) -> None:
        size, wanted = tuple(batch["image"].shape[2:]), getattr(self.autoencoder, "image_size", None)
        if wanted is not None and size != (wanted, wanted):
            raise UserError(
                f"images have {size[0]} × {size[1]} pixels and the autoencoder takes {wanted} × {wanted}; "
                f"load them with size={wanted}"
            )


def _checked(values: Tensor, name: str, array: Shards, batch: Batch) -> Tensor:
    """The values as the array stores them.

    Raises:
        UserError: NaN or infinity. _Overflow: beyond float16.
    """
    if not values.is_floating_point():
        return values
    values = values.float()
    peak = values.abs().amax().item()
    if not math.isfinite(peak):
        row = int((~torch.isfinite(values.flatten(1))).any(dim=1).nonzero()[0])
        what = "the autoencoder's moments" if name == MOMENTS else f"layer {name!r}"
        where = f" for {batch['path'][row]!r}" if batch["path"][row] else ""
        raise UserError(
            f"{what} came out as NaN or infinity{where}; check that network's weights and preprocessing"
        )
    if array.dtype.name == "float16" and peak > HALF_MAX:
        raise _Overflow(name, peak)
    return values.half() if array.dtype.name == "float16" else values


def _commit(arrays: Mapping[str, Shards]) -> None:
    for array in arrays.values():
        array.commit()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in `folder`, after whoever else writes there; the system frees the lock of a process that dies."""
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell("another process builds this cache; waiting for it")
            lock.acquire()
        except NotImplementedError as error:
            raise UserError(
                f"the file system of {str(folder.parent)!r} has no locks, which the cache needs; "
                "choose another folder as cache.folder"
            ) from error
    try:
        yield
    finally:
        lock.release()
