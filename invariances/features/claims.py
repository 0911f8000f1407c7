"""Rows that this process alone fills: claimed by locks of the system, which frees those of a process that dies."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from invariances.data.datasets import tell
from invariances.features.shards import writing

_PATIENCE = 1.0
"""Seconds until a line says what is waited for."""
_ONE_THREAD = threading.Lock()
"""Locks on bytes belong to a process, so its threads fill one after the other."""


@contextmanager
def claiming(folders: Iterable[Path]) -> Iterator[Claims]:
    """Claims on rows of the arrays in `folders`; all are free at the end."""
    with _ONE_THREAD, ExitStack() as files:
        yield Claims({folder: files.enter_context(_lock_file(folder)) for folder in sorted(folders)})


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
                tell("another process builds this cache; waiting for it")
                for file in self._files.values():
                    fcntl.lockf(file, fcntl.LOCK_EX, len(rows), 1 + rows.start)
                break
            time.sleep(0.05)
        self.free(rows)
