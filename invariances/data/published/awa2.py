"""Animals with Attributes 2: 37,322 pictures of 50 kinds of animals.

    archive   AwA2-data.zip, http://cvml.ist.ac.at/AwA2/AwA2-data.zip, about 13 GB
    layout    Animals_with_Attributes2/JPEGImages/<class>/<name>.jpg; train.txt, test.txt, classes.txt beside it
    split     5,000 pictures to test on, drawn by NumPy's RandomState(1) without replacement, over the sorted list

The published split draws over the file system's own order, so that it differs from disk to disk; lists that lie in the
folder already are kept. Both parts have all 50 classes. Licence: see the archive.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from invariances.data.download import download
from invariances.data.published.pictures import Crop, PublishedSet
from invariances.data.published.root import Root, check_source, counted, listed, names_of
from invariances.data.published.zips import Zip
from invariances.system.errors import UserError

ARCHIVE, ADDRESS = "AwA2-data.zip", "http://cvml.ist.ac.at/AwA2/AwA2-data.zip"
PICTURES = "Animals_with_Attributes2/JPEGImages"
TOTAL, TESTED, CLASSES = 37_322, 5_000, 50
TRAIN, TEST, CLASS_LIST = "train.txt", "test.txt", "classes.txt"
SUFFIXES = (".jpg",)


class AwA2(PublishedSet):
    """Pictures in folders by class; see `PublishedSet`."""

    folder, inside = "AwA2", ""
    fetches = "13 GB"

    @classmethod
    def bring(cls, root: Root, source: Path | None, progress: bool) -> None:
        """As of every data set; `source` is the published zip, or the folder that holds it or what it holds."""
        with root.locked(cls.name):
            if cls.ready(root) and source is None:
                return
            root.sweep(root.path / PICTURES)
            pictures = root.path / PICTURES
            if counted(pictures, SUFFIXES) != TOTAL:
                found = _found(root, source)
                if found is not None:
                    _extract(found, root, progress)
            count = counted(pictures, SUFFIXES)
            if count != TOTAL:
                raise UserError(
                    f"AwA2 has {TOTAL:,} pictures, and {pictures} holds {count:,}; give the whole archive with "
                    f"`invariances data prepare {cls.name} --from {ARCHIVE}`"
                )
            _write_lists(root)
            root.mark([TRAIN, TEST])

    @classmethod
    def lacking(cls, root: Root, source: Path | None = None) -> dict[str, str]:
        """As of every data set."""
        here = source is not None or (root.path / ARCHIVE).is_file()
        return {} if here else {ARCHIVE: f"{cls.fetches}, {ADDRESS}"}


def _found(root: Root, source: Path | None) -> Path | None:
    """The archive; None where the folder of pictures was linked instead."""
    if source is None:
        return (
            root.path / ARCHIVE if (root.path / ARCHIVE).is_file() else download(ADDRESS, root.path / ARCHIVE)
        )
    check_source(source, f"{ARCHIVE}, or the folder that it holds")
    if not source.is_dir():
        return source
    if (source / ARCHIVE).is_file():
        return source / ARCHIVE
    top = PICTURES.split("/")[0]
    folder = next((each for each in (source / top, source) if (each / "JPEGImages").is_dir()), None)
    if folder is None:
        raise UserError(f"{str(source)!r} holds neither {ARCHIVE} nor JPEGImages/")
    link = root.path / top
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link} is there already; remove it, or give the archive")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.resolve(), target_is_directory=True)
    return None


def _extract(archive: Path, root: Root, progress: bool) -> None:
    """Writes the pictures that are not there yet."""
    files = Zip(archive)
    try:
        wanted = [
            name
            for name in files.files
            if name.startswith(f"{PICTURES}/") and name.lower().endswith(SUFFIXES)
        ]
        for name in wanted:
            if name.count("/") != 3:
                raise UserError(f"{files.what} holds {name!r}, and {PICTURES}/CLASS/NAME.jpg was expected")
        bar = tqdm(wanted, desc="AwA2", unit="img", disable=not progress, file=sys.stderr)
        for name in bar:
            if not root.holds(name, files.files[name].file_size):
                root.write(name, files.parts(name))
    finally:
        files.close()


def _write_lists(root: Root) -> None:
    """The split over the sorted list, and the classes; lists that are there, and whole, are kept."""
    if _split_is_whole(root):
        return
    names = [f"{PICTURES}/{name}" for name in listed(root.path / PICTURES, SUFFIXES)]
    random = np.random.RandomState(1)  # as published; its draws stay what they are for all time
    tested = set(random.choice(len(names), size=TESTED, replace=False).tolist())
    parts = {
        TRAIN: [n for k, n in enumerate(names) if k not in tested],
        TEST: [names[k] for k in sorted(tested)],
    }
    classes = sorted({name.split("/")[2] for name in names})
    for file, lines in {CLASS_LIST: classes, **parts}.items():  # the split is what tells that all are there
        root.write(file, ["".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")])


def _split_is_whole(root: Root) -> bool:
    try:
        train, test = (names_of(root.path / name) for name in (TRAIN, TEST))
    except UserError:
        return False
    return (
        len(train) == TOTAL - TESTED
        and len(test) == TESTED
        and len({*train, *test}) == TOTAL
        and all((root.path / part[k]).is_file() for part in (train, test) for k in (0, -1))
    )


class AwA2Train(AwA2):
    """32,322 pictures of 50 classes; random crops unless told otherwise. See `PublishedSet`."""

    name, length, list_file = "AwA2Train", TOTAL - TESTED, TRAIN
    title = "Animals with Attributes 2, 50 classes, to train on"
    own_crop: ClassVar[Crop] = "random"


class AwA2Test(AwA2):
    """5,000 pictures of the same 50 classes. See `PublishedSet`."""

    name, length, list_file = "AwA2Test", TESTED, TEST
    title = "Animals with Attributes 2, 50 classes, for testing"
