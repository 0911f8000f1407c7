"""Tiny sets of the published form, through the whole preparation, and killed in the midst of it."""

import io
import os
import random
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from invariances.data import by_name
from invariances.data.identity import identify, overlap
from invariances.data.published import animalfaces, awa2, imagenet
from invariances.data.published.animalfaces import (
    AnimalFacesSharedTest,
    AnimalFacesSharedTrain,
    cut_all,
    read_boxes,
)
from invariances.data.published.awa2 import AwA2Test, AwA2Train
from invariances.data.published.imagenet import (
    ImageNetAnimalsTrain,
    ImageNetAnimalsValidation,
    ImageNetTrain,
    ImageNetValidation,
)
from invariances.data.published.root import Root
from invariances.system.errors import NotHere, UserError

EVERY = [
    ImageNetTrain,
    ImageNetValidation,
    ImageNetAnimalsTrain,
    ImageNetAnimalsValidation,
    AnimalFacesSharedTrain,
    AwA2Train,
]

EVERY_FILE = sorted(
    [
        ImageNetTrain.archive,
        ImageNetValidation.archive,
        "validation_synset.txt",
        awa2.ARCHIVE,
        AnimalFacesSharedTrain.list_file,
        animalfaces.COORDINATES,
    ]
)


def source_of(kind, sources):
    archive = getattr(kind, "archive", awa2.ARCHIVE if issubclass(kind, awa2.AwA2) else None)
    return sources / (archive or ImageNetTrain.archive)


def prepared(kind, tiny, root):
    kind.prepare(Root(root), source_of(kind, tiny.sources), progress=False)
    return kind(size=16, root=root)


def test_imagenets_train_tar_gives_every_picture(tiny, tmp_path):
    data = prepared(ImageNetTrain, tiny, tmp_path / "root")
    assert list(data.names) == sorted(f"{s}/{name}" for s in tiny.train for name in tiny.train[s])
    for name, path in zip(data.names, data.paths, strict=True):
        with open(path, "rb") as file:
            assert file.read() == tiny.train[name.split("/")[0]][name.split("/")[1]]
    item = data[17]
    assert item["label"] == 4
    assert item["name"] == "toaster"
    assert item["path"].endswith("data/n00000005/n00000005_2.JPEG")
    assert item["index"] == 17
    assert item["image"].shape == (3, 16, 16)
    assert (tmp_path / "root" / "filelist.txt").read_text().splitlines() == list(data.names)


def test_validation_pictures_are_sorted_into_their_synsets(tiny, tmp_path):
    data = prepared(ImageNetValidation, tiny, tmp_path / "root")
    assert {name.split("/")[1]: name.split("/")[0] for name in data.names} == tiny.homes
    assert all(os.path.getsize(path) for path in data.paths)


def test_carnivores_keep_imagenets_labels_and_only_their_synsets_are_read(tiny, tmp_path, monkeypatch):
    read = []
    real = imagenet.Tar.read
    monkeypatch.setattr(
        imagenet.Tar, "read", lambda self, member: read.append(member.name) or real(self, member)
    )
    data = prepared(ImageNetAnimalsTrain, tiny, tmp_path / "root")
    assert sorted({name.split("_")[0] for name in read}) == list(tiny.carnivores)
    assert sorted(set(data.labels.tolist())) == [1, 2, 3]
    assert len(data) == 12
    assert {data[k]["name"] for k in range(12)} == {"red fox", "lynx", "lion"}
    assert len(prepared(ImageNetAnimalsValidation, tiny, tmp_path / "other")) == 6


def test_carnivores_are_found_in_the_whole_imagenet(tiny):
    ImageNetTrain.prepare(ImageNetTrain.root_of(), tiny.tar, progress=False)
    data = ImageNetAnimalsTrain(size=8)
    assert len(data) == 12
    assert "ILSVRC2012_train/" in data.paths[0]
    assert not ImageNetAnimalsTrain.root_of().path.exists()


def test_labels_can_be_chosen_and_grouped(tiny, tmp_path):
    root = tmp_path / "root"
    prepared(ImageNetTrain, tiny, root)
    chosen = ImageNetTrain(8, root, sub_indices="4, 1-3")
    assert sorted(set(chosen.labels.tolist())) == [1, 2, 4]
    assert len(chosen) == 12
    grouped = ImageNetTrain(8, root, sub_indices="4, 1-3", use_superclasses=True)
    assert grouped.classes == ["toaster", "red fox, lynx"]
    assert [grouped.labels.tolist().count(k) for k in (0, 1)] == [4, 8]
    for wrong in ("", "3-1", "2-2", "1000", "a", "1;2", "-1", "0-6"):
        with pytest.raises(UserError, match="sub_indices has"):
            ImageNetTrain(8, root, sub_indices=wrong)
    with pytest.raises(UserError, match="use_superclasses"):
        ImageNetTrain(8, root, use_superclasses=True)


def test_faces_are_cut_by_corners_and_named_by_them(tiny, tmp_path):
    data = prepared(AnimalFacesSharedTrain, tiny, tmp_path / "root")
    test = AnimalFacesSharedTest(size=16, root=tmp_path / "root")  # its crops are there; its list is beside
    assert sorted([*data.names, *test.names]) == tiny.names
    assert overlap(identify(data), identify(test)) == []
    assert len({*data.labels.tolist()}) == 3
    for name, path in zip(data.names, data.paths, strict=True):
        synset, rest = name.split("/")
        picture, *corners = rest.removesuffix(".jpg").rsplit("_", 4)
        box = tuple(map(int, corners))
        whole = Image.open(io.BytesIO(tiny.train[synset][picture]))
        file = io.BytesIO()
        whole.crop(box).save(file, "JPEG")
        with open(path, "rb") as written:
            assert written.read() == file.getvalue()
        assert Image.open(path).size == (box[2] - box[0], box[3] - box[1])


@pytest.fixture(autouse=True)
def lists_beside(tiny, tmp_path):
    """Lists that come of the web are put into roots by hand, as a user offline would."""
    for name in ("root", "other", "again"):
        (tmp_path / name).mkdir()
        for kind in (AnimalFacesSharedTest,):
            shutil.copy(tiny.sources / kind.list_file, tmp_path / name / kind.list_file)


def test_crops_are_the_same_bytes_for_any_number_of_workers_tar_or_folder(tiny, tmp_path):
    boxes = read_boxes(tiny.sources / animalfaces.COORDINATES)
    folder = tmp_path / "folder"
    for synset, pictures in tiny.train.items():
        (folder / synset).mkdir(parents=True)
        for name, data in pictures.items():
            (folder / synset / name).write_bytes(data)
    trees = []
    for workers, source in ((1, tiny.tar), (2, tiny.tar), (7, tiny.tar), (3, folder)):
        root = tmp_path / f"w{workers}"
        cut_all(Root(root), boxes, source, False, workers)
        trees.append(tiny.tree(root))
    assert all(each == trees[0] for each in trees)
    assert sorted(trees[0]) == [f"data/{name}" for name in tiny.names]


def test_awa2_is_split_over_the_sorted_list(tiny, tmp_path):
    train = prepared(AwA2Train, tiny, tmp_path / "root")
    test = AwA2Test(size=8, root=tmp_path / "root")
    every = sorted(tiny.awa2)
    drawn = np.random.RandomState(1).choice(12, size=4, replace=False)
    assert list(test.names) == [every[k] for k in sorted(drawn)]
    assert sorted([*train.names, *test.names]) == every
    assert train.classes == ["antelope", "grizzly+bear", "zebra"]
    assert train.crop == "random"
    assert test.crop == "center"
    assert (tmp_path / "root" / "classes.txt").read_text().split() == train.classes
    (tmp_path / "root" / "train.txt").unlink()
    again = AwA2Train(size=8, root=tmp_path / "root")
    assert list(again.names) == list(train.names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY)
def test_killed_at_any_moment_the_tree_ends_the_same(kind, tiny, tmp_path, monkeypatch):
    whole, root = tmp_path / "again", tmp_path / "root"
    monkeypatch.setattr("invariances.data.published.root.os.sync", lambda: None)
    tqdm.set_lock(threading.RLock())  # its own is shared with children, and would die with them
    start = time.monotonic()
    prepared(kind, tiny, whole)
    window = time.monotonic() - start
    lists = tiny.tree(root)
    moments = random.Random(kind.name)
    killed = 0
    for _ in range(400):
        child = os.fork()
        if not child:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                kind.prepare(Root(root), source_of(kind, tiny.sources), progress=False)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.0005, max(0.002, window)))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
            killed += 1
        else:  # it was done before: begin again, and look earlier
            window *= 0.8
            shutil.rmtree(root)
            root.mkdir()
            for name, data in lists.items():
                (root / name).write_bytes(data)
        if killed == 20:
            break
    assert killed == 20
    kind.prepare(Root(root), source_of(kind, tiny.sources), progress=False)
    assert tiny.tree(root) == tiny.tree(whole)


def test_the_mark_comes_last_and_lengths_are_checked_before_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageNetTrain, "length", 21)
    with pytest.raises(UserError, match=r"has 21 pictures, and .*data holds 20; give the whole archive"):
        ImageNetTrain.prepare(Root(tmp_path / "root"), tiny.tar, progress=False)
    assert not (tmp_path / "root" / ".ready").exists()
    assert not ImageNetTrain.ready(Root(tmp_path / "root"))


def test_a_published_mark_on_a_broken_extraction_is_not_believed(tiny, tmp_path):
    root = tmp_path / "root"
    prepared(ImageNetTrain, tiny, root)
    (root / ".ready").write_text("")
    (root / "data" / tiny.synsets[2] / f"{tiny.synsets[2]}_3.JPEG").unlink()
    (root / "data" / tiny.synsets[0] / f"{tiny.synsets[0]}_1.JPEG").write_bytes(b"half")
    with pytest.raises(UserError, match="INVARIANCES_OFFLINE"):
        ImageNetTrain(size=8, root=root)
    shutil.copy(tiny.tar, root)
    data = ImageNetTrain(size=8, root=root)
    with open(data.paths[0], "rb") as file:
        assert file.read() == tiny.train[tiny.synsets[0]][f"{tiny.synsets[0]}_1.JPEG"]
    assert len(data) == 20


def test_the_published_layout_is_used_as_it_is(tiny, tmp_path):
    root = tmp_path / "root"
    for synset, pictures in tiny.train.items():
        (root / "data" / synset).mkdir(parents=True)
        for name, data in pictures.items():
            (root / "data" / synset / name).write_bytes(data)
    (root / ".ready").write_text("")
    assert len(ImageNetTrain(size=8, root=root)) == 20
    assert ImageNetTrain.ready(Root(root))


def test_a_half_written_face_is_cut_again(tiny, tmp_path):
    root = tmp_path / "root"
    prepared(AnimalFacesSharedTrain, tiny, root)
    whole = tiny.tree(root)
    victim = root / "data" / tiny.names[0]
    victim.write_bytes(victim.read_bytes()[:-10])
    (root / ".ready").unlink()
    prepared(AnimalFacesSharedTrain, tiny, root)
    assert tiny.tree(root) == whole


@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_of_synsets_is_linked_and_not_copied(tiny, tmp_path, inside):
    folder = tmp_path / "mine"
    for synset, pictures in tiny.train.items():
        (folder / inside / synset).mkdir(parents=True)
        for name, data in pictures.items():
            (folder / inside / synset / name).write_bytes(data)
    before = tiny.tree(folder)
    ImageNetTrain.prepare(Root(tmp_path / "root"), folder, progress=False)
    assert (tmp_path / "root" / "data").is_symlink()
    assert len(ImageNetTrain(8, tmp_path / "root")) == 20
    ImageNetTrain.prepare(
        Root(tmp_path / "root"), tiny.tar, progress=False
    )  # the archive never writes into it
    assert not (tmp_path / "root" / "data").is_symlink()
    assert tiny.tree(folder) == before


def test_cut_faces_are_taken_from_a_folder(tiny, tmp_path):
    made = prepared(AnimalFacesSharedTrain, tiny, tmp_path / "root")
    (tmp_path / "root" / "data").rename(tmp_path / "faces")
    shutil.copy(tiny.sources / AnimalFacesSharedTrain.list_file, tmp_path / "other")
    AnimalFacesSharedTrain.prepare(Root(tmp_path / "other"), tmp_path / "faces", progress=False)
    assert list(AnimalFacesSharedTrain(8, tmp_path / "other").names) == list(made.names)


def test_faces_come_of_an_imagenet_that_is_ready(tiny):
    ImageNetTrain.prepare(ImageNetTrain.root_of(), tiny.tar, progress=False)
    root = AnimalFacesSharedTrain.root_of()
    root.path.mkdir(parents=True)
    for name in (animalfaces.COORDINATES, AnimalFacesSharedTrain.list_file):
        shutil.copy(tiny.sources / name, root.path)
    data = by_name("AnimalFacesSharedTrain", 16)
    assert len(data) == AnimalFacesSharedTrain.length
    assert data[0]["image"].dtype == torch.float32


def told(kind, source=None):
    with pytest.raises(NotHere) as error:
        kind.prepare(kind.root_of(), source, progress=False)
    assert error.value.reason == "INVARIANCES_OFFLINE is set"
    return str(error.value)


def test_all_files_that_are_missing_are_named_and_putting_them_into_a_folder_suffices(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    asked = {
        ImageNetTrain: [ImageNetTrain.archive],
        ImageNetAnimalsTrain: [ImageNetTrain.archive],
        ImageNetValidation: [ImageNetValidation.archive, "validation_synset.txt"],
        AwA2Train: [awa2.ARCHIVE],
        AnimalFacesSharedTrain: [
            AnimalFacesSharedTrain.list_file,
            animalfaces.COORDINATES,
            ImageNetTrain.archive,
        ],
    }
    for number, (kind, files) in enumerate(asked.items()):
        sentence = told(kind)
        assert [file for file in EVERY_FILE if file in sentence] == sorted(files)
        assert f"put {'it' if len(files) == 1 else 'them'} into " in sentence
        assert f"`invariances data prepare {kind.name} --from FOLDER`" in sentence
        folder = tmp_path / f"by hand {number}"
        folder.mkdir()
        for file in files:
            shutil.copy(tiny.sources / file, folder)
        kind.prepare(Root(tmp_path / f"root {number}"), folder, progress=False)


def test_what_is_here_is_not_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "apart").mkdir()
    tar = tmp_path / "apart" / ImageNetTrain.archive
    shutil.copy(tiny.tar, tar)
    sentence = told(AnimalFacesSharedTrain, tar)
    assert f"put them beside {tar} and run the same again" in sentence
    assert "image-net.org" not in sentence
    shutil.copy(tiny.sources / animalfaces.COORDINATES, tmp_path / "apart")
    sentence = told(AnimalFacesSharedTrain, tmp_path / "apart")
    assert f"needs {AnimalFacesSharedTrain.list_file} (https://" in sentence
    assert f"which is not here (INVARIANCES_OFFLINE is set); put it into {tmp_path / 'apart'} and" in sentence
    assert animalfaces.COORDINATES not in sentence


@pytest.mark.parametrize("kind", EVERY)
def test_sources_that_are_not_there_or_something_else(kind, tiny, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        kind.prepare(Root(tmp_path / "root"), tmp_path / "nowhere", progress=False)
    (tmp_path / "text").write_text("hello " * 1000)
    for name in (AnimalFacesSharedTrain.list_file, animalfaces.COORDINATES, "validation_synset.txt"):
        shutil.copy(tiny.sources / name, tmp_path / "root")
    with pytest.raises(UserError, match=r"is no plain tar|is no whole zip"):
        kind.prepare(Root(tmp_path / "root"), tmp_path / "text", progress=False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no regular file"):
        kind.prepare(Root(tmp_path / "root"), tmp_path / "pipe", progress=False)


def test_an_archive_that_was_not_fetched_whole(tiny, tmp_path):
    whole = tiny.tar.read_bytes()
    for count in (700, 5000, len(whole) // 2, len(whole) - 11_000):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:count])
        with pytest.raises(UserError, match=r"not fetched whole|damaged|lacks"):
            ImageNetTrain.prepare(Root(tmp_path / "root"), cut, progress=False)
    ImageNetTrain.prepare(Root(tmp_path / "root"), tiny.tar, progress=False)
    prepared(ImageNetTrain, tiny, tmp_path / "again")
    shutil.rmtree(tmp_path / "other")
    assert tiny.tree(tmp_path / "root") == tiny.tree(tmp_path / "again")


def test_archives_of_something_else(tiny, tmp_path):
    for files, words in (
        ({"n00000001.tar": tiny.tar_of({"n00000002_1.JPEG": tiny.jpeg(1)})}, "no picture of n00000001"),
        ({"a.txt": b"x"}, "a tar per synset was expected"),
        ({"n00000001.tar": tiny.tar_of({"n00000001_1.JPEG": tiny.jpeg(1)})}, "lacks 4 synsets"),
    ):
        (tmp_path / "odd.tar").write_bytes(tiny.tar_of(files))
        with pytest.raises(UserError, match=words):
            ImageNetTrain.prepare(Root(tmp_path / "root"), tmp_path / "odd.tar", progress=False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("n00000002/n00000002_1.JPEG 1 2 3", "no face"),
        ("../n00000002/n00000002_1.JPEG 1 2 3 4", "no face"),
        ("n00000002/n00000003_1.JPEG 1 2 3 4", "no face"),
        ("n00000002/n00000002_1.JPEG 5 2 3 4", "box is none"),
        ("n00000002/n00000002_1.JPEG 0 0 0 4", "box is none"),
        ("n00000002/n00000002_1.JPEG 0 0 999999 999999", "box is none"),
    ],
)
def test_boxes_that_are_none(tmp_path, line, words):
    (tmp_path / "boxes.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=words):
        read_boxes(tmp_path / "boxes.txt")


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(tiny, tmp_path, monkeypatch):
    real = imagenet.Root.write
    written = []

    def full(self, relative, parts):
        if len(written) == 7:
            raise OSError(28, "No space left on device")
        written.append(relative)
        real(self, relative, parts)

    monkeypatch.setattr(imagenet.Root, "write", full)
    with pytest.raises(UserError, match=r"No space left on device\); mend that and run again"):
        ImageNetTrain.prepare(Root(tmp_path / "root"), tiny.tar, progress=False)
    monkeypatch.setattr(imagenet.Root, "write", real)
    assert len(prepared(ImageNetTrain, tiny, tmp_path / "root")) == 20


def test_lists_of_another_length_are_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(AnimalFacesSharedTrain, "length", 3)
    with pytest.raises(UserError, match=r"lists \d+ pictures of 3 kinds, and AnimalFacesSharedTrain has 3"):
        AnimalFacesSharedTrain.prepare(Root(tmp_path / "root"), tiny.tar, progress=False)
