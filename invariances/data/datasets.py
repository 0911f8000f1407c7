"""Data sets of dict items: what they depend on, some of their items, and batches in order."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset
from tqdm import tqdm

from invariances.system.errors import UserError

Images = Dataset[Any]


Batch = dict[str, Any]


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
