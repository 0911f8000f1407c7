"""Files to pictures: folders of photos as tensors in [-1, 1], and tensors as 8-bit pictures.

Every picture becomes RGB, upright (EXIF), its shortest side resized to `size` (bicubic, antialiased), cropped
to a square. Transparent pictures are laid on white; 16-bit ones are scaled to 8 bits; of animations the first
frame counts; colour profiles are ignored. A file that is no picture raises `BrokenImage`, which names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from invariances.errors import UserError

SUFFIXES = tuple(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split())
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485
"""Pictures that decode to more pixels are refused: 358 MB at 4 bytes each, Pillow's own threshold."""
RANDOM_SIDE = (0.8, 1.0)
"""A random crop's side, as a share of the picture's shortest side."""

Box = tuple[int, int, int, int]
_Out = TypeVar("_Out")
_DECODING_ERRORS = (
    *(
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        EOFError,
        OverflowError,
        MemoryError,
    ),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class BrokenImage(UserError):
    """A file that should be a picture and cannot be read as one; the message names it and the reason."""


def cache_home() -> Path:
    """`$XDG_CACHE_HOME/invariances`, by default `~/.cache/invariances`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "invariances"


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The picture files under `folder`, known by their endings, sorted by relative path.

    Links are followed, hidden files left out, directories and devices with a picture's name too; a link that
    leads nowhere is listed, so that it is counted as broken and not silently lost.

    Raises:
        UserError: the folder is missing, unreadable, a file, or holds no picture (says what it holds).
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise UserError(f"folder {str(root)!r} does not exist; give a folder of pictures")
    if not root.is_dir():
        raise UserError(f"{str(root)!r} is a file, not a folder; give the folder that holds the pictures")
    found: list[str] = []
    others: dict[str, int] = {}
    for relative in _walk(str(root), recursive):
        suffix = os.path.splitext(relative)[1].lower()
        if suffix in SUFFIXES:
            found.append(relative)
        else:
            others[suffix or "no ending"] = others.get(suffix or "no ending", 0) + 1
    if not found:
        most = sorted(others.items(), key=lambda item: -item[1])[:3]
        held = ", ".join(f"{count} × {name}" for name, count in most) if most else "no files at all"
        raise UserError(
            f"folder {str(root)!r} holds no pictures (found {held}); give a folder with {', '.join(SUFFIXES)}"
        )
    return [root / relative for relative in sorted(found)]


def _walk(root: str, recursive: bool) -> Iterator[str]:
    """Relative paths of regular files and dead links under `root`; each real directory once."""

    def fail(error: OSError) -> None:
        raise UserError(
            f"folder {error.filename!r} cannot be read ({error.strerror}); change its permissions"
        )

    seen: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(root, onerror=fail, followlinks=True):
        entry = os.stat(here)
        if (entry.st_dev, entry.st_ino) in seen:
            folders.clear()
            continue
        seen.add((entry.st_dev, entry.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in files:
            path = os.path.join(here, name)
            if name.startswith("."):
                continue
            with suppress(OSError):
                if not stat.S_ISREG(os.stat(path).st_mode):
                    continue
            yield os.path.relpath(path, root)


def open_image(path: str | os.PathLike[str], size: int | None = None) -> Image.Image:
    """The picture in a file: RGB, 8 bits, upright, transparency on white, first frame.

    Args:
        path: a file in one of the usual formats, whatever its ending.
        size: the side that the caller will resize to; a JPEG is then decoded at a half, quarter or eighth of
            its size, never below `2 * size`, which is fast and keeps huge photos in bounded memory.

    Raises:
        BrokenImage: no such file, not readable, not a picture, truncated, or above `MAX_PIXELS` once decoded.
    """
    try:
        with open(path, "rb") as file, _opened(file) as picture:
            if size is not None and isinstance(picture, JpegImagePlugin.JpegImageFile):
                picture.draft(None, (2 * size, 2 * size))
            pixels = picture.width * picture.height
            original = "{} × {}".format(*_original_size(picture))
            whole = isinstance(picture, JpegImagePlugin.JpegImageFile) and "progressive" in picture.info
            if pixels > MAX_PIXELS or (whole and _original_pixels(picture) > 2 * MAX_PIXELS):
                raise BrokenImage(
                    f"image {str(path)!r} is too large ({original} pixels); make it smaller or remove it"
                )
            picture.load()
            return _to_rgb(_upright(picture))
    except BrokenImage:
        raise
    except FileNotFoundError:
        dead = "is a link that leads nowhere" if os.path.islink(path) else "does not exist"
        raise BrokenImage(f"image {str(path)!r} {dead}") from None
    except _DECODING_ERRORS as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture in a known format"
        raise BrokenImage(f"image {str(path)!r} cannot be read ({reason})") from None


def _opened(file: BinaryIO) -> Image.Image:
    """The picture, not yet decoded; JPEGs of any size, since they can be decoded small."""
    if file.read(3) == b"\xff\xd8\xff":
        file.seek(0)
        return JpegImagePlugin.JpegImageFile(file)
    file.seek(0)
    return Image.open(file, formats=FORMATS)


def _original_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height in the file, before a draft."""
    scale = getattr(picture, "decoderconfig", None)
    factor = scale[0] if scale else 1
    return picture.width * factor, picture.height * factor


def _original_pixels(picture: Image.Image) -> int:
    width, height = _original_size(picture)
    return width * height


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where the EXIF block is broken."""
    try:
        return ImageOps.exif_transpose(picture)
    except _DECODING_ERRORS:
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode == "RGB":
        return picture.copy() if isinstance(picture, JpegImagePlugin.JpegImageFile) else picture
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(picture), mode)).convert("RGB")
    if mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    """Grey values of 16 bits, or floats in [0, 1], as 8 bits."""
    full = 1.0 if mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > full:
        raise ValueError(f"its values go beyond the range 0 to {full:g}")
    return np.rint(values.astype(np.float64) * (255.0 / full)).astype(np.uint8)


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, cores)


_In = TypeVar("_In")


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
        shown = "; ".join(list(broken.values())[:3]) + ("; …" if len(broken) > 3 else "")
        count = f"{len(broken)} of {len(self.paths)} pictures {'is' if len(broken) == 1 else 'are'} broken"
        if not skip:
            raise UserError(
                f"{count}: {shown}. Mend or remove, or pass skip_broken=True (--data.skip_broken true)"
            )
        if len(broken) == len(self.paths):
            raise UserError(f"{count}, so nothing is left: {shown}")
        print(f"{count} and left out: {'; '.join(broken.values())}", file=sys.stderr)
        self._keep([k for k in range(len(self.paths)) if k not in broken])

    def _broken(self) -> dict[int, str]:
        """Position and reason of each picture that cannot be read; remembered while no file changes."""
        key = hashlib.sha256(
            repr([self._names, self._stats, self.size]).encode("utf-8", "backslashreplace")
        ).hexdigest()
        memo = cache_home() / "checked" / f"{key[:32]}.json"
        with suppress(OSError, ValueError):
            return {int(k): str(v) for k, v in json.loads(memo.read_text()).items()}

        def reason(path: Path) -> str | None:
            try:
                open_image(path, self.size)
            except BrokenImage as error:
                return str(error)
            return None

        reasons = _parallel(reason, self.paths, "checking pictures", self.progress)
        broken = {k: text for k, text in enumerate(reasons) if text is not None}
        with suppress(OSError):
            memo.parent.mkdir(parents=True, exist_ok=True)
            draft = memo.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(broken))
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
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside of a data set of {len(self)}")
        index %= len(self)
        picture = index // self.views
        image = from_uint8(torch.from_numpy(self._array(index))[None])[0]
        return {
            "image": image,
            "label": self.labels[picture],
            "index": index,
            "path": str(self.paths[picture]),
        }

    def _array(self, index: int) -> np.ndarray[Any, Any]:
        position, view = divmod(index, self.views)
        picture = open_image(self.paths[position], self.size)
        if self.crop == "center":
            return _to_array(picture, self.size)
        name = zlib.crc32(os.fsencode(self._names[position]))
        random = np.random.default_rng([self.seed, name, view])
        array = _to_array(picture, self.size, random_box(*picture.size, random))
        return array[:, ::-1].copy() if random.random() < 0.5 else array

    def tensor(self) -> Tensor:
        """All items in memory, uint8 (N, size, size, 3), read on all cores; see `from_uint8`."""
        pictures = torch.empty(len(self), self.size, self.size, 3, dtype=torch.uint8)
        arrays = _parallel(self._array, range(len(self)), "reading pictures", self.progress)
        for index, array in enumerate(arrays):
            pictures[index] = torch.from_numpy(array)
        return pictures

    def fingerprint(self) -> str:
        """Hash of relative paths, file sizes and times, crop policy, size and views."""
        policy = [self.size, self.crop, self.views, self.seed if self.crop == "random" else None]
        text = repr([self._names, self._stats, policy])
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()

    def subset(self, positions: Sequence[int]) -> ImageFolder:
        """The same data set with only the pictures at these positions, in this order."""
        part = object.__new__(ImageFolder)
        part.__dict__.update(self.__dict__)
        part._keep(positions)
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


def _signature(path: Path) -> tuple[int, int]:
    """Size in bytes and time of last change in ns; (-1, -1) where the file cannot be reached."""
    try:
        entry = path.stat()
    except OSError:
        return -1, -1
    return entry.st_size, entry.st_mtime_ns
