"""Files to pictures: which files of a folder are pictures, and what picture each holds.

Every picture comes out RGB, 8 bits, upright as its EXIF block says. Transparency is laid on white; 16-bit
values are scaled to 8 bits; of an animation the first frame counts; colour profiles are ignored. A file that
is no picture raises `BrokenImage`, which names it. AVIF is read where Pillow was built with it, HEIC where
pillow-heif is installed.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError, features
from tqdm import tqdm

from invariances.system.errors import UserError
from invariances.system.extras import installed

_AVIF = "avif" in features.modules and features.check("avif")
_HEIC = installed("pillow_heif")

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    *((".avif",) if _AVIF else ()),
    *((".heic", ".heif") if _HEIC else ()),
)
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
    *(("AVIF",) if _AVIF else ()),
    *(("HEIF",) if _HEIC else ()),
)
MAX_PIXELS = 89_478_485
"""Pictures that decode to more pixels are refused: 358 MB at 4 bytes each, Pillow's own threshold."""
LARGE_PIXELS = 2**24
"""Pictures that decode to more pixels are decoded one at a time, which bounds the memory of many threads."""

_READ_WITH = {
    ".heic": "`pip install pillow-heif` reads .heic",
    ".heif": "`pip install pillow-heif` reads .heif",
    ".avif": "`pip install 'pillow>=11.3'` reads .avif",
}

_one_at_a_time = threading.Lock()
_told: set[str] = set()


class BrokenImage(UserError):
    """A file that should be a picture and cannot be read as one; the message names it and the reason."""


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The picture files under `folder`, known by their endings, sorted by relative path.

    Links are followed; hidden files, and directories or devices with a picture's name, left out; a link that
    leads nowhere is listed, so that it is counted as broken and not silently lost. Files with other endings are
    counted in one line on stderr.

    Raises:
        UserError: the folder is missing, unreadable, a file, or holds no picture (says what it holds).
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise UserError(f"{folder!r} is no folder's name; give the path of a folder of pictures")
    if not os.fspath(folder):
        raise UserError("the folder's name is empty; give a folder of pictures, or '.' for the current one")
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
        held = _counted(others, 3) or "no files at all"
        raise UserError(
            f"folder {str(root)!r} holds no pictures (found {held}){_readers(others)}; give a folder with "
            f"{', '.join(SUFFIXES)}"
        )
    if others:
        _tell_once(
            f"{root}: {len(found)} pictures; left out by their endings: {_counted(others, 8)}{_readers(others)}"
        )
    return [root / relative for relative in sorted(found)]


def _counted(others: Mapping[str, int], most: int) -> str:
    """The most frequent endings, with their numbers."""
    order = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count} × {name}" for name, count in order[:most]]
    if len(order) > most:
        shown.append(f"{sum(count for _, count in order[most:])} others")
    return ", ".join(shown)


def _readers(others: Mapping[str, int]) -> str:
    """What to install for endings that are pictures all the same."""
    return "".join(f"; {_READ_WITH[name]}" for name in sorted(others) if name in _READ_WITH)


def _tell_once(line: str) -> None:
    if line not in _told:
        _told.add(line)
        tqdm.write(line, file=sys.stderr)


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


def open_image(path: str | os.PathLike[str], size: int | None = None, plain: bool = False) -> Image.Image:
    """The picture in a file: RGB, 8 bits, upright, transparency on white, first frame.

    Args:
        path: a file in one of the usual formats, whatever its ending.
        size: the side that the caller will resize to; a JPEG is then decoded at a half, quarter or eighth of
            its size, never below `2 * size`, which is fast and keeps huge photos in bounded memory.
        plain: as the published system reads: EXIF orientations are ignored, and alpha is dropped.

    Raises:
        BrokenImage: no such file, not readable, not a picture, truncated, or above `MAX_PIXELS` once decoded.
    """
    name = f"image {str(path)!r}"
    with explained(name), open_regular(path) as file, header(file) as picture:
        return _decode(picture, size, plain)


def decoded(data: bytes, name: str) -> Image.Image:
    """The picture in a file's bytes, as the published system reads it.

    Raises:
        BrokenImage: not a picture, truncated, or above `MAX_PIXELS` once decoded.
    """
    with explained(f"image {name!r}"), header(io.BytesIO(data)) as picture:
        return _decode(picture, None, plain=True)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Whatever Pillow says of damaged bytes, as one sentence.

    Raises:
        BrokenImage: for whatever was raised inside.
    """
    try:
        yield
    except BrokenImage:
        raise
    except FileNotFoundError as error:
        dead = "is a link that leads nowhere" if os.path.islink(error.filename) else "does not exist"
        raise BrokenImage(f"{name} {dead}") from None
    except (_TooLarge, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        told = str(error)  # Pillow's begins with the number, and goes on about attacks
        pixels = told if isinstance(error, _TooLarge) else f"{int(re.findall('[0-9]+', told)[0]):,} pixels"
        raise BrokenImage(f"{name} is too large ({pixels}); make it smaller or remove it") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"{name} is not a picture in a known format") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
        raise BrokenImage(f"{name} cannot be read ({(lines or [type(error).__name__])[0]})") from None


class _TooLarge(Exception):
    pass


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file to read bytes from.

    Raises:
        BrokenImage: it is a device, pipe or socket, which could be waited on for ever.
        OSError: it cannot be opened.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise BrokenImage(f"{str(path)!r} is no regular file, but a device or pipe; give a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe whose other end nobody holds is opened too, and not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def header(file: BinaryIO) -> Image.Image:
    """The picture, not yet decoded. JPEGs pass Pillow's limit on pixels: they can be decoded small."""
    start = file.read(3)
    file.seek(0)
    if start == b"\xff\xd8\xff":
        return JpegImagePlugin.JpegImageFile(file)
    if _HEIC and "HEIF" not in Image.OPEN:
        importlib.import_module("pillow_heif").register_heif_opener()
    return Image.open(file, formats=FORMATS)


def _decode(picture: Image.Image, size: int | None, plain: bool) -> Image.Image:
    width, height = picture.size
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        if size is not None:
            picture.draft(None, (2 * size, 2 * size))
        if "progressive" in picture.info and width * height > 2 * MAX_PIXELS:  # libjpeg would hold all of it
            raise _TooLarge(f"a progressive JPEG of {width} × {height} pixels")
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise _TooLarge(f"{width} × {height} pixels")
    with _one_at_a_time if pixels > LARGE_PIXELS else nullcontext():
        picture.load()
        if plain and picture.mode in ("L", "P", "RGB", "RGBA", "CMYK", "LA", "1"):
            return picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
        return _to_rgb(_upright(picture))


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture in memory as files are read: RGB, 8 bits, upright, transparency on white, first frame.

    Raises:
        BrokenImage: it cannot be decoded.
    """
    try:
        return _to_rgb(_upright(picture))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise BrokenImage(f"a given picture cannot be read ({error})") from None


def _upright(picture: Image.Image) -> Image.Image:
    """A copy turned as its EXIF orientation says; as it is where the EXIF block is broken."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF raises nearly anything; the pixels are whole
        return picture.copy()


def _to_rgb(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(picture), mode)).convert("RGB")
    if mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture if mode == "RGB" else picture.convert("RGB")


def _eight_bits(values: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    """Grey values of 16 bits, or floats in [0, 1], as 8 bits."""
    full = 1.0 if mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > full:
        raise ValueError(f"its values go beyond the range 0 to {full:g}")
    scaled: np.ndarray[Any, Any] = np.rint(values.astype(np.float32) * np.float32(255.0 / full))
    return scaled.astype(np.uint8)
