"""Pictures in every form that people have them in."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from invariances.data.datasets import batches, collate, in_order
from invariances.data.given import as_dataset, load_images
from invariances.data.images import ImageFolder, from_uint8
from invariances.system.errors import UserError


def pixels(height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


EXPECTED = from_uint8(torch.from_numpy(pixels())[None])


def forms(tmp_path):
    array = pixels()
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    alpha = np.concatenate([array, np.full((8, 8, 1), 255, np.uint8)], -1)
    tensor = torch.from_numpy(array)
    return {
        "path": path,
        "text": str(path),
        "folder": tmp_path,
        "paths": [path],
        "generator": (each for each in [path]),
        "picture": Image.fromarray(array),
        "pictures": [Image.fromarray(array)],
        "array": array,
        "batch": array[None],
        "alpha": alpha,
        "bytes": tensor,
        "bytes, channels first": tensor.permute(2, 0, 1),
        "batch of bytes, channels first": tensor.permute(2, 0, 1)[None],
        "floats": EXPECTED[0],
        "batch of floats": EXPECTED,
        "halves": EXPECTED.double(),
        "with gradients": EXPECTED.clone().requires_grad_(),
    }


@pytest.mark.parametrize(
    "form",
    [
        "path",
        "text",
        "folder",
        "paths",
        "generator",
        "picture",
        "pictures",
        "array",
        "batch",
        "alpha",
        "bytes",
        "bytes, channels first",
        "batch of bytes, channels first",
        "floats",
        "batch of floats",
        "halves",
        "with gradients",
    ],
)
def test_every_form_is_the_same_image(tmp_path, form):
    images = load_images(forms(tmp_path)[form], 8)
    torch.testing.assert_close(images, EXPECTED)
    assert images.dtype == torch.float32
    assert not images.requires_grad


def test_forms_mix(tmp_path):
    given = [
        value
        for name, value in forms(tmp_path).items()
        if name not in ("folder", "paths", "generator", "pictures")
    ]
    torch.testing.assert_close(load_images(given, 8), EXPECTED.expand(len(given), -1, -1, -1))


def test_folders_files_and_their_order(tmp_path, fill):
    folder = fill(tmp_path / "photos", 3)
    whole = load_images(folder, 8)
    assert whole.shape == (3, 3, 8, 8)
    assert torch.equal(load_images(str(folder / "01.png"), 8), whole[1:2])
    assert torch.equal(load_images([folder / "02.png", folder / "00.png"], 8), whole[[2, 0]])


def test_resized_floats_stay_in_range():
    edges = torch.ones(1, 3, 16, 16)
    edges[..., :8] = -1
    assert load_images(edges, 23).abs().max() == 1


def test_grey_and_modes():
    grey = np.full((9, 9), 51, np.uint8)
    for given in (grey, grey[..., None], Image.fromarray(grey), Image.fromarray(grey).convert("P")):
        assert load_images(given, 4).unique().tolist() == pytest.approx([51 / 127.5 - 1])


def test_other_sizes_are_cut_to_the_middle_and_resized():
    wide = pixels(8, 12) // 3 + 80
    torch.testing.assert_close(load_images(wide, 8), from_uint8(torch.from_numpy(wide[None, :, 2:10].copy())))
    floats = from_uint8(torch.from_numpy(wide)[None])
    torch.testing.assert_close(load_images(floats, 8), floats[..., 2:10])
    small = load_images(floats, 4)
    assert small.shape == (1, 3, 4, 4)
    torch.testing.assert_close(small, load_images(wide, 4), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "3 is no picture"),
        (2.5, "is no picture"),
        (None, "None is no picture"),
        (b"abc", "is no picture"),
        ({"a": 1}, "is no picture"),
        ([3], "3 is no picture"),
        ([None], "None is no picture"),
        ([[1, 2]], "is no picture"),
        ("", "name is empty"),
        ([], "no pictures given"),
        (np.zeros((4, 4, 3), np.float32), "an array of float32"),
        (np.zeros((4, 4, 3), bool), "an array of bool"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (torch.zeros(4, 4), r"shape \(4, 4\)"),
        (torch.zeros(1, 1, 4, 4), r"shape \(1, 1, 4, 4\)"),
        (torch.zeros(3, 0, 4), r"shape \(3, 0, 4\)"),
        (torch.full((3, 4, 4), 200.0), r"from 200 to 200.*divide by 127.5"),
        (torch.full((3, 4, 4), -2.1), r"from -2.1 to -2.1.*normalised"),
        (torch.full((3, 4, 4), 1.05), "clamp"),
        (torch.full((3, 4, 4), float("nan")), "NaN"),
        (torch.full((3, 4, 4), float("inf")), "infinite"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "an array of int64"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(given, words):
    with pytest.raises(UserError, match=words):
        load_images(given, 8)


@pytest.mark.parametrize("size", [0, -1, 2.5, None, "8", True])
def test_sizes(size):
    with pytest.raises(UserError, match="size is"):
        load_images(pixels(), size)


# Data sets


class Pairs(Dataset):
    classes = ("a", "b")

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return EXPECTED[0] * index / 5, torch.tensor(index % 2)


class Stream(IterableDataset):
    def __iter__(self):
        yield EXPECTED[0]


def items(dataset):
    (batch,) = [batch for _, batch in batches(dataset, in_order(len(dataset), 100), 0)]
    return batch


@pytest.mark.parametrize(
    "given",
    [Pairs(), DataLoader(Pairs(), batch_size=2, shuffle=True)],
)
def test_pairs_of_image_and_label(given):
    data = as_dataset(given, 8)
    batch = items(data)
    assert batch["label"].tolist() == [0, 1, 0, 1, 0]
    torch.testing.assert_close(batch["image"][3], EXPECTED[0] * 0.6)
    assert data.classes == ["a", "b"]
    assert data[2]["index"] == 2


@pytest.mark.parametrize(
    "given",
    [
        EXPECTED.expand(4, -1, -1, -1),
        [pixels()] * 4,
        np.stack([pixels()] * 4),
        [Image.fromarray(pixels())] * 4,
        torch.from_numpy(np.stack([pixels()] * 4)),
    ],
)
def test_pictures_in_memory(given):
    data = as_dataset(given, 8)
    assert len(data) == 4
    torch.testing.assert_close(items(data)["image"], EXPECTED.expand(4, -1, -1, -1))
    assert data[-1]["index"] == 3
    with pytest.raises(IndexError):
        data[4]


def test_data_sets_of_dicts_stay_as_they_are(tmp_path, fill):
    data = ImageFolder(fill(tmp_path, 4), size=8)
    assert as_dataset(data, 8) is data
    for given in (Subset(data, [2, 0]), ConcatDataset([data, data])):
        assert as_dataset(given, 8) is given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Stream(), "in a stream"),
        (DataLoader(Stream()), "in a stream"),
        ((each for each in [EXPECTED]), "in a stream"),
        (3, "3 is no set of pictures"),
        ({"a": 1}, "no set of pictures"),
        (object(), "no set of pictures"),
        (TensorDataset(torch.zeros(0, 3, 4, 4)), "is empty"),
    ],
)
def test_what_is_no_data_set(given, words):
    with pytest.raises(UserError, match=words):
        as_dataset(given, 8)


# Batches


def item(**changes):
    return {"image": EXPECTED[0], "label": 1, **changes}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            item(image=EXPECTED[0] * 127.5 + 127.5),
            r"an image of the data set has values from .* to .*, and needs",
        ),
        (item(image=EXPECTED[0] * 2.4), "normalised"),
        (item(image=EXPECTED[0] * float("nan")), "NaN"),
        (item(image=EXPECTED[0].to(torch.uint8)), r"torch.uint8 and shape \(3, 8, 8\)"),
        (item(image=torch.zeros(3, 0, 4)), r"shape \(3, 0, 4\)"),
        (item(image=EXPECTED), r"shape \(1, 3, 8, 8\)"),
        (item(image=None), "image"),
        (item(image=[1]), "a list of int"),
        ({"picture": EXPECTED[0]}, r"\['picture'\]"),
        ((1, 2), "a tuple of int, int"),
        ("a", "gives str"),
        (item(label="dog"), "a label of a data set is 'dog'"),
        (item(label=1.5), "is 1.5"),
        (item(label=torch.zeros(2)), "is tensor"),
        (item(label=float("nan")), "is nan"),
    ],
)
def test_items_that_cannot_be_used_get_a_sentence(found, words):
    with pytest.raises(UserError, match=words):
        collate([found])


@pytest.mark.parametrize("label", [None, -1, 3, 3.0, torch.tensor(3), np.int64(3)])
def test_labels(label):
    assert collate([item(label=label)])["label"].tolist() == [3 if label not in (None, -1) else -1]


def test_items_of_several_sizes():
    with pytest.raises(UserError, match="must have one size"):
        collate([item(), item(image=EXPECTED[0, :, :4, :4])])


def test_a_first_batch_in_zero_to_one_is_doubted(capsys):
    bright = as_dataset(EXPECTED.expand(8, -1, -1, -1).abs(), 8)
    list(batches(bright, in_order(len(bright), 8), 0))
    assert "lie in [0, 1]" in capsys.readouterr().err
    list(batches(as_dataset(EXPECTED.expand(8, -1, -1, -1), 8), in_order(8, 8), 0))
    assert capsys.readouterr().err == ""
