"""Folders of photos as data sets of images in [-1, 1].

Every picture's shortest side is resized to `size` (bicubic, antialiased) and a square is cut out; how files
are read, and which count as broken, is in `files.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from invariances.data.arrays import center_box, from_uint8, random_box, to_array, to_tensor, to_uint8
from invariances.data.files import BrokenImage, list_images, open_image
from invariances.data.given import load_images
from invariances.data.parallel import in_parallel, threads
from invariances.data.splitting import held_out_places, is_whole, spread
from invariances.data.trees import arrange
from invariances.system.errors import UserError
from invariances.system.files import cache_home

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


class ImageFolder(Dataset[dict[str, Any]]):
    """Pictures of one or several folders as items `{image (3, size, size), label, index, path}`.

    Where every picture lies in a sub-folder, and there are at least two, the first-level sub-folders are the
    classes (merged by name over several folders); otherwise labels are -1. In a tree of `train/` and `val/` (or
    `valid`, `validation`, `test`) these are not classes but the two sides of its split.

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
        paths, names, labels: per picture; a name is the path relative to its folder. classes: names of the
            sub-folders, or empty.

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
        if not is_whole(size) or not is_whole(views) or size < 1 or views < 1:
            raise UserError(f"size ({size}) and views ({views}) must be whole numbers of at least 1")
        if views > 1 and crop == "center":
            raise UserError(f"views={views} asks for several crops of a picture; set crop='random' as well")
        roots = (
            [folder] if isinstance(folder, (str, os.PathLike)) or not isinstance(folder, Sequence) else folder
        )
        if not roots:
            raise UserError("no folder given; name at least one folder of pictures")
        self.size, self.crop, self.views, self.seed, self.progress = size, crop, views, seed, progress
        self.paths: list[Path] = []
        self.names: list[str] = []
        self._sides: list[bool | None] = []
        parts: list[list[str]] = []
        for root in roots:
            found = list_images(root)
            names = [os.path.relpath(path, Path(root).expanduser()) for path in found]
            lie = arrange(names, root)
            self.paths += [found[k] for k in lie.positions]
            self.names += [names[k] for k in lie.positions]
            self._sides += lie.held_out
            parts += [name.split(os.sep) for name in lie.inside]
        if len(set(self.paths)) < len(self.paths):
            raise UserError(f"the folders {[str(root) for root in roots]} overlap; give each picture once")
        self._stats = [_signature(path) for path in self.paths]
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
        memo = cache_home() / "checked" / f"{_hash([self.names, self._stats, self.size])[:32]}.json"
        suspects: Sequence[int] = range(len(self.paths))
        with suppress(OSError, ValueError, IndexError):
            suspects = [suspects[int(k)] for k in json.loads(memo.read_text(encoding="utf-8"))]

        def reason(position: int) -> str | None:
            try:
                open_image(self.paths[position], self.size)
            except BrokenImage as error:
                return str(error)
            return None

        reasons = in_parallel(reason, suspects, "checking pictures", self.progress)
        broken = {k: text for k, text in zip(suspects, reasons, strict=True) if text is not None}
        if len(suspects) == len(self.paths):
            with suppress(OSError):
                memo.parent.mkdir(parents=True, exist_ok=True)
                draft = memo.with_suffix(f".{os.getpid()}")
                draft.write_text(json.dumps(list(broken)), encoding="utf-8")
                draft.replace(memo)
        return broken

    def _keep(self, positions: Sequence[int]) -> None:
        self.paths = [self.paths[k] for k in positions]
        self.labels = [self.labels[k] for k in positions]
        self.names = [self.names[k] for k in positions]
        self._stats = [self._stats[k] for k in positions]
        self._sides = [self._sides[k] for k in positions]

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
            with ThreadPoolExecutor(threads()) as pool:
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
            return [to_array(picture, self.size)] * len(views)
        return [self._random_crop(picture, position, view) for view in views]

    def _random_crop(self, picture: Image.Image, position: int, view: int) -> np.ndarray[Any, Any]:
        name = zlib.crc32(os.fsencode(self.names[position]))
        random = np.random.default_rng([self.seed, name, view])
        array = to_array(picture, self.size, random_box(*picture.size, random))
        return array[:, ::-1].copy() if random.random() < 0.5 else array

    def tensor(self) -> Tensor:
        """All items in memory, uint8 (N, size, size, 3), read on all cores; see `from_uint8`."""
        pictures = torch.empty(len(self.paths), self.views, self.size, self.size, 3, dtype=torch.uint8)
        views = range(self.views)
        read = in_parallel(
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
        return _hash([self.names, self._stats, policy])

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

    def split(self, held_out: float | int = 0.1, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
        """(train, held_out) by a hash of each picture's name, relative to its folder, and the seed.

        A picture's side never changes when files are added or removed: each is kept out with probability
        `held_out`, so about that share of every class. A number of pictures keeps out those with the lowest hashes.
        Folders of `train/` and `val/` have their sides already. Each side has at least one picture.

        Args:
            held_out: a share between 0 and 1, or a number of pictures (1 is one picture).
            seed: another seed, another choice.

        Raises:
            UserError: neither a share nor a number of pictures, or fewer than two pictures.
        """
        if len(self.paths) < 2:
            raise UserError(f"{str(self.paths[0])!r} is the only picture; a split needs at least two")
        held = set(held_out_places(self.names, held_out, seed))
        told = {k for k, side in enumerate(self._sides) if side or (side is None and k in held)}
        if 0 < len(told) < len(self.paths):
            held = told
        kept = [k for k in range(len(self.paths)) if k not in held]
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
