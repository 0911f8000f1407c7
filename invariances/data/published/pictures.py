"""What all data sets of a known name have in common: how they open, are cut, split, told apart and checked."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from invariances.data.arrays import Array, from_uint8
from invariances.data.files import BrokenImage
from invariances.data.parallel import in_parallel, threads
from invariances.data.published.decoding import pixels
from invariances.data.published.names import Names
from invariances.data.published.resizing import square
from invariances.data.published.root import DATA, FILE_LIST, Root, names_of
from invariances.data.splitting import held_out_places, is_whole
from invariances.system.errors import NotHere, UserError, listing

Crop = Literal["center", "random"]


class Paths(Sequence[str]):
    """The files of some names below a folder, made as they are asked for."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Paths(self.folder, self.names[index])
        return os.path.join(self.folder, self.names[index])


class PublishedSet(Dataset[dict[str, Any]]):
    """A data set of a known name as items `{image, label, name, path, index}`.

    Images are resized as published: shortest side to `size`, bilinear and without antialiasing, then a square is cut;
    orientations in EXIF blocks are ignored and alpha is dropped.

    Args:
        size: Side of the square images, pixels; 0 leaves pictures as large as they are.
        root: The data set's folder; by default where the published system keeps it.
        crop: "center" or "random" (a square that moves along the longer side, a function of seed, name and view);
            by default as published for this set.
        views: Random crops per picture, item i being view `i % views` of picture `i // views`.
        seed: Of random crops.
        progress: Bars on stderr while something is fetched or prepared.

    Attributes:
        names, paths, labels: Per picture. classes: The classes' names, by label.

    Raises:
        UserError: The data set is not here and cannot be had, or an option is impossible.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    length: ClassVar[int | None]
    folder: ClassVar[str]
    inside: ClassVar[str] = DATA
    list_file: ClassVar[str] = FILE_LIST
    own_crop: ClassVar[Crop] = "center"
    fetches: ClassVar[str] = ""
    """What has to be fetched, and how much."""

    def __init__(
        self,
        size: int = 128,
        root: str | os.PathLike[str] | None = None,
        crop: Crop | None = None,
        views: int = 1,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        crop = crop or self.own_crop
        if crop not in ("center", "random"):
            raise UserError(f"crop {crop!r} is unknown; use 'center' or 'random'")
        if not is_whole(size) or size < 0 or not is_whole(views) or views < 1:
            raise UserError(f"size ({size}) must be at least 0 and views ({views}) at least 1")
        if views > 1 and (crop == "center" or not size):
            raise UserError(
                f"views={views} asks for several crops of a picture; set crop='random' and a size"
            )
        self.size, self.crop, self.views, self.seed, self.progress = size, crop, views, seed, progress
        self.root, self.names = self.opened(self.root_of(root), progress)
        self.paths = Paths(str(self.root.path / self.inside), self.names)
        folders, numbers = self.names.folders()
        self.classes, self.labels = self.labelled(folders, numbers)

    @classmethod
    def root_of(cls, folder: str | os.PathLike[str] | None = None) -> Root:
        """The data set's folder, by default the published one."""
        return Root(folder) if folder is not None else Root.named(cls.folder)

    @classmethod
    def ready(cls, root: Root) -> bool:
        """Whether the data set is whole and marked."""
        return root.ready([cls.list_file])

    @classmethod
    def elsewhere(cls) -> Root | None:
        """A larger data set's folder that holds this one too, where it is ready."""
        return None

    @classmethod
    def opened(cls, root: Root, progress: bool) -> tuple[Root, Names]:
        """Where the pictures lie, and their names there, after what is missing was fetched and prepared."""
        if not cls.ready(root):
            cls.prepare(root, None, progress)
        return root, names_of(root.path / cls.list_file)

    @classmethod
    def prepare(cls, root: Root, source: Path | None = None, progress: bool = True) -> None:
        """Brings the published layout into the folder, from `source` or from where it is published.

        Raises:
            NotHere: It cannot be had; names all files that are missing.
            UserError: It is not whole, or is hostile.
        """
        try:
            cls.bring(root, source, progress)
        except NotHere as error:
            files = cls.lacking(root, source)
            shown = listing([f"{name} ({address})" for name, address in files.items()])
            verb, them, place = ("is", "it", "a") if len(files) == 1 else ("are", "them", "one")
            way = f"into {place} folder and run `invariances data prepare {cls.name} --from FOLDER`"
            if source is not None:
                way = f"{'into' if source.is_dir() else 'beside'} {source} and run the same again"
            raise NotHere(
                f"{cls.name} needs {shown}, which {verb} not here ({error.reason}); put {them} {way}",
                error.reason,
            ) from error

    @classmethod
    def bring(cls, root: Root, source: Path | None, progress: bool) -> None:
        """What `prepare` does."""
        raise NotImplementedError

    @classmethod
    def lacking(cls, root: Root, source: Path | None = None) -> dict[str, str]:
        """Files that have to be fetched, and from where, to prepare the set from what is here."""
        raise NotImplementedError

    def labelled(self, folders: list[str], numbers: Array) -> tuple[list[str], Array]:
        """Class names and labels out of the folders that pictures lie in: sorted, numbered from 0."""
        return folders, numbers

    def __len__(self) -> int:
        return len(self.names) * self.views

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._item(range(len(self))[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items at `indices`, decoded on all cores (on one, inside of a loader's worker)."""
        wanted = [range(len(self))[index] for index in indices]
        if torch.utils.data.get_worker_info() is not None:
            return [self._item(index) for index in wanted]
        with ThreadPoolExecutor(threads()) as pool:
            return list(pool.map(self._item, wanted))

    def _item(self, index: int) -> dict[str, Any]:
        picture, view = divmod(index, self.views)
        label = int(self.labels[picture])
        return {
            "image": self._image(picture, view),
            "label": label,
            "name": self.classes[label],
            "path": self.paths[picture],
            "index": index,
        }

    def _image(self, picture: int, view: int) -> Tensor:
        array = pixels(self.paths[picture])
        if self.size:
            along = 0.5
            if self.crop == "random":
                name = zlib.crc32(os.fsencode(self.names[picture]))
                along = float(np.random.default_rng([self.seed, name, view]).random())
            array = square(array, self.size, along)
        return from_uint8(torch.from_numpy(np.array(array))[None])[0]

    def fingerprint(self) -> str:
        """Hash of the pictures' names, the set's list and how pictures are cut."""
        policy = [self.name, self.size, self.crop, self.views, self.seed if self.crop == "random" else None]
        return hashlib.sha256(f"{policy} {self.names.fingerprint()}".encode()).hexdigest()

    def subset(self, positions: Sequence[int]) -> PublishedSet:
        """The same data set with only the pictures at these positions, in this order."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.names = self.names.at(positions)
        part.paths = Paths(self.paths.folder, part.names)
        part.labels = self.labels[np.asarray(positions, dtype=np.int64)]
        return part

    def split(self, held_out: float | int = 0.1, seed: int = 0) -> tuple[PublishedSet, PublishedSet]:
        """(train, held_out) by a hash of each picture's name, as of folders."""
        held = held_out_places(self.names, held_out, seed)
        kept = np.ones(len(self.names), bool)
        kept[held] = False
        return self.subset(np.flatnonzero(kept).tolist()), self.subset(held)

    def cropped(self, views: int) -> PublishedSet:
        """The same pictures, `views` random crops of each."""
        part = self.subset(range(len(self.names)))
        part.crop, part.views = "random", views
        return part

    def centred(self) -> PublishedSet:
        """The same pictures, each once, cut to the middle square."""
        part = self.subset(range(len(self.names)))
        part.crop, part.views = "center", 1
        return part

    def broken(self) -> list[str]:
        """A sentence for each picture that is missing or cannot be read; every one is decoded."""

        def reason(path: str) -> str | None:
            try:
                pixels(path)
            except BrokenImage as error:
                return str(error)
            return None

        reasons = in_parallel(reason, self.paths, f"verifying {self.name}", self.progress)
        return [text for text in reasons if text]
