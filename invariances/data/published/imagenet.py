"""ImageNet (ILSVRC2012) and its 149 kinds of carnivores, as published on academictorrents.com.

    train       ILSVRC2012_img_train.tar, 147,897,477,120 bytes, infohash a306397ccf9c2ead27155983c254227c0fd938e2
    validation  ILSVRC2012_img_val.tar, 6,744,924,160 bytes, infohash 5d6d0df7ed81efd49ca99ea4737e0ae5e3a5f2e5
    synsets of validation pictures
                validation_synset.txt, 1,950,000 bytes, https://heibox.uni-heidelberg.de/f/3e0f6e9c624e45f2bd73/?dl=1
    pictures    1,281,167 and 50,000 in 1,000 classes; of carnivores 7,450 for validation, in 149
    layout      data/<synset>/<name>.JPEG

The train tar holds a tar per synset; these are read where they lie, and of carnivores only theirs. Labels are places
among the 1,000 sorted synsets, of carnivores too (151 to 299). Licence: for research, by image-net.org; never shipped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from invariances.data.arrays import Array
from invariances.data.download import download
from invariances.data.published import torrents
from invariances.data.published.names import Names
from invariances.data.published.pictures import Crop, PublishedSet
from invariances.data.published.root import DATA, Root, check_source, counted, names_of
from invariances.data.published.tars import Tar
from invariances.system.errors import UserError

SYNSET = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg",)
CARNIVORES = slice(151, 300)
SYNSETS_OF_VALIDATION = "validation_synset.txt"
SYNSETS_OF_VALIDATION_AT = "https://heibox.uni-heidelberg.de/f/3e0f6e9c624e45f2bd73/?dl=1"
SYNSETS_OF_VALIDATION_SIZE = 1_950_000


@cache
def synsets() -> tuple[str, ...]:
    """The 1,000 synsets in order of their labels, which is their alphabet's."""
    return tuple((Path(__file__).with_name("synsets.txt")).read_text(encoding="utf-8").split())


@cache
def human_names() -> tuple[str, ...]:
    """What the 1,000 classes are called."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def carnivores() -> frozenset[str]:
    """The 149 synsets of carnivores."""
    return frozenset(synsets()[CARNIVORES])


class ImageNet(PublishedSet):
    """Pictures in folders by synset; see `PublishedSet`.

    Args:
        size, root, crop, views, seed, progress: As of every published data set.
        sub_indices: Only these labels, such as "900, 32-123, 256"; a range is without its end.
        use_superclasses: Each comma-separated group is one class, numbered in the order written.
    """

    archive: ClassVar[str]
    archive_size: ClassVar[int]
    infohash: ClassVar[str]
    animals: ClassVar[bool] = False

    def __init__(
        self,
        size: int = 128,
        root: Any = None,
        crop: Crop | None = None,
        views: int = 1,
        seed: int = 0,
        progress: bool = True,
        sub_indices: str | None = None,
        use_superclasses: bool = False,
    ) -> None:
        super().__init__(size, root, crop, views, seed, progress)
        if use_superclasses and sub_indices is None:
            raise UserError(
                "use_superclasses groups labels; give them as sub_indices, such as '151-269, 281-294'"
            )
        if sub_indices is not None:
            self._choose(sub_indices, use_superclasses)

    def _choose(self, text: str, superclasses: bool) -> None:
        groups = parse_indices(text)
        numbers = np.full(len(synsets()), -1)
        for k, group in enumerate(groups):
            numbers[list(group)] = k if superclasses else list(group)
        labels = numbers[self.labels]
        positions = np.flatnonzero(labels >= 0)
        self.names = self.names.at(positions)
        self.paths = type(self.paths)(self.paths.folder, self.names)
        self.labels = labels[positions]
        if superclasses:
            self.classes = [", ".join(dict.fromkeys(self.classes[k] for k in group)) for group in groups]

    @classmethod
    def wanted(cls, synset: str) -> bool:
        """Whether a synset belongs to the set."""
        return not cls.animals or synset in carnivores()

    def labelled(self, folders: list[str], numbers: Array) -> tuple[list[str], Array]:
        """ImageNet's own labels, 0 to 999, by the synsets that pictures lie in."""
        places = {synset: k for k, synset in enumerate(synsets())}
        odd = [name for name in folders if name not in places]
        if odd:
            raise UserError(
                f"{self.root.data} holds a folder {odd[0]!r}, which is no synset of ImageNet; move it away"
            )
        return list(human_names()), np.asarray([places[name] for name in folders], np.int64)[numbers]

    @classmethod
    def opened(cls, root: Root, progress: bool) -> tuple[Root, Names]:
        """As of every data set; carnivores are found in the whole ImageNet too, where that is here."""
        whole = None if cls.ready(root) else cls.elsewhere()
        if whole is None:
            return super().opened(root, progress)
        names = names_of(whole.list)
        folders, numbers = names.folders()
        wanted = np.asarray([cls.wanted(name) for name in folders])[numbers]
        return whole, names.at(np.flatnonzero(wanted))

    @classmethod
    def bring(cls, root: Root, source: Path | None, progress: bool) -> None:
        """As of every data set; `source` is the published tar, its folder, or a folder of synsets."""
        with root.locked(cls.name):
            if root.ready() and source is None:
                return
            root.sweep()
            source = cls._found(root, source, progress)
            if source is None or source.is_dir():
                cls._link(root, source)
            else:
                if root.data.is_symlink():
                    root.data.unlink()
                tar = Tar.open(source)
                try:
                    with tqdm(
                        total=tar.size,
                        desc=cls.name,
                        unit="B",
                        unit_scale=True,
                        disable=not progress,
                        file=sys.stderr,
                    ) as bar:
                        cls.extract(tar, root, lambda at: bar.update(at - bar.n))
                        bar.update(tar.size - bar.n)
                finally:
                    tar.close()
            count = counted(root.data, SUFFIXES, cls.wanted)
            if cls.length is not None and count != cls.length:
                raise UserError(
                    f"{cls.name} has {cls.length:,} pictures, and {root.data} holds {count:,}; give the whole archive "
                    f"with `invariances data prepare {cls.name} --from TAR`, and what is missing is filled in"
                )
            root.write_list(SUFFIXES, cls.wanted)
            root.mark()

    @classmethod
    def _found(cls, root: Root, source: Path | None, progress: bool) -> Path | None:
        """A tar or a folder to prepare from; None for pictures that are in place already."""
        if source is not None:
            check_source(source, f"{cls.archive} or a folder of synsets")
            inside = source / cls.archive
            return inside if source.is_dir() and inside.is_file() else source
        if cls.length is not None and counted(root.data, SUFFIXES, cls.wanted) == cls.length:
            return None
        target = cls._archive_of(root)
        if target.is_file():
            return target
        return torrents.fetch(cls.infohash, target, cls.archive_size, cls.other_way(), progress)

    @classmethod
    def _archive_of(cls, root: Root) -> Path:
        """Where the archive lies, or will."""
        home = Root.named(cls.folder.removesuffix("_animals")) if cls.animals else root
        here = root.path / cls.archive
        return here if here.is_file() else home.path / cls.archive

    @classmethod
    def lacking(cls, root: Root, source: Path | None = None) -> dict[str, str]:
        """As of every data set."""
        if source is not None or cls._archive_of(root).is_file():
            return {}
        return {cls.archive: f"{cls.archive_size / 1e9:.0f} GB, from image-net.org"}

    @classmethod
    def other_way(cls) -> str:
        """How to go on without BitTorrent."""
        return (
            f"get {cls.archive} from image-net.org and run `invariances data prepare {cls.name} --from "
            f"{cls.archive}`"
        )

    @classmethod
    def _link(cls, root: Root, source: Path | None) -> None:
        """Takes a folder of synsets as it is, without a copy."""
        if source is None:
            return
        folder = next((each for each in (source / DATA, source) if _synsets_in(each)), None)
        if folder is None:
            raise UserError(
                f"{str(source)!r} holds neither {cls.archive} nor folders named as synsets (n01440764, …)"
            )
        missing = {name for name in synsets() if cls.wanted(name)} - set(_synsets_in(folder))
        if missing and cls.length is None:
            raise UserError(
                f"{str(folder)!r} lacks the synsets {', '.join(sorted(missing)[:5])}; give all of them"
            )
        if root.data.is_symlink() or not root.data.exists():
            root.data.unlink(missing_ok=True)
            root.data.symlink_to(folder.resolve(), target_is_directory=True)
        elif folder.resolve() != root.data.resolve():
            raise UserError(f"{root.data} is there already; remove it, or leave --from out")

    @classmethod
    def extract(cls, tar: Tar, root: Root, reached: Callable[[int], object]) -> None:
        """Writes the pictures of an archive that are not there yet; tells the bytes that were passed."""
        raise NotImplementedError


def _synsets_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in folder.iterdir() if SYNSET.fullmatch(entry.name) and entry.is_dir()]


def parse_indices(text: str) -> list[range]:
    """Groups of labels out of "900, 32-123, 256"; a range is without its end.

    Raises:
        UserError: It is of another form, or beyond 0 to 999.
    """
    groups = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", word)
        first = int(found.group(1)) if found else -1
        last = int(found.group(2)) if found and found.group(2) else first + 1
        if not 0 <= first < last <= len(synsets()):
            raise UserError(
                f"sub_indices has {word.strip()!r}; give labels such as '900, 32-123', ranges without end"
            )
        groups.append(range(first, last))
    return groups


def inner_tars(tar: Tar, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tar, int]]:
    """(synset, its tar, where it ends) of the wanted synsets in the train archive; the others are sought past.

    Raises:
        UserError: The archive holds something else, or lacks a synset that is wanted.
    """
    found = set()
    for member in tar.members():
        synset = member.name.removesuffix(".tar")
        if synset == member.name or not SYNSET.fullmatch(synset):
            raise UserError(
                f"{tar.what} holds {member.name!r}, and a tar per synset was expected; give the train tar"
            )
        found.add(synset)
        if wanted(synset):
            yield synset, tar.inner(member), member.start + member.size
    missing = [name for name in synsets() if wanted(name) and name not in found]
    if missing:
        raise UserError(f"{tar.what} lacks {len(missing)} synsets, such as {missing[0]}; fetch it anew")


def is_picture(name: str, synset: str) -> bool:
    """Whether a name is that of a synset's train picture."""
    return re.fullmatch(rf"{synset}_\d+\.JPEG", name) is not None


class ImageNetTrain(ImageNet):
    """1,281,167 pictures of 1,000 classes; random crops unless told otherwise. See `ImageNet`."""

    name, folder = "ImageNetTrain", "ILSVRC2012_train"
    length: ClassVar[int | None] = 1_281_167
    title = "ImageNet, 1,000 classes, to train on"
    archive, archive_size = "ILSVRC2012_img_train.tar", 147_897_477_120
    infohash = "a306397ccf9c2ead27155983c254227c0fd938e2"
    fetches = "148 GB over BitTorrent"
    own_crop: ClassVar[Crop] = "random"

    @classmethod
    def extract(cls, tar: Tar, root: Root, reached: Callable[[int], object]) -> None:
        """As of `ImageNet`: the inner tars are read where they lie."""
        for synset, inner, end in inner_tars(tar, cls.wanted):
            for member in inner.members():
                if not is_picture(member.name, synset):
                    raise UserError(f"{inner.what} holds {member.name!r}, which is no picture of {synset}")
                place = f"{DATA}/{synset}/{member.name}"
                if not root.holds(place, member.size):
                    root.write(place, [inner.read(member)])
            reached(end)


class ImageNetValidation(ImageNet):
    """50,000 pictures of 1,000 classes. See `ImageNet`."""

    name, folder = "ImageNetValidation", "ILSVRC2012_validation"
    length: ClassVar[int | None] = 50_000
    title = "ImageNet, 1,000 classes, for validation"
    archive, archive_size = "ILSVRC2012_img_val.tar", 6_744_924_160
    infohash = "5d6d0df7ed81efd49ca99ea4737e0ae5e3a5f2e5"
    fetches = "6.7 GB over BitTorrent"

    @classmethod
    def extract(cls, tar: Tar, root: Root, reached: Callable[[int], object]) -> None:
        """As of `ImageNet`: pictures are sorted into synsets by the published list."""
        homes = cls._homes(root, tar.path.parent)
        for member in tar.members():
            synset = homes.get(member.name)
            if synset is None:
                raise UserError(
                    f"{tar.what} holds {member.name!r}, which {SYNSETS_OF_VALIDATION} does not name"
                )
            place = f"{DATA}/{synset}/{member.name}"
            if cls.wanted(synset) and not root.holds(place, member.size):
                root.write(place, [tar.read(member)])
            reached(member.start + member.size)

    @classmethod
    def lacking(cls, root: Root, source: Path | None = None) -> dict[str, str]:
        """As of every data set."""
        archive = source or cls._archive_of(root)
        listed = cls._synsets_of(root, archive if archive.is_dir() else archive.parent).is_file()
        return super().lacking(root, source) | (
            {} if listed else {SYNSETS_OF_VALIDATION: SYNSETS_OF_VALIDATION_AT}
        )

    @classmethod
    def _synsets_of(cls, root: Root, beside: Path) -> Path:
        """Where the list of synsets lies, or will."""
        own, given = root.path / SYNSETS_OF_VALIDATION, beside / SYNSETS_OF_VALIDATION
        return given if given.is_file() and not own.is_file() else own

    @classmethod
    def _homes(cls, root: Root, beside: Path) -> dict[str, str]:
        """Synset by file name."""
        path = cls._synsets_of(root, beside)
        if not path.is_file():
            download(SYNSETS_OF_VALIDATION_AT, path, size=SYNSETS_OF_VALIDATION_SIZE)
        homes = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, synset = line.strip().partition(" ")
            if not re.fullmatch(r"[\w-]+\.JPEG", name) or not SYNSET.fullmatch(synset):
                raise UserError(
                    f"{path} has a line {line[:60]!r}, and 'NAME.JPEG SYNSET' was expected; delete it"
                )
            homes[name] = synset
        return homes


class ImageNetAnimalsTrain(ImageNetTrain):
    """The pictures of ImageNetTrain that show one of 149 kinds of carnivores. See `ImageNet`."""

    name, folder = "ImageNetAnimalsTrain", "ILSVRC2012_train_animals"
    length: ClassVar[int | None] = None
    title = "ImageNet's 149 kinds of carnivores, to train on"
    animals = True

    @classmethod
    def elsewhere(cls) -> Root | None:
        """The whole train set, where it is ready."""
        root = ImageNetTrain.root_of()
        return root if root.ready() else None


class ImageNetAnimalsValidation(ImageNetValidation):
    """The pictures of ImageNetValidation that show one of 149 kinds of carnivores. See `ImageNet`."""

    name, folder = "ImageNetAnimalsValidation", "ILSVRC2012_validation_animals"
    length: ClassVar[int | None] = 7_450
    title = "ImageNet's 149 kinds of carnivores, for validation"
    animals = True

    @classmethod
    def elsewhere(cls) -> Root | None:
        """The whole validation set, where it is ready."""
        root = ImageNetValidation.root_of()
        return root if root.ready() else None
