"""The one pass of a data set through the frozen networks that fills a cache's arrays, and what it reads.

Items are loaded in batches, the next one while the networks work on this one. Every few seconds the rows so far are
brought to the disk for certain, so that an interrupted pass goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset
from tqdm import tqdm

from .errors import UserError
from .representation import Representation, Representations
from .shards import Shards, writing

Images = Dataset[Any]
Batch = dict[str, Any]

MOMENTS, LABELS = "(moments)", "(labels)"
COMMIT_SECONDS = 5.0
"""At most this much work is lost to a kill."""
HALF_MAX = 65504.0
"""The largest float16."""


class _Overflow(Exception):
    """A layer has a value beyond float16; `args` are its name and the value."""


def fingerprint(dataset: Images, batch_size: int = 64, workers: int = 0, progress: bool = True) -> str:
    """A hash of what a data set's images depend on: its `fingerprint()`, or else the images and labels themselves.

    Subsets and concatenations of torch are told by their parts.
    """
    own = getattr(dataset, "fingerprint", None)
    if callable(own):
        return str(own())
    if isinstance(dataset, Subset):
        part = fingerprint(dataset.dataset, batch_size, workers, progress)
        return hash_of([part, [int(index) for index in dataset.indices]])
    if isinstance(dataset, ConcatDataset):
        return hash_of([fingerprint(each, batch_size, workers, progress) for each in dataset.datasets])
    digest = hashlib.sha256()
    count = len(cast(Sized, dataset))
    with tqdm(
        total=count, desc="hashing images", unit="img", delay=2, disable=not progress, file=sys.stderr
    ) as bar:
        for _, batch in batches(dataset, 0, batch_size, workers):
            digest.update(batch["image"].contiguous().numpy().tobytes())
            digest.update(batch["label"].numpy().tobytes())
            bar.update(len(batch["label"]))
    return digest.hexdigest()


def hash_of(parts: Any) -> str:
    """A hash of JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def items(dataset: Images, indices: Sequence[int]) -> list[Any]:
    """Some items of a data set, at once where it can do that."""
    at_once = getattr(dataset, "__getitems__", None)
    return list(at_once(list(indices))) if at_once else [dataset[index] for index in indices]


def images_at(dataset: Any, indices: Sequence[int]) -> Tensor:
    """The images (B, 3, H, W) of some items."""
    return torch.stack([item["image"] for item in items(dataset, indices)])


def collate(found: Sequence[Any]) -> Batch:
    """Items as one batch: image (B, 3, H, W), label (B,) int64, path list.

    Raises:
        UserError: items are no dicts with images in [-1, 1] as floats.
    """
    for item in found:
        image = item.get("image") if isinstance(item, Mapping) else None
        if (
            not isinstance(image, Tensor)
            or image.dim() != 3
            or len(image) != 3
            or not image.is_floating_point()
        ):
            what = sorted(item) if isinstance(item, Mapping) else type(item).__name__
            raise UserError(
                "items of a data set must be dicts with an 'image', a float tensor (3, H, W) in [-1, 1], "
                f"and this one gives {what if image is None else (image.dtype, tuple(image.shape))}"
            )
    sizes = {tuple(item["image"].shape) for item in found}
    if len(sizes) > 1:
        raise UserError(f"images of a data set must have one size, and these have {sorted(sizes)}")
    return {
        "image": torch.stack([item["image"] for item in found]).float(),
        "label": torch.tensor([int(item.get("label", -1)) for item in found]),
        "path": [str(item.get("path", "")) for item in found],
    }


class _InOrder(Sampler[list[int]]):
    """Batches of consecutive indices from `first` to `last`."""

    def __init__(self, first: int, last: int, batch_size: int) -> None:
        self.starts, self.last = range(first, last, batch_size), last

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield list(range(start, min(start + self.starts.step, self.last)))

    def __len__(self) -> int:
        return len(self.starts)


def batches(dataset: Images, first: int, batch_size: int, workers: int) -> Iterator[tuple[int, Batch]]:
    """(position, batch) from item `first` on; the next batch is loaded meanwhile."""
    order = _InOrder(first, len(cast(Sized, dataset)), batch_size)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # a loader draws from its generator: leave the global one as it is
    )
    source = iter(loader)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, None)
        for start in order.starts:
            batch = coming.result()
            coming = thread.submit(next, source, None)
            yield start, cast(Batch, batch)


def tell(line: str) -> None:
    """One line on stderr, beside any progress bar."""
    tqdm.write(line, file=sys.stderr)


class FeaturePass:
    """A data set on its way through the frozen networks.

    Args:
        dataset: of dict items with an `image`.
        autoencoder: with `encode(images)` and perhaps `image_size`.
        layers: the representations by layer; those of one network run together.
        batch_size: images at a time.
        workers: of the loader.
        progress: a bar on stderr.
        half: the autoencoder in bfloat16.
    """

    def __init__(
        self,
        dataset: Images,
        autoencoder: nn.Module,
        layers: Mapping[str, Representation],
        batch_size: int,
        workers: int,
        progress: bool,
        half: bool = False,
    ) -> None:
        self.dataset, self.autoencoder, self.layers, self.half = dataset, autoencoder, layers, half
        self.batch_size, self.workers, self.progress = batch_size, workers, progress

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
        training, saved = self.autoencoder.training, time.monotonic()
        self.autoencoder.eval()
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
                for name, values in self._features(batch, list(wanted)).items():
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
            self.autoencoder.train(training)
            for array in arrays.values():
                array.close()

    def _check_size(self, batch: Batch) -> None:
        size, wanted = tuple(batch["image"].shape[2:]), getattr(self.autoencoder, "image_size", None)
        if wanted is not None and size != (wanted, wanted):
            raise UserError(
                f"images have {size[0]} × {size[1]} pixels and the autoencoder takes {wanted} × {wanted}; "
                f"load them with size={wanted}"
            )

    @torch.inference_mode()
    def _features(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """The named features of a batch, on the CPU."""
        weight = next(self.autoencoder.parameters(), torch.empty(0))
        images = batch["image"].to(weight.device).contiguous(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        if LABELS in names:
            found[LABELS] = batch["label"]
        if MOMENTS in names:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half):
                posterior = cast(Any, self.autoencoder).encode(images)
            found[MOMENTS] = torch.cat([posterior.mean, posterior.logvar], dim=1)
        for group in together([self.layers[name] for name in names if name in self.layers]):
            found |= group(images)
        return {name: values.cpu() for name, values in found.items()}


def together(representations: Sequence[Representation]) -> list[Representations]:
    """The same layers, grouped by the network that they share, so that each network runs once."""
    groups: dict[int, list[Representation]] = {}
    for each in representations:
        groups.setdefault(id(each._cuts), []).append(each)
    return [Representations(group) for group in groups.values()]


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
