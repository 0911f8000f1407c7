"""Data sets of dict items: what they depend on, some of their items, and batches in order."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset
from tqdm import tqdm

from invariances.data.arrays import check_values
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
        for _, batch in batches(dataset, in_order(count, batch_size), workers):
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
    return cast(Tensor, collate(items(dataset, indices))["image"])


def as_item(found: Any) -> Mapping[str, Any]:
    """One item of a data set as a dict: as it is, or an image, or an (image, label) pair.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(found, Mapping):
        return found
    if isinstance(found, Tensor):
        return {"image": found}
    if isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], Tensor):
        return {"image": found[0], "label": found[1]}
    raise UserError(f"{_NEEDED}, and this one gives {_kind(found)}")


_NEEDED = (
    "items of a data set must be dicts with an 'image', a float tensor (3, H, W) in [-1, 1], or pairs of such an "
    "image and a label"
)


def _kind(found: Any) -> str:
    if isinstance(found, (tuple, list)):
        return (
            f"a {type(found).__name__} of {', '.join(type(each).__name__ for each in found[:4]) or 'nothing'}"
        )
    return type(found).__name__


def collate(found: Sequence[Any]) -> Batch:
    """Items as one batch: image (B, 3, H, W) in [-1, 1], label (B,) int64, path list, latent where all have one.

    Raises:
        UserError: items are no dicts with images in [-1, 1] as floats, or labels are no whole numbers.
    """
    rows = [as_item(item) for item in found]
    for item in rows:
        image = item.get("image")
        if (
            not isinstance(image, Tensor)
            or image.dim() != 3
            or len(image) != 3
            or not image.numel()
            or not image.is_floating_point()
        ):
            what = sorted(map(str, item)) if image is None else _kind(image)
            if isinstance(image, Tensor):
                what = f"a tensor of {image.dtype} and shape {tuple(image.shape)}"
            raise UserError(f"{_NEEDED}, and this one gives {what}")
    sizes = {tuple(item["image"].shape) for item in rows}
    if len(sizes) > 1:
        raise UserError(f"images of a data set must have one size, and these have {sorted(sizes)}")
    images = torch.stack([item["image"] for item in rows]).float()
    paths = [str(item.get("path", "")) for item in rows]
    peak = images.abs().flatten(1).amax(1)
    for k in (~(peak <= 1)).nonzero().flatten().tolist():
        check_values(
            images[k], f"image {paths[k]!r} of the data set" if paths[k] else "an image of the data set"
        )
    labels = torch.tensor([_label(item.get("label")) for item in rows])
    batch = {"image": images, "label": labels, "path": paths}
    if rows and all(isinstance(item.get("latent"), Tensor) for item in rows):
        batch["latent"] = torch.stack([item["latent"] for item in rows]).float()
    return batch


def _label(given: Any) -> int:
    """A class's number; -1 where there is none."""
    if given is None:
        return -1
    try:
        number = int(given)
        if number == given:
            return number
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise UserError(f"a label of a data set is {given!r}; give the class's number, or -1 where there is none")


def in_order(count: int, size: int) -> Iterator[range]:
    """0 to `count`, `size` at a time."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


class _Given(Sampler[list[int]]):
    """Batches of consecutive indices, and which of them were asked for and not taken yet."""

    def __init__(self, rows: Iterable[range]) -> None:
        self.rows, self.asked = rows, deque[range]()

    def __iter__(self) -> Iterator[list[int]]:
        for each in self.rows:
            self.asked.append(each)
            yield list(each)


def batches(
    dataset: Images, rows: Iterable[range], workers: int
) -> Generator[tuple[range, Batch], None, None]:
    """(rows, batch) for each of `rows`, which are asked for when they are loaded: the next while this one is used."""
    order = _Given(rows)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # a loader draws from its generator: leave the global one as it is
    )
    source = iter(loader)
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Batch | None] = thread.submit(next, source, None)
        while (batch := coming.result()) is not None:
            here = order.asked.popleft()
            coming = thread.submit(next, source, None)
            if here.start == 0:
                _doubt(batch["image"])
            yield here, batch


def _doubt(images: Tensor) -> None:
    """A line on stderr where all of a first batch lies in [0, 1]: most likely [-1, 1] was forgotten."""
    if len(images) >= 8 and float(images.min()) >= 0:
        tell(
            "all images of the data set's first batch lie in [0, 1]; where they come of ToTensor(), give 2 x - 1: "
            "black is -1 here"
        )


def tell(line: str) -> None:
    """One line on stderr, beside any progress bar."""
    tqdm.write(line, file=sys.stderr)
