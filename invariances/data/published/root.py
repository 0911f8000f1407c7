"""A data set's folder: the published layout, one writer at a time, whole files, and a mark that comes last.

    ROOT/data/CLASS/FILE     the pictures
    ROOT/filelist.txt        their paths below data/, sorted, one a line
    ROOT/.ready              the hashes of lists whose pictures are whole

A file gets its name once it is whole, so a preparation may be stopped anywhere and goes on with what is missing. The
published system leaves an empty mark, even on a broken extraction: such a folder is counted before it is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from invariances.data.published.names import Names
from invariances.system.errors import UserError
from invariances.system.files import atomic, cache_folder

DATA, FILE_LIST, MARK = "data", "filelist.txt", ".ready"
DRAFT = ".draft"


class Root:
    """A data set's folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder).expanduser()
        self.data = self.path / DATA
        self.list = self.path / FILE_LIST

    @classmethod
    def named(cls, name: str) -> Root:
        """Where the published system keeps the data set of this name."""
        return cls(cache_folder() / "autoencoders" / "data" / name)

    def ready(self, lists: Iterable[str] = (FILE_LIST,)) -> bool:
        """Whether preparations of ours ended here with these lists, and they have not changed since."""
        known = self._known()
        try:
            return all(known.get(name) == _hash(self.path / name) for name in lists)
        except OSError:
            return False

    def mark(self, lists: Iterable[str] = (FILE_LIST,)) -> None:
        """Says that the pictures of these lists are whole; after all else has reached the disk.

        A folder that cannot be written to stays as it is, and is looked at anew each time.
        """
        if hasattr(os, "sync"):
            os.sync()
        known = self._known() | {name: _hash(self.path / name) for name in lists}
        with suppress(OSError, UserError), atomic(self.path / MARK) as draft:
            draft.write_text(json.dumps({"lists": known}, sort_keys=True) + "\n", encoding="utf-8")

    def _known(self) -> dict[str, str]:
        try:
            known = json.loads((self.path / MARK).read_text(encoding="utf-8"))["lists"]
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """One process at a time prepares; others wait, and say for what.

        Raises:
            UserError: The folder cannot be written to.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say(f"{what}: another process prepares it in {self.path}; waiting for it")
                lock.acquire()
        except OSError as error:
            raise UserError(
                f"{what} cannot be prepared in {str(self.path)!r} ({error.strerror}); set XDG_CACHE_HOME to a folder "
                "with room"
            ) from None
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{what} cannot be prepared in {str(self.path)!r} ({error.strerror or error}); mend that and run "
                "again, it goes on where it stopped"
            ) from error
        finally:
            lock.release()

    def write(self, relative: str, parts: Iterable[bytes]) -> None:
        """A file below the root, whole or not there."""
        write(self.path / relative, parts)

    def holds(self, relative: str, size: int) -> bool:
        """Whether a file of this size is there, and no link."""
        try:
            state = os.stat(self.path / relative, follow_symlinks=False)
        except OSError:
            return False
        return state.st_size == size and not os.path.islink(self.path / relative)

    def sweep(self, pictures: Path | None = None) -> None:
        """Removes drafts that a killed process left beside the lists and in the folders of pictures."""
        pictures = pictures or self.data
        for path in [*self.path.glob(f".*{DRAFT}"), *pictures.glob(f"*/.*{DRAFT}")]:
            path.unlink(missing_ok=True)

    def write_list(self, suffixes: tuple[str, ...], keep: Callable[[str], bool] = bool) -> int:
        """Writes the sorted list of the pictures in class folders; gives back how many they are."""
        count = 0
        with atomic(self.list) as draft, draft.open("w", encoding="utf-8", errors="surrogateescape") as file:
            for name in listed(self.data, suffixes, keep):
                file.write(name + "\n")
                count += 1
        return count


def listed(data: Path, suffixes: tuple[str, ...], keep: Callable[[str], bool] = bool) -> Iterator[str]:
    """CLASS/FILE of every picture in the folders of a folder, sorted, one folder at a time."""
    try:
        folders = sorted(entry.name for entry in os.scandir(data) if entry.is_dir() and keep(entry.name))
    except OSError:
        return
    for folder in folders:
        if folder.startswith("."):
            continue
        for name in sorted(os.listdir(data / folder)):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield f"{folder}/{name}"


def counted(data: Path, suffixes: tuple[str, ...], keep: Callable[[str], bool] = bool) -> int:
    """How many pictures lie in the folders of a folder."""
    return sum(1 for _ in listed(data, suffixes, keep))


def write(path: Path, parts: Iterable[bytes]) -> None:
    """A file that is whole or not there.

    Raises:
        OSError: It cannot be written; nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}{DRAFT}")
    try:
        with draft.open("wb") as file:
            for part in parts:
                file.write(part)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def check_source(source: Path | None, wanted: str) -> None:
    """Refuses a source that is not there.

    Raises:
        UserError: Says what is wanted.
    """
    if source is not None and not source.exists():
        raise UserError(f"{str(source)!r} does not exist; give {wanted}")


def names_of(path: Path) -> Names:
    """The names in a list, below `data/` whether or not the list says so."""
    names = Names.read(path)
    if len(names) and names[0].startswith(f"{DATA}/"):
        text = b"\n" + names.text
        return Names(text.replace(f"\n{DATA}/".encode(), b"\n")[1:], where=f"list {str(path)!r}")
    return names


def say(line: str) -> None:
    """One line on stderr, beside any bar."""
    tqdm.write(line, file=sys.stderr)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
