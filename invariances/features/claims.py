"""Rows that this process alone fills: claimed by locks of the system, which frees those of a process that dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from invariances.data.datasets import tell
from invariances.features.shards import writing

_BYTES = find_spec("fcntl") is not None
"""Whether the system locks bytes of files: Windows does not, as this is needed."""
if _BYTES:
    import fcntl

_PATIENCE = 1.0
"""Seconds until a line says what is waited for."""
_WAITING = "another process builds this cache; waiting for it"
_ONE_THREAD = threading.Lock()
"""Locks on bytes belong to a process, so its threads fill one after the other."""


@contextmanager
def claiming(folders: Iterable[Path]) -> Iterator[Claims]:
    """Claims on rows of the arrays in `folders`; all are free at the end.

    Where the system cannot lock bytes of a file, this waits until no other process has claims, and one has all rows.
    """
    with _ONE_THREAD, ExitStack() as files:
        if not _BYTES:
            for folder in sorted(folders):
                files.enter_context(_whole(folder))
            yield _AllRows({})
        else:
            yield Claims({folder: files.enter_context(_lock_file(folder)) for folder in sorted(folders)})


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            tell(_WAITING)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_file(folder: Path) -> BinaryIO:
    with writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder.with_suffix(".lock").open("ab")


class Claims:
    """See `claiming`.

    Args:
        files: by array, in one order for all processes: byte 0 stands for the folder itself, byte 1 + n for row n.
    """

    def __init__(self, files: Mapping[Path, BinaryIO]) -> None:
        self._files = files

    @contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """The only one who begins or ends the array in `folder`, after whoever does."""
        file = self._files[folder]
        with writing(folder.parent):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)

    def claim(self, rows: range) -> bool:
        """Claims rows of all arrays, unless another process has some of them."""
        for folder, file in self._files.items():
            try:
                with writing(folder.parent, let=(BlockingIOError, PermissionError)):
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, len(rows), 1 + rows.start)
            except (BlockingIOError, PermissionError):
                self.free(rows)
                return False
        return True

    def free(self, rows: range) -> None:
        """Gives rows of all arrays up."""
        for file in self._files.values():
            fcntl.lockf(file, fcntl.LOCK_UN, len(rows), 1 + rows.start)

    def wait(self, rows: range) -> None:
        """Waits until nobody else has these rows; with a line where that takes long."""
        until = time.monotonic() + _PATIENCE
        while not self.claim(rows):
            if time.monotonic() > until:
                tell(_WAITING)
                for file in self._files.values():
                    fcntl.lockf(file, fcntl.LOCK_EX, len(rows), 1 + rows.start)
                break
            time.sleep(0.05)
        self.free(rows)


class _AllRows(Claims):
    """Of a process that has the arrays to itself."""

    @contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """It is."""
        yield

    def claim(self, rows: range) -> bool:
        """Nobody else has them."""
        return True

    def wait(self, rows: range) -> None:
        """For nobody."""
