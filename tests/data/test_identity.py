"""Pictures are told by content, whatever they are called and through whatever data set they come."""

import gzip
import hashlib
import os
import shutil
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset

from invariances.data import identity
from invariances.data.identity import Identity, identify, overlap, shared, without
from invariances.data.images import ImageFolder
from invariances.data.shapes import Shapes
from invariances.system.errors import UserError


class Plain(Dataset):
    """Items of a user's own, without files."""

    def __init__(self, count, first=0):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(first + count, 3, 4, 4, generator=generator)[first:] * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}


def test_a_files_identity_is_its_bytes(tmp_path, fill):
    data = ImageFolder(fill(tmp_path / "a", 3), size=8)
    found = identify(data)
    for k, path in enumerate(data.paths):
        content = path.read_bytes()
        assert found.names[k] == path.name
        assert found.sizes[k] == len(content)
        assert (
            found.hashes.tobytes()[16 * k : 16 * k + 16] == hashlib.blake2b(content, digest_size=16).digest()
        )


def test_renamed_copied_and_moved_files_are_found(tmp_path, fill):
    known = identify(ImageFolder(fill(tmp_path / "a", 8), size=8))
    fill(tmp_path / "b", 5, first=20)
    shutil.copy(tmp_path / "a" / "03.png", tmp_path / "b" / "other.png")
    os.link(tmp_path / "a" / "06.png", tmp_path / "b" / "linked.jpg")
    asked = ImageFolder(tmp_path / "b", size=16, crop="random")
    assert overlap(known, identify(asked)) == ["linked.jpg", "other.png"]
    assert shared(known, identify(asked)).sum() == 2
    rest, count = without(asked, known)
    assert count == 2
    assert rest.names == [f"{k}.png" for k in range(20, 25)]


def test_sides_of_a_split_share_nothing(tmp_path, fill):
    train, held = ImageFolder(fill(tmp_path, 20), size=8).split(0.3)
    assert overlap(identify(train), identify(held)) == []
    same, count = without(held, identify(train))
    assert same is held
    assert count == 0
    assert without(train, identify(train)) == (None, len(train))


def test_parts_and_concatenations_are_told_by_their_files(tmp_path, fill):
    a = ImageFolder(fill(tmp_path / "a", 6), size=8)
    b = ImageFolder(fill(tmp_path / "b", 4), size=8, crop="random", views=3)
    both = ConcatDataset([a, Subset(b, [11, 0, 1])])
    found = identify(both)
    assert found.names == [*a.names, "03.png", "00.png", "00.png"]
    assert found == identify(a) + identify(Subset(b, [11, 0, 1]))
    assert identify(Subset(both, [6, 0])).names == ["03.png", "00.png"]
    assert identify(b).names == b.names
    assert overlap(identify(b), found) == ["03.png", "00.png", "00.png"]
    rest, count = without(both, identify(b))
    assert count == 3
    assert rest.indices == list(range(6))


def test_pictures_without_files_are_told_by_their_pixels():
    known, asked = identify(Plain(10)), identify(Plain(10, first=5))
    assert overlap(known, asked) == ["0", "1", "2", "3", "4"]
    assert known.hashes[0] == hashlib.blake2b(Plain(1)[0]["image"].numpy().tobytes(), digest_size=16).digest()


def test_made_pictures_are_told_by_what_they_are_made_from(monkeypatch):
    monkeypatch.setattr(Shapes, "__getitem__", lambda *a: pytest.fail("a picture was drawn"))
    known = identify(Shapes(50, seed=1))
    assert len(overlap(known, identify(Shapes(80, seed=1, target="texture")))) == 50
    assert overlap(known, identify(Shapes(50, seed=2))) == []
    assert overlap(known, identify(Shapes(50, seed=1, size=32))) == []


def test_a_list_survives_its_file(tmp_path, fill):
    folder = fill(tmp_path / "a", 3)
    (folder / "00.png").rename(folder / 'ünï "çödé"\n.png')
    (folder / "01.png").rename(folder / os.fsdecode(b"\xff.png"))
    found = identify(ImageFolder(folder, size=8))
    found.save(tmp_path / "pictures.gz")
    assert Identity.load(tmp_path / "pictures.gz") == found
    first = (tmp_path / "pictures.gz").read_bytes()
    time.sleep(0.01)
    found.save(tmp_path / "again.gz")
    assert (tmp_path / "again.gz").read_bytes() == first
    gzip.decompress(first).decode("utf-8")
    empty = found + Identity([], np.zeros(0, np.int64), np.zeros(0, "S16"))
    assert empty == found


def test_hashes_that_end_in_zeros_are_kept_whole(tmp_path):
    digests = bytes(15) + b"\1" + b"\1" + bytes(15) + bytes(16)
    lot = Identity(["a", "b", "c"], np.zeros(3, np.int64), np.frombuffer(digests, "S16"))
    lot.save(tmp_path / "p.gz")
    again = Identity.load(tmp_path / "p.gz")
    assert again == lot
    assert shared(again, lot).all()
    assert not shared(Identity(["a"], np.zeros(1, np.int64), lot.hashes[:1]), lot)[1:].any()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "p.gz"
    Identity(["a", "b"], np.ones(2, np.int64), np.frombuffer(bytes(range(32)), "S16")).save(path)
    return path


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_list_is_a_sentence(saved, data):
    content = bytearray(saved.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at:]
    _load_or_sentence(saved.with_name("damaged.gz"), bytes(content))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1]",
        b"null",
        b'{"format": "invariances pictures", "version": 2, "count": 0}\n',
        b'{"format": "invariances pictures", "version": 1, "count": "1"}\n',
        b'{"format": "invariances pictures", "version": 1, "count": 1}\n',
        b'{"format": "invariances pictures", "version": 1, "count": 1}\n00 1 "a"\n',
        b'{"format": "invariances pictures", "version": 1, "count": 1}\n' + b"00" * 16 + b" 1 7\n",
        b'{"format": "invariances pictures", "version": 1, "count": 1}\n' + b"00" * 16 + b' x "a"\n',
        b"[" * 100_000,
    ],
)
def test_a_list_of_another_form_is_a_sentence(tmp_path, text):
    (tmp_path / "p.gz").write_bytes(gzip.compress(text))
    with pytest.raises(UserError, match=r"p.gz' is damaged"):
        Identity.load(tmp_path / "p.gz")


def _load_or_sentence(path, content):
    path.write_bytes(content)
    try:
        Identity.load(path)
    except UserError as error:
        assert "damaged" in str(error)  # noqa: PT017


def test_lists_that_are_not_there_or_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("gone", "does not exist"), ("pipe", "no regular file")):
        with pytest.raises(UserError, match=words):
            Identity.load(tmp_path / name)


def test_a_picture_that_went_away_is_named(tmp_path, fill):
    data = ImageFolder(fill(tmp_path, 3), size=8)
    (tmp_path / "01.png").unlink()
    with pytest.raises(UserError, match=r"01.png' cannot be read \(No such file"):
        identify(data)


def test_hashes_are_remembered_until_a_file_changes(tmp_path, fill, monkeypatch):
    monkeypatch.setattr(identity, "_REMEMBERED", 3)
    read = []
    real = identity._file_digest
    monkeypatch.setattr(identity, "_file_digest", lambda path: read.append(path.name) or real(path))
    data = ImageFolder(fill(tmp_path, 5), size=8)
    first = identify(data)
    assert len(read) == 5
    assert identify(ImageFolder(tmp_path, size=8)) == first
    assert len(read) == 5
    os.utime(tmp_path / "00.png", ns=(1, 1))
    assert identify(ImageFolder(tmp_path, size=8)) == first
    assert len(read) == 10
