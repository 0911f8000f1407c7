"""AnimalFaces: faces of 149 kinds of carnivores, cut out of ImageNet's train pictures.

    boxes     animalface_coordinates.txt, https://github.com/NVlabs/FUNIT/raw/master/datasets/animalface_coordinates.txt
              <synset>/<image>.JPEG left upper right lower: a box in pixels
    splits    lists of pictures, at the addresses below: 93,404 + 24,080 of other kinds each, 105,653 + 11,831 of all
              kinds, 8,036 + 898 of ten kinds
    layout    data/<synset>/<image>.JPEG_<left>_<upper>_<right>_<lower>.jpg, saved at Pillow's default quality

Labels are the sorted synsets of a split, from 0. Lists and boxes are FUNIT's (CC BY-NC-SA 4.0), pictures ImageNet's:
fetched at use, never shipped.
"""

from __future__ import annotations

import io
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from invariances.data.arrays import Array
from invariances.data.download import download
from invariances.data.files import BrokenImage, decoded, open_regular
from invariances.data.parallel import threads
from invariances.data.published.imagenet import (
    ImageNetAnimalsTrain,
    ImageNetTrain,
    human_names,
    inner_tars,
    is_picture,
    synsets,
)
from invariances.data.published.names import Names
from invariances.data.published.pictures import PublishedSet
from invariances.data.published.root import DATA, Root, check_source, names_of
from invariances.data.published.tars import Tar
from invariances.system.errors import UserError

Box = tuple[int, int, int, int]
Boxes = dict[str, dict[str, list[Box]]]

FUNIT = "https://github.com/NVlabs/FUNIT/raw/master/datasets"
HEIBOX = "https://heibox.uni-heidelberg.de/f"
COORDINATES = "animalface_coordinates.txt"
LARGEST_SIDE = 20_000
"""Pixels of the largest box that is believed."""


class AnimalFaces(PublishedSet):
    """Faces in folders by synset; see `PublishedSet`."""

    folder = "AnimalFaces"
    address: ClassVar[str]
    kinds: ClassVar[int]
    fetches = "its lists, and ImageNet's train pictures"

    @classmethod
    def bring(cls, root: Root, source: Path | None, progress: bool) -> None:
        """As of every data set; `source` is ImageNet's train tar, or a folder of its synsets or of cut faces."""
        with root.locked(cls.name):
            if cls.ready(root) and source is None:
                return
            root.sweep()
            check_source(source, "ImageNet's train tar or a folder of its synsets")
            names = cls._names(root, source)
            if source is not None and source.is_dir() and _faces_in(source):
                _link(root, source)
            if _missing(root, names):
                boxes = read_boxes(_fetched(root, COORDINATES, f"{FUNIT}/{COORDINATES}", source))
                cut_all(root, boxes, cls._pictures(source, progress), progress)
            missing = _missing(root, names)
            if missing:
                raise UserError(
                    f"{cls.name} has {len(names):,} pictures, and {len(missing):,} of them are not in {root.data}, "
                    f"such as {missing[0]}; give ImageNet's whole train tar with --from"
                )
            root.mark([cls.list_file])

    @classmethod
    def lacking(cls, root: Root, source: Path | None = None) -> dict[str, str]:
        """As of every data set."""
        lists = {cls.list_file: cls.address}
        whole, part = ImageNetTrain.root_of(), ImageNetAnimalsTrain.root_of()
        pictures: dict[str, str] = {}
        if not any(_faces_in(each) for each in (root.path, source) if each is not None):
            lists[COORDINATES] = f"{FUNIT}/{COORDINATES}"
            if not whole.ready() and not part.ready():
                pictures = ImageNetAnimalsTrain.lacking(part, source)
        places = [root.path] if source is None else [root.path, source if source.is_dir() else source.parent]
        missing = {
            name: address
            for name, address in lists.items()
            if not any((place / name).is_file() for place in places)
        }
        return missing | pictures

    @classmethod
    def _names(cls, root: Root, source: Path | None) -> Names:
        """The split's list, fetched where it is missing."""
        path = _fetched(root, cls.list_file, cls.address, source)
        names = names_of(path)
        kinds = len(names.folders()[0])
        if len(names) != cls.length or kinds != cls.kinds:
            raise UserError(
                f"{path} lists {len(names):,} pictures of {kinds} kinds, and {cls.name} has {cls.length:,} of "
                f"{cls.kinds}; delete it, so that it is fetched anew"
            )
        return names

    @classmethod
    def _pictures(cls, source: Path | None, progress: bool) -> Path:
        """The train tar, or a folder of synsets."""
        if source is not None:
            inside = [source / ImageNetTrain.archive, source / DATA, source]
            return next(each for each in inside if each.exists()) if source.is_dir() else source
        whole, part = ImageNetTrain.root_of(), ImageNetAnimalsTrain.root_of()
        for root in (whole, part):
            if root.ready():
                return root.data
        if (whole.path / ImageNetTrain.archive).is_file():
            return whole.path / ImageNetTrain.archive
        ImageNetAnimalsTrain.prepare(part, None, progress)
        return part.data

    def labelled(self, folders: list[str], numbers: Array) -> tuple[list[str], Array]:
        """Sorted synsets from 0, by their names in words."""
        words = dict(zip(synsets(), human_names(), strict=True))
        return [words.get(name, name) for name in folders], numbers


def _fetched(root: Root, name: str, address: str, source: Path | None) -> Path:
    """A list in the root: as it is there, out of `source`, or from the web."""
    path = root.path / name
    if not path.is_file():
        beside = None if source is None else (source if source.is_dir() else source.parent) / name
        if beside is not None and beside.is_file():
            root.write(name, [beside.read_bytes()])
        else:
            download(address, path)
    return path


def _faces_in(folder: Path) -> bool:
    """Whether a folder holds cut faces."""
    pattern = "n????????/*.JPEG_*_*_*_*.jpg"
    return any(True for each in (folder / DATA, folder) for _ in each.glob(pattern))


def _link(root: Root, source: Path) -> None:
    folder = source / DATA if (source / DATA).is_dir() else source
    if folder.resolve() == root.data.resolve():
        return
    if root.data.is_symlink() or not root.data.exists():
        root.data.unlink(missing_ok=True)
        root.data.symlink_to(folder.resolve(), target_is_directory=True)
        return
    raise UserError(f"{root.data} is there already; remove it, or leave --from out")


def _missing(root: Root, names: Sequence[str]) -> list[str]:
    """Pictures of a list that are not there, or end before a JPEG does."""
    with ThreadPoolExecutor(threads()) as pool:
        whole = pool.map(lambda name: is_whole(root.data / name), names, chunksize=256)
        return [name for name, there in zip(names, whole, strict=True) if not there]


def is_whole(path: Path) -> bool:
    """Whether a JPEG file ends as one."""
    try:
        with open_regular(path) as file:
            file.seek(-2, 2)
            return file.read(2) == b"\xff\xd9"
    except (OSError, BrokenImage):
        return False


def read_boxes(path: Path) -> Boxes:
    """Boxes by synset and picture.

    Raises:
        UserError: A line is of another form, or its box is none.
    """
    found: Boxes = defaultdict(lambda: defaultdict(list))
    pattern = re.compile(r"(n\d{8})/(n\d{8}_\d+\.JPEG)" + r" +(\d{1,6})" * 4)
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            match = pattern.fullmatch(line.strip())
            if match is None or not is_picture(match.group(2), match.group(1)):
                raise UserError(f"line {number} of {path} is {line[:80]!r}, and no face; delete the file")
            left, upper, right, lower = (int(each) for each in match.groups()[2:])
            if not (left < right <= LARGEST_SIDE and upper < lower <= LARGEST_SIDE):
                raise UserError(
                    f"line {number} of {path} is {line.strip()!r}, whose box is none; delete the file"
                )
            found[match.group(1)][match.group(2)].append((left, upper, right, lower))
    return found


def face_name(synset: str, picture: str, box: Box) -> str:
    """A face's name below `data/`."""
    return f"{synset}/{picture}_{'_'.join(map(str, box))}.jpg"


def cut_all(root: Root, boxes: Boxes, source: Path, progress: bool, workers: int | None = None) -> None:
    """Cuts every face that is not there yet, by parallel workers; the same bytes for any number of them.

    Args:
        root: To write to.
        boxes: By synset and picture.
        source: ImageNet's train tar, or a folder of its synsets.
        progress: A bar on stderr.
        workers: Threads; as many as there are cores if left out.

    Raises:
        UserError: The source is not whole or hostile, or a picture is missing or broken.
    """

    def cut(job: tuple[str, str, Callable[[], bytes]]) -> int:
        synset, picture, read = job
        missing = {box: face_name(synset, picture, box) for box in boxes[synset][picture]}
        missing = {box: name for box, name in missing.items() if not is_whole(root.data / name)}
        if missing:
            image = decoded(read(), f"{synset}/{picture}")
            for box, name in missing.items():
                buffer = io.BytesIO()
                image.crop(box).save(buffer, "JPEG")
                root.write(f"{DATA}/{name}", [buffer.getvalue()])
        return len(boxes[synset][picture])

    jobs = _from_folder(source, boxes) if source.is_dir() else _from_tar(source, boxes)
    total = sum(len(found) for pictures in boxes.values() for found in pictures.values())
    workers = workers or threads()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, desc="AnimalFaces", unit="img", disable=not progress, file=sys.stderr) as bar,
    ):
        while block := [job for _, job in zip(range(16 * workers), jobs)]:
            for count in pool.map(cut, block):
                bar.update(count)


def _from_folder(source: Path, boxes: Boxes) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    for synset in sorted(boxes):
        for picture in sorted(boxes[synset]):
            path = source / synset / picture

            def read(path: Path = path) -> bytes:
                try:
                    with open_regular(path) as file:
                        return file.read()
                except OSError as error:
                    raise UserError(
                        f"{path} cannot be read ({error.strerror}); give the whole ImageNet"
                    ) from None

            yield synset, picture, read


def _from_tar(source: Path, boxes: Boxes) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Pictures with faces, read in order; the bytes are in memory until they were cut."""
    tar = Tar.open(source)
    try:
        for synset, inner, _ in inner_tars(tar, lambda name: name in boxes):
            left = set(boxes[synset])
            for member in inner.members():
                if not is_picture(member.name, synset):
                    raise UserError(f"{inner.what} holds {member.name!r}, which is no picture of {synset}")
                if member.name in left:
                    left.remove(member.name)
                    data = inner.read(member)
                    yield synset, member.name, lambda data=data: data  # type: ignore[misc]
            if left:
                raise UserError(
                    f"{inner.what} lacks {len(left)} pictures, such as {min(left)}; fetch it anew"
                )
    finally:
        tar.close()


class AnimalFacesTrain(AnimalFaces):
    """93,404 faces of 119 kinds. See `PublishedSet`."""

    name, length, kinds, list_file = "AnimalFacesTrain", 93_404, 119, "animals_list_train.txt"
    title = "animal faces, 119 kinds, to train on"
    address = f"{FUNIT}/animals_list_train.txt"


class AnimalFacesTest(AnimalFaces):
    """24,080 faces of 30 kinds that AnimalFacesTrain has not. See `PublishedSet`."""

    name, length, kinds, list_file = "AnimalFacesTest", 24_080, 30, "animals_list_test.txt"
    title = "animal faces, 30 other kinds, for testing"
    address = f"{FUNIT}/animals_list_test.txt"


class AnimalFacesSharedTrain(AnimalFaces):
    """105,653 faces of 149 kinds. See `PublishedSet`."""

    name, length, kinds, list_file = "AnimalFacesSharedTrain", 105_653, 149, "shared_animalfaces_train.txt"
    title = "animal faces, all 149 kinds, to train on"
    address = f"{HEIBOX}/20cb4d546b304e5aba99/?dl=1"


class AnimalFacesSharedTest(AnimalFaces):
    """11,831 other faces of the same 149 kinds. See `PublishedSet`."""

    name, length, kinds, list_file = "AnimalFacesSharedTest", 11_831, 149, "shared_animalfaces_test.txt"
    title = "animal faces, all 149 kinds, for testing"
    address = f"{HEIBOX}/f44e33a5155b4b2fab47/?dl=1"


class AnimalFacesRestrictedTrain(AnimalFaces):
    """8,036 faces of ten kinds. See `PublishedSet`."""

    name, length, kinds, list_file = (
        "AnimalFacesRestrictedTrain",
        8_036,
        10,
        "restricted_animalfaces_train.txt",
    )
    title = "animal faces, ten kinds, to train on"
    address = f"{HEIBOX}/a82aa5471f534026ad4f/?dl=1"


class AnimalFacesRestrictedTest(AnimalFaces):
    """898 other faces of the same ten kinds. See `PublishedSet`."""

    name, length, kinds, list_file = "AnimalFacesRestrictedTest", 898, 10, "restricted_animalfaces_test.txt"
    title = "animal faces, ten kinds, for testing"
    address = f"{HEIBOX}/91fc6c34d16141afa6e4/?dl=1"
