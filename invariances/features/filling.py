"""The one pass of a data set through the frozen networks that fills a cache's arrays.

Items are loaded in batches, the next one while the networks work on this one. Each batch is claimed, so that all
processes that fill the same arrays do each its part, and which does which makes no difference to the bytes. Every few
seconds the rows so far are brought to the disk for certain, so that an interrupted pass goes on from there.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from invariances.data.datasets import Batch, Images, batches, collate, in_order, items, tell
from invariances.features.claims import Claims, claiming
from invariances.features.networks import LABELS, MOMENTS, FrozenParts
from invariances.features.shards import Shards
from invariances.features.stale import differs, rows_to_try
from invariances.representation.representation import Representation
from invariances.system.errors import UserError

COMMIT_SECONDS = 5.0
"""At most this much work of each process is lost to a kill."""
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
            with claiming([array.folder]) as claims, claims.alone(array.folder):
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
        try:
            common = np.flatnonzero(np.logical_and.reduce([arrays[name].there() for name in tried])).tolist()
            if not common:
                return [name for each in tried for name in self._stale({each: arrays[each]})]
            rows = rows_to_try(common)
            kept = {name: torch.from_numpy(arrays[name].read(np.array(rows))) for name in tried}
        except FileNotFoundError:  # another process began one anew meanwhile: to be looked at again
            return tried
        batch = collate(items(self.dataset, rows))
        self._check_size(batch)
        now = self._parts.features(batch, tried)
        return [name for name in tried if differs(kept[name], now[name])]

    def fill(self, arrays: dict[str, Shards]) -> None:
        """Brings the arrays, each by its name, on: by all rows that no other process is at, then waits for these.

        Entries of `arrays` are replaced. A float16 array that meets a larger value is begun anew as float32, since it
        takes twice the room; then, and where another process began one anew, they are left incomplete.

        Raises:
            UserError: see `build_cache`.
        """
        with claiming(array.folder for array in arrays.values()) as claims:
            for name, array in arrays.items():
                with claims.alone(array.folder):
                    found = Shards.load(array.folder)
                    if found and found.rows == array.rows and found.shape == array.shape:
                        arrays[name] = found
                    else:
                        array.start()
            open_arrays = {name: array for name, array in arrays.items() if not array.complete}
            try:
                if open_arrays:
                    self._run(open_arrays, claims)
            except _Overflow as overflow:
                name, peak = overflow.args
                with claims.alone(arrays[name].folder):
                    _widen(arrays[name], name, peak)
            else:
                for rows in in_order(next(iter(arrays.values())).rows, self.batch_size):
                    if any(array.lacks(rows) for array in open_arrays.values()):
                        claims.wait(rows)
            for name, array in arrays.items():
                arrays[name] = Shards.load(array.folder) or array

    def _run(self, arrays: Mapping[str, Shards], claims: Claims) -> None:
        count = max(array.rows for array in arrays.values())
        bar = tqdm(
            total=count,
            initial=_done(arrays),
            desc="caching",
            unit="img",
            delay=1,
            disable=not self.progress,
            file=sys.stderr,
        )
        held: list[range] = []
        saved = time.monotonic()
        try:
            with closing(batches(self.dataset, self._claimed(arrays, claims, count), self.workers)) as stream:
                for rows, batch in stream:
                    self._pass(rows, batch, arrays)
                    held.append(rows)
                    bar.update(len(rows))
                    if time.monotonic() - saved > COMMIT_SECONDS:
                        if not _commit(arrays, held, claims):
                            return
                        bar.n = _done(arrays)  # with what other processes did
                        saved = time.monotonic()
            _commit(arrays, held, claims)
        except (KeyboardInterrupt, _Overflow) as stop:
            _commit(arrays, held, claims)
            if isinstance(stop, KeyboardInterrupt):
                tell(f"{_done(arrays)} of {count} images are cached; the same command goes on from there")
            raise
        finally:
            bar.close()
            for array in arrays.values():
                array.close()

    def _claimed(self, arrays: Mapping[str, Shards], claims: Claims, count: int) -> Iterator[range]:
        """Rows that are not there yet, a batch at a time, claimed by this process."""
        for rows in in_order(count, self.batch_size):
            if claims.claim(rows):
                if any(array.lacks(rows) for array in arrays.values()):
                    yield rows
                else:
                    claims.free(rows)

    def _pass(self, rows: range, batch: Batch, arrays: Mapping[str, Shards]) -> None:
        self._check_size(batch)
        wanted = {name: array for name, array in arrays.items() if array.lacks(rows)}
        for name, values in self._parts.features(batch, list(wanted)).items():
            wanted[name].write(rows.start, _checked(values, name, wanted[name], batch).numpy())

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


def _widen(array: Shards, name: str, peak: float) -> None:
    """Begins a float16 array anew as float32, unless another process did."""
    found = Shards.load(array.folder)
    if found is None or found.dtype.name == "float16":
        tell(f"layer {name!r} reaches {peak:.4g}, beyond float16's {HALF_MAX:g}: it is stored as float32")
        Shards(array.folder, array.rows, array.shape, "float32", about=array.about).start()


def _commit(arrays: Mapping[str, Shards], held: list[range], claims: Claims) -> bool:
    """Marks the rows that are held as done, and frees them; False where another process began an array anew."""
    counts = [array.commit() for array in arrays.values()]
    for rows in held:
        claims.free(rows)
    held.clear()
    return all(counts)


def _done(arrays: Mapping[str, Shards]) -> int:
    """How many rows are done in all arrays, whoever did them."""
    try:
        return int(np.logical_and.reduce([array.there() for array in arrays.values()]).sum())
    except FileNotFoundError:  # begun anew
        return 0
