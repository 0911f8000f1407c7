"""Pictures to tensors: folders of photos as images in [-1, 1], and images as 8-bit pictures.

Every picture's shortest side is resized to `size` (bicubic, antialiased) and a square is cut out; how files
are read, and which count as broken, is in `files.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from invariances.data.files import BrokenImage, list_images, open_image
from invariances.system.errors import UserError
from invariances.system.files import cache_home
from invariances.system.machine import cores

__all__ = [
    "BrokenImage",
    "ImageFolder",
    "cache_home",
    "center_box",
    "from_uint8",
    "list_images",
    "load_images",
    "open_image",
    "random_box",
    "spread",
    "to_tensor",
    "to_uint8",
]


RANDOM_SIDE = (0.8, 1.0)
"""A random crop's side, as a share of the picture's shortest side."""


Box = tuple[int, int, int, int]


_In = TypeVar("_In")


_Out = TypeVar("_Out")


def center_box(width: int, height: int) -> Box:
    """The largest square in the middle: left, upper, right, lower in pixels."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def random_box(width: int, height: int, random: np.random.Generator) -> Box:
    """A square of `RANDOM_SIDE` of the shortest side, anywhere."""
    side = max(1, round(min(width, height) * random.uniform(*RANDOM_SIDE)))
    left, upper = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
    return left, upper, left + side, upper + side


def _to_array(picture: Image.Image, size: int, box: Box | None = None) -> np.ndarray[Any, Any]:
    """Uint8 (size, size, 3): the box, by default the middle square, resized."""
    if box is None:
        box = center_box(*picture.size)
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def from_uint8(pictures: Tensor) -> Tensor:
    """Images x / 127.5 - 1: 8-bit pictures (N, H, W, 3) as float32 (N, 3, H, W) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Pictures round(127.5 (x + 1)), clamped to 0 … 255: (N, 3, H, W) as uint8 (N, H, W, 3) on the CPU."""
    levels = images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def to_tensor(picture: Image.Image, size: int, box: Box | None = None) -> Tensor:
    """One picture as an image (3, size, size) in [-1, 1]: `box` (by default the middle square), resized."""
    return from_uint8(torch.from_numpy(_to_array(picture, size, box))[None])[0]


def spread(count: int, total: int) -> list[int]:
    """Up to `count` evenly spaced places among `total`: of pictures in order of class, some of each."""
    return torch.linspace(0, total - 1, min(count, total)).round().long().tolist()


def load_images(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], size: int) -> Tensor:
    """The pictures of a folder, or one file, or some files: (N, 3, size, size) in [-1, 1].

    Raises:
        UserError: nothing there, or a picture is broken (`BrokenImage`).
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        paths = list_images(path) if path.is_dir() or not path.suffix else [path]
    else:
        paths = [Path(each) for each in source]
    if not paths:
        raise UserError("no pictures given; name at least one picture file or a folder of them")
    arrays = list(_parallel(lambda path: _to_array(open_image(path, size), size), paths, "pictures", True))
    return from_uint8(torch.from_numpy(np.stack(arrays)))


def _workers() -> int:
    return min(32, cores())


def _parallel(
    function: Callable[[_In], _Out], items: Sequence[_In], name: str, progress: bool
) -> Iterator[_Out]:
    """`map` in order on all cores (decoding releases the interpreter lock), with a bar after two seconds."""
    block = 16 * _workers()
    with (
        ThreadPoolExecutor(_workers()) as pool,
        tqdm(total=len(items), desc=name, unit="img", delay=2, disable=not progress, file=sys.stderr) as bar,
    ):
        for start in range(0, len(items), block):
            for result in pool.map(function, items[start : start + block]):
                yield result
                bar.update()


class ImageFolder(Dataset[dict[str, Any]]):
    """Pictures of one or several folders as items `{image (3, size, size), label, index, path}`.

    Where every picture lies in a sub-folder, and there are at least two, the first-level sub-folders are the
    classes (merged by name over several folders); otherwise labels are -1.

    Args:
        folder: a folder, or several.
        size: side of the square images, pixels.
        crop: "center": the middle square. "random": a square of 0.8 to 1 of the shortest side, anywhere,
            mirrored half of the time; a function of (seed, file name, view) alone.
        views: random crops per picture; the data set is `views` times as long, item i being view
            `i % views` of picture `i // views`.
        skip_broken: leave broken pictures out, naming and counting them on stderr.
        seed: of the random crops.
        progress: a bar on stderr where reading takes over two seconds.

    Attributes:
        paths, labels: per picture. classes: names of the sub-folders, or empty.

    Raises:
        UserError: a folder is missing or without pictures, or pictures are broken and `skip_broken` is False.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        size: int = 64,
        crop: Literal["center", "random"] = "center",
        views: int = 1,
        skip_broken: bool = False,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        if crop not in ("center", "random"):
            raise UserError(f"crop {crop!r} is unknown; use 'center' or 'random'")
        if size < 1 or views < 1:
            raise UserError(f"size ({size}) and views ({views}) must be at least 1")
        if views > 1 and crop == "center":
            raise UserError(f"views={views} asks for several crops of a picture; set crop='random' as well")
        roots = [folder] if isinstance(folder, (str, os.PathLike)) else list(folder)
        if not roots:
            raise UserError("no folder given; name at least one folder of pictures")
        self.size, self.crop, self.views, self.seed, self.progress = size, crop, views, seed, progress
        self.paths: list[Path] = []
        self._names: list[str] = []
        for root in roots:
            found = list_images(root)
            self.paths += found
            self._names += [os.path.relpath(path, Path(root).expanduser()) for path in found]
        if len(set(self.paths)) < len(self.paths):
            raise UserError(f"the folders {[str(root) for root in roots]} overlap; give each picture once")
        self._stats = [_signature(path) for path in self.paths]
        parts = [name.split(os.sep) for name in self._names]
        names = sorted({part[0] for part in parts}) if all(len(part) > 1 for part in parts) else []
        self.classes: list[str] = names if len(names) > 1 else []
        number = {name: k for k, name in enumerate(self.classes)}
        self.labels: list[int] = [number.get(part[0], -1) for part in parts]
        self._drop_broken(skip_broken)

    def _drop_broken(self, skip: bool) -> None:
        broken = self._broken()
        if not broken:
            return
        count = f"{len(broken)} of {len(self.paths)} pictures {'is' if len(broken) == 1 else 'are'} broken"
        reasons = list(broken.values())
        if not skip or len(broken) == len(self.paths):
            shown = "; ".join(reasons[:3]) + ("; …" if len(broken) > 3 else "")
            advice = (
                "" if skip else "; repair or remove them, or leave them out with `--data.skip_broken true`"
            )
            raise UserError(f"{count}: {shown}{advice}")
        print("\n  ".join([f"{count} and left out:", *reasons]), file=sys.stderr)
        self._keep([k for k in range(len(self.paths)) if k not in broken])

    def _broken(self) -> dict[int, str]:
        """Position and reason of each picture that cannot be read; once all are read, only bad ones again."""
        memo = cache_home() / "checked" / f"{_hash([self._names, self._stats, self.size])[:32]}.json"
        suspects: Sequence[int] = range(len(self.paths))
        with suppress(OSError, ValueError, IndexError):
            suspects = [suspects[int(k)] for k in json.loads(memo.read_text())]

        def reason(position: int) -> str | None:
            try:
                open_image(self.paths[position], self.size)
            except BrokenImage as error:
                return str(error)
            return None

        reasons = _parallel(reason, suspects, "checking pictures", self.progress)
        broken = {k: text for k, text in zip(suspects, reasons, strict=True) if text is not None}
        if len(suspects) == len(self.paths):
            with suppress(OSError):
                memo.parent.mkdir(parents=True, exist_ok=True)
                draft = memo.with_suffix(f".{os.getpid()}")
                draft.write_text(json.dumps(list(broken)))
                draft.replace(memo)
        return broken

    def _keep(self, positions: Sequence[int]) -> None:
        self.paths = [self.paths[k] for k in positions]
        self.labels = [self.labels[k] for k in positions]
        self._names = [self._names[k] for k in positions]
        self._stats = [self._stats[k] for k in positions]

    def __len__(self) -> int:
        return len(self.paths) * self.views

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._items(self._checked(index))[0]

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside of a data set of {len(self)}")
        return index % len(self)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items at `indices`, decoded on all cores (on one, inside of a loader's worker)."""
        checked = map(self._checked, indices)
        groups = [list(group) for _, group in groupby(checked, lambda index: index // self.views)]
        if torch.utils.data.get_worker_info() is not None:
            parts = [self._items(*group) for group in groups]
        else:
            with ThreadPoolExecutor(_workers()) as pool:
                parts = list(pool.map(lambda group: self._items(*group), groups))
        return [item for part in parts for item in part]

    def _items(self, *indices: int) -> list[dict[str, Any]]:
        """Items of one picture."""
        picture = indices[0] // self.views
        arrays = self._arrays(picture, [index % self.views for index in indices])
        return [
            {
                "image": from_uint8(torch.from_numpy(array)[None])[0],
                "label": self.labels[picture],
                "index": index,
                "path": str(self.paths[picture]),
            }
            for index, array in zip(indices, arrays)
        ]

    def _arrays(self, position: int, views: Sequence[int]) -> list[np.ndarray[Any, Any]]:
        """Views of one picture, which is decoded once."""
        picture = open_image(self.paths[position], self.size)
        if self.crop == "center":
            return [_to_array(picture, self.size)] * len(views)
        return [self._random_crop(picture, position, view) for view in views]

    def _random_crop(self, picture: Image.Image, position: int, view: int) -> np.ndarray[Any, Any]:
        name = zlib.crc32(os.fsencode(self._names[position]))
        random = np.random.default_rng([self.seed, name, view])
        array = _to_array(picture, self.size, random_box(*picture.size, random))
        return array[:, ::-1].copy() if random.random() < 0.5 else array

    def tensor(self) -> Tensor:
        """All items in memory, uint8 (N, size, size, 3), read on all cores; see `from_uint8`."""
        pictures = torch.empty(len(self.paths), self.views, self.size, self.size, 3, dtype=torch.uint8)
        views = range(self.views)
        read = _parallel(
            lambda position: self._arrays(position, views),
            range(len(self.paths)),
            "reading pictures",
            self.progress,
        )
        for position, arrays in enumerate(read):
            pictures[position] = torch.from_numpy(np.stack(arrays))
        return pictures.flatten(0, 1)

    def fingerprint(self) -> str:
        """Hash of relative paths, file sizes and times, crop policy, size and views."""
        policy = [self.size, self.crop, self.views, self.seed if self.crop == "random" else None]
        return _hash([self._names, self._stats, policy])

    def subset(self, positions: Sequence[int]) -> ImageFolder:
        """The same data set with only the pictures at these positions, in this order."""
        part = object.__new__(ImageFolder)
        part.__dict__.update(self.__dict__)
        part._keep(positions)
        return part

    def cropped(self, views: int) -> ImageFolder:
        """The same pictures, `views` random crops of each.

        Raises:
            UserError: `views` is below 1.
        """
        if views < 1:
            raise UserError(f"views is {views}; give at least 1")
        part = self.subset(range(len(self.paths)))
        part.crop, part.views = "random", views
        return part

    def centred(self) -> ImageFolder:
        """The same pictures, each once, cut to the middle square."""
        part = self.subset(range(len(self.paths)))
        part.crop, part.views = "center", 1
        return part

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
        """(train, held_out): a share `held_out` of the pictures, of each class where there are classes.

        The same for the same pictures and seed, on every machine. Each side has at least one picture.

        Raises:
            UserError: a share outside of (0, 1), or fewer than two pictures.
        """
        if not 0 < held_out < 1:
            raise UserError(f"held_out is {held_out}; give a share between 0 and 1, such as 0.1")
        if len(self.paths) < 2:
            raise UserError(f"{str(self.paths[0])!r} is the only picture; a split needs at least two")
        random = np.random.default_rng(seed)
        held: list[int] = []
        labels = np.asarray(self.labels)
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            held += members[: int(len(members) * held_out + 0.5)].tolist()
        if not held:
            held = [int(random.integers(len(labels)))]
        chosen = set(held)
        kept = [k for k in range(len(labels)) if k not in chosen]
        if not kept:
            kept = [held.pop()]
        return self.subset(kept), self.subset(sorted(held))


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _signature(path: Path) -> tuple[int, int]:
    """Size in bytes and time of last change in ns; (-1, -1) where the file cannot be reached."""
    try:
        entry = path.stat()
    except OSError:
        return -1, -1
    return entry.st_size, entry.st_mtime_ns
