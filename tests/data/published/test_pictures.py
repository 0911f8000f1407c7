"""How data sets of a known name cut, split, hash and check their pictures; lists of millions of names."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import invariances.data
from invariances.data import by_name
from invariances.data.datasets import batches, in_order
from invariances.data.identity import identify, overlap, without
from invariances.data.images import ImageFolder
from invariances.data.published.catalogue import SETS, is_name, named, state
from invariances.data.published.imagenet import (
    ImageNetTrain,
    ImageNetValidation,
    carnivores,
    human_names,
    synsets,
)
from invariances.data.published.names import Names
from invariances.data.published.resizing import resized_shape, square
from invariances.data.published.root import Root
from invariances.data.splitting import limited
from invariances.system.errors import UserError


@pytest.fixture
def data(tiny, tmp_path):
    ImageNetTrain.prepare(Root(tmp_path / "root"), tiny.tar, progress=False)
    return ImageNetTrain(size=16, root=tmp_path / "root", crop="center")


def naive_square(picture, size, along=0.5):
    """Bilinear without antialiasing, in floats, of the whole picture; then the crop."""
    height, width = picture.shape[:2]
    high, wide = (round(side * size / min(height, width)) for side in (height, width))
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(picture).permute(2, 0, 1)[None].double(),
        (high, wide),
        mode="bilinear",
        align_corners=False,
    )[0].permute(1, 2, 0)
    top, left = int((high - size) * along), int((wide - size) * along)
    return whole[top : top + size, left : left + size].numpy()


@pytest.mark.parametrize(
    "shape", [(30, 40), (40, 30), (375, 500), (128, 128), (21, 34), (200, 129), (500, 1), (1, 7), (129, 200)]
)
@pytest.mark.parametrize("size", [16, 128])
def test_resizing_is_bilinear_without_antialiasing(shape, size):
    picture = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for along in (0.5, 0.0, 0.99):
        found = square(picture, size, along)
        assert found.shape == (size, size, 3)
        assert found.dtype == np.uint8
        assert np.abs(found - naive_square(picture, size, along)).max() <= 1.01


def test_sides_are_rounded_to_even_as_published():
    assert resized_shape(100, 200, 64) == (64, 128)
    assert resized_shape(64, 97, 32) == (32, 48)
    assert resized_shape(64, 99, 32) == (32, 50)


def test_an_item_is_the_published_picture(tiny, data):
    with Image.open(data.paths[3]) as picture:
        expected = torch.from_numpy(square(np.asarray(picture), 16)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(data[3]["image"], expected)
    assert data[-1]["index"] == 19
    with pytest.raises(IndexError):
        data[20]
    whole = ImageNetTrain(size=0, root=data.root.path, crop="center")
    assert whole[0]["image"].shape == (3, 30, 40)


def test_orientation_is_ignored_and_alpha_dropped(tmp_path, tiny, data):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(data.paths[0], "PNG")
    torch.testing.assert_close(
        ImageNetTrain(0, data.root.path)[0]["image"],
        torch.from_numpy(pixels[..., :3]).permute(2, 0, 1) / 127.5 - 1,
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:10, :, :3]).save(data.paths[1], "JPEG", exif=exif)
    assert ImageNetTrain(0, data.root.path)[1]["image"].shape == (3, 10, 20)


def test_random_crops_move_along_the_longer_side_alone(data):
    views = data.cropped(6)
    assert len(views) == 120
    with Image.open(data.paths[2]) as picture:
        pixels = np.asarray(picture)
    possible = [square(pixels, 16, k / 100) for k in range(100)]
    seen = set()
    for view in range(6):
        image = ((views[12 + view]["image"] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        seen |= {k for k, each in enumerate(possible) if (each == image).all()}
    assert len(seen) > 20
    assert torch.equal(views[13]["image"], data.subset([2]).cropped(6)[1]["image"])
    other = ImageNetTrain(16, data.root.path, crop="random", views=6, seed=1)
    assert any(not torch.equal(other[k]["image"], views[k]["image"]) for k in range(12))
    assert ImageNetTrain(16, data.root.path).crop == "random"
    assert len(views.centred()) == 20


def test_items_at_once_and_in_workers_are_the_items(data):
    at_once = data.__getitems__([3, 1, 19])
    for item, index in zip(at_once, (3, 1, 19), strict=True):
        alone = data[index]
        assert torch.equal(item.pop("image"), alone.pop("image"))
        assert item == alone
    (batch,) = [each for _, each in batches(data, in_order(len(data), 32), 2)]
    assert batch["label"].tolist() == data.labels.tolist()
    assert batch["path"] == list(data.paths)


def test_sides_parts_and_identities(data):
    train, held = data.split(0.3, seed=1)
    assert sorted([*train.names, *held.names]) == list(data.names)
    assert overlap(identify(train), identify(held)) == []
    assert len(data.split(6)[1]) == 6
    assert limited(data, 5).labels.tolist() == [0, 1, 2, 3, 4]
    copied = ImageFolder(data.root.data / "n00000002", size=8)
    rest, count = without(data, identify(copied))
    assert count == 4
    assert "n00000002" not in {name.split("/")[0] for name in rest.names}


def test_fingerprints_tell_pictures_and_crops_apart(data):
    prints = {
        data.fingerprint(),
        data.subset([0, 1]).fingerprint(),
        data.subset([1, 0]).fingerprint(),
        data.cropped(2).fingerprint(),
        data.cropped(3).fingerprint(),
        ImageNetTrain(16, data.root.path, seed=2).fingerprint(),
        ImageNetTrain(17, data.root.path, crop="center").fingerprint(),
    }
    assert len(prints) == 7
    assert ImageNetTrain(16, data.root.path, crop="center").fingerprint() == data.fingerprint()


def test_broken_pictures_are_named(data):
    with open(data.paths[4], "r+b") as file:
        file.truncate(300)
    os.unlink(data.paths[7])
    found = data.broken()
    assert len(found) == 2
    assert "n00000002_1.JPEG" in found[0]
    assert "does not exist" in found[1]


@pytest.mark.parametrize(
    "options", [{"size": -1}, {"size": 2.5}, {"views": 0}, {"views": 2, "crop": "center"}, {"crop": "middle"}]
)
def test_impossible_options(data, options):
    with pytest.raises(UserError):
        ImageNetTrain(root=data.root.path, **options)


# Names


def test_names_below_data_and_their_folders():
    names = Names("a/x.jpg\nbé/y.jpg\nbé/z.jpg\n".encode())
    assert list(names) == ["a/x.jpg", "bé/y.jpg", "bé/z.jpg"]
    assert names[-1] == "bé/z.jpg"
    assert list(names[1:]) == ["bé/y.jpg", "bé/z.jpg"]
    folders, numbers = names.at([2, 0]).folders()
    assert folders == ["a", "bé"]
    assert numbers.tolist() == [1, 0]
    assert Names(b"top/sub/x.jpg\ntop/b/x.jpg").folders()[0] == ["b", "sub"]
    with pytest.raises(IndexError):
        names[3]
    for text in (b"a/x.jpg\ny.jpg\n", b"y.jpg\na/x.jpg\n", b"y.jpg\n"):
        with pytest.raises(UserError, match="lies in no folder"):
            Names(text).folders()


@pytest.mark.parametrize("blocks", [1, 3, 1000])
def test_folders_are_those_of_each_name_in_any_order_and_block(blocks, monkeypatch):
    monkeypatch.setattr("invariances.data.published.names._BLOCK", blocks)
    random = np.random.default_rng(0)
    lines = [
        f"{'x/' * int(random.integers(2))}{'abé'[random.integers(3)] * int(random.integers(1, 4))}/{k}"
        for k in range(200)
    ]
    names = Names("\n".join(lines).encode())
    for part in (names, names.at(random.permutation(200)[:150])):
        folders, numbers = part.folders()
        assert folders == sorted(set(folders), key=str.encode)
        assert [folders[k] for k in numbers] == [name.split("/")[-2] for name in part]


@pytest.mark.parametrize(
    "text", [b"/etc/passwd\n", b"a/../../x\n", b"../x\n", b"a\n/x\n", b"a/..\n", b"a\\b\n", b"a\0\n"]
)
def test_lists_that_lead_elsewhere(text):
    with pytest.raises(UserError, match="outside of its folder"):
        Names(text)


def test_lists_with_empty_lines():
    with pytest.raises(UserError, match="an empty line"):
        Names(b"a\n\nb\n")


def test_a_list_whose_lines_begin_with_data_is_the_same(data):
    before = list(data.names)
    text = "".join(f"data/{name}\n" for name in before)
    data.root.list.write_text(text)
    data.root.mark()
    assert list(ImageNetTrain(8, data.root.path).names) == before


def test_a_list_of_a_million_opens_fast_in_little_memory(tmp_path):
    """1,281,167 names in under 5 s and 300 MB beyond what importing torch takes."""
    code = f"""
import resource, time
from pathlib import Path
import numpy as np
from invariances.data.published.imagenet import ImageNetTrain, synsets
from invariances.data.published.root import Root
imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
root = Root({str(tmp_path)!r})
with root.list.open("w") as file:
    for k, synset in enumerate(synsets()):
        for n in range(1281 + (k < 167)):
            file.write(f"{{synset}}/{{synset}}_{{n}}.JPEG\\n")
root.data.mkdir()
root.mark()
start = time.process_time()
data = ImageNetTrain(128, root.path)
took = time.process_time() - start
assert len(data) == 1_281_167 and data.labels[-1] == 999
print(took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imports) / 1024)
"""
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True).stdout
    took, megabytes = map(float, out.split())
    assert took < 5
    assert megabytes < 300


# By name


def test_every_name_opens_from_the_package():
    for name, kind in SETS.items():
        assert getattr(invariances.data, name) is kind
        assert named(name) is kind
        assert kind.title
        assert kind.fetches
    lengths = {name: kind.length for name, kind in SETS.items()}
    assert lengths["ImageNetTrain"] == 1_281_167
    assert lengths["AnimalFacesSharedTrain"] + lengths["AnimalFacesSharedTest"] == 117_484
    assert lengths["AnimalFacesTrain"] + lengths["AnimalFacesTest"] == 117_484


def test_the_thousand_synsets():
    assert len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert len(carnivores()) == 149
    words = dict(zip(synsets(), human_names(), strict=True))
    assert words["n02099601"] == "golden retriever"
    assert words["n02138441"] == "meerkat"
    assert {"n02099601", "n02114548", "n02117135", "n02119022", "n02123159"} <= carnivores()
    assert {"n02127052", "n02128757", "n02129165", "n02132136", "n02138441"} <= carnivores()


def test_names_and_folders_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_name("AwA2Train")
    assert not is_name("photos")
    assert not is_name(["AwA2Train"])
    (tmp_path / "AwA2Train").mkdir()
    assert not is_name("AwA2Train")
    with pytest.raises(UserError, match=r"'AwA2Trian' is no data set's name; nearest: 'AwA2Train'"):
        by_name("AwA2Trian", 8)
    with pytest.raises(UserError, match="needs a generator"):
        by_name("TrainSamples", 8)
    with pytest.raises(UserError, match="give its path"):
        by_name("Folder", 8)


def test_states(tiny):
    assert state(ImageNetTrain) == "not here"
    root = ImageNetValidation.root_of()
    assert "autoencoders/data/ILSVRC2012_validation" in str(root.path)
    root.path.mkdir(parents=True)
    (root.path / ImageNetValidation.archive).write_bytes(b"")
    assert state(ImageNetValidation) == "in part"
    ImageNetTrain.prepare(ImageNetTrain.root_of(), tiny.tar, progress=False)
    assert state(ImageNetTrain) == "ready"
    assert state(named("ImageNetAnimalsTrain")) == "ready"
    assert by_name("ImageNetTrain", 8, views=3).crop == "random"


def test_folders_of_ones_own(tmp_path, fill):
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    assert invariances.data.LabelFolder(tmp_path, 8).labels == [0, 0, 0, 1, 1, 1]
    plain = invariances.data.Folder(tmp_path, 8)
    assert plain.classes == []
    assert plain[5]["label"] == -1
    with pytest.raises(UserError, match="no folders of classes"):
        invariances.data.LabelFolder(tmp_path / "a", 8)
