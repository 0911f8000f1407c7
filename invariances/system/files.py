"""Files that are either whole or absent, the cache's home, and whether the network may be used."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from invariances.system.errors import UserError

LOCK = ".lock"
"""A file of this name says nothing but who writes beside it."""
_made: list[Path] = []
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` that takes its place once written: `path` is at every moment the old file or the new.

    The draft reaches the disk before it is renamed; it is removed where the block raises. The file gets the usual
    permissions, whatever wrote it (safetensors alone would keep it from everybody else).

    Raises:
        UserError: The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"folder {str(path.parent)!r} cannot be made ({error.strerror}); choose another"
        ) from None
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        draft.chmod(0o666 & ~_UMASK)
        _reach_disk(draft)
        os.replace(draft, path)
        with suppress(OSError):
            _reach_disk(path.parent)
    except Exception as error:  # torch and safetensors raise errors of their own where the system refuses
        if any(os.strerror(errno.ENOSPC) in str(each) for each in (error, error.__context__)):
            raise UserError(
                f"the disk that holds {str(path)!r} is full; free some space and go on: what was there before is whole"
            ) from error
        if isinstance(error, OSError) and error.filename in (draft, str(draft)):
            error.filename = str(path)  # nobody asked for the draft
        raise
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _reach_disk(path: Path) -> None:
    descriptor = os.open(
        path, os.O_RDONLY if path.is_dir() else os.O_RDWR
    )  # Windows asks for the right to write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Makes `folder`, and proves now, not after hours, that it can be written to.

    Raises:
        UserError: It cannot.
    """
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}"
    try:
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _made.extend(reversed(new))
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"folder {str(folder)!r} cannot be written to ({error.strerror}); choose another --output"
        ) from None


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Folders that `check_writable` makes in here go again where what follows fails before anything is in them."""
    before = len(_made)
    try:
        yield
    except BaseException:
        for folder in reversed(_made[before:]):
            with suppress(OSError):
                if os.listdir(folder) == [LOCK]:
                    (folder / LOCK).unlink()
                folder.rmdir()
        raise
    finally:
        del _made[before:]


def cache_home() -> Path:
    """`$XDG_CACHE_HOME/invariances`, by default `~/.cache/invariances`."""
    return cache_folder() / "invariances"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME`, or `~/.cache`: checkpoints lie below, in the published system's layout."""
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path.home() / ".cache"


def offline() -> bool:
    """Whether `INVARIANCES_OFFLINE` forbids the network: any word but an empty one, 0, false, no and off."""
    return os.environ.get("INVARIANCES_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def new_folder(wanted: Path) -> Path:
    """The folder's path, with a number where one of that name is there already."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")
    return folder
