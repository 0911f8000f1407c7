import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from invariances.data.attributes import attributes_of
from invariances.data.images import ImageFolder
from invariances.data.shapes import Shapes
from invariances.system.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for k in range(24):
        place = tmp_path / ("cat" if k % 2 else "dog")
        place.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (k, k, k)).save(place / f"{k}.png")
    return tmp_path


def write(folder, lines):
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_class_folders_and_columns_are_attributes(folder):
    rows = [
        f"{'cat' if k % 2 else 'dog'}/{k}.png,{k / 10},{'old' if k < 12 else 'new'},{k}" for k in range(23)
    ]
    write(folder, ["picture,size,age,id", *rows])
    pictures = ImageFolder(folder, 8, progress=False)
    training, kept_out = pictures.split(6)
    found, other = attributes_of([ConcatDataset([training, training]), kept_out])
    assert set(found) == {"class", "size", "age", "id"}
    assert found["class"].kinds == ("cat", "dog")
    assert found["age"].kinds == ("new", "old")
    assert found["size"].kinds == ()
    assert len(found["size"].values) == 36
    assert len(other["size"].values) == 6
    numbers = [int(path.stem) for path in kept_out.paths]
    for k, number in enumerate(numbers):
        assert other["class"].kinds[other["class"].values[k]] == ("cat" if number % 2 else "dog")
        if number == 23:
            assert not other["size"].known[k]
            assert not other["age"].known[k]
        else:
            assert other["size"].values[k] == pytest.approx(number / 10)


def test_crops_of_a_picture_share_what_is_known_of_it(folder):
    crops = ImageFolder(folder, 8, progress=False).cropped(3)
    found = attributes_of([crops, Subset(crops, [3, 71])])
    assert torch.equal(found[0]["class"].values[::3], found[0]["class"].values[1::3])
    assert found[1]["class"].values.tolist() == [found[0]["class"].values[3], found[0]["class"].values[71]]


def test_names_of_every_picture_are_left_out_and_said(folder, capsys):
    write(folder, ["picture,name", *(f"{'cat' if k % 2 else 'dog'}/{k}.png,n{k}" for k in range(24))])
    found = attributes_of([ImageFolder(folder, 8, progress=False)])[0]
    assert set(found) == {"class"}
    assert "'name' is left out: there are 24 kinds of 24 pictures" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [["picture,age"], ["picture,age", "a.png,b,c"], ["picture,age", "a.png"]])
def test_broken_tables_are_refused(folder, lines):
    write(folder, lines)
    with pytest.raises(UserError, match="is no table of pictures"):
        attributes_of([ImageFolder(folder, 8, progress=False)])


NAMES = [f"{'cat' if k % 2 else 'dog'}/{k}.png" for k in range(24)]


@pytest.mark.parametrize(
    ("heading", "cells", "words"),
    [
        ("picture;age", [f"{each};1" for each in NAMES], "separated by commas"),
        ("picture,age,age", [f"{each},1,2" for each in NAMES], "two columns 'age'"),
        ("picture,age,age_interval", [f"{each},1,2" for each in NAMES], "'age_interval' .* rename it"),
        ("cat/1.png,1", [f"{each},1" for each in NAMES], "has no heading"),
        ("picture,age", ["cat/1.png,1", "cat/1.png,2"], "two rows of 'cat/1.png'"),
    ],
)
def test_tables_that_could_be_misread_are_refused(folder, heading, cells, words):
    write(folder, [heading, *cells])
    with pytest.raises(UserError, match=words):
        attributes_of([ImageFolder(folder, 8, progress=False)])


def test_a_table_that_is_not_in_utf_8_is_refused(folder):
    (folder / "labels.csv").write_bytes("picture,age\ncat/1.png,grün\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not in UTF-8; save it so"):
        attributes_of([ImageFolder(folder, 8, progress=False)])


def test_a_table_of_other_pictures_is_said_and_left_out(folder, capsys):
    write(folder, ["picture,class,age", *(f"{k},{k % 3},{k % 2}" for k in range(24))])
    found = attributes_of([ImageFolder(folder, 8, progress=False)])[0]
    assert set(found) == {"class"}
    assert found["class"].kinds == ("cat", "dog")
    assert "none of its 24 rows names a file of its folder" in capsys.readouterr().err


def test_a_column_class_takes_the_place_of_folders_also_where_it_is_not_known(folder):
    write(folder, ["picture,class", *(f"{each},{'ab'[k < 12]}" for k, each in enumerate(NAMES[:20]))])
    found = attributes_of([ImageFolder(folder, 8, progress=False)])[0]
    assert found["class"].kinds == ("a", "b")
    assert int(found["class"].known.sum()) == 20


def test_nan_is_not_known_and_what_is_no_number_is_named(folder, capsys):
    cells = [f"{each},{'nan' if k < 2 else k / 7},{'NA' if k < 2 else k}" for k, each in enumerate(NAMES)]
    write(folder, ["picture,size,id", *cells])
    found = attributes_of([ImageFolder(folder, 8, progress=False)])[0]
    assert set(found) == {"class", "size"}
    assert found["size"].kinds == ()
    assert int(found["size"].known.sum()) == 22
    told = capsys.readouterr().err
    assert "'size' is known of 22 of 24 pictures" in told
    assert "'id' is left out: there are 23 kinds of 24 pictures, as 'NA' is no number" in told


def test_names_are_found_however_they_are_written(folder):
    Image.new("RGB", (8, 8)).save(folder / "cat" / "gru\u0308n.png")  # ü as macOS writes it
    rows = [f"{each.replace('/', chr(92))},{k % 2}" for k, each in enumerate(NAMES)]
    write(folder, ["picture,odd", *rows, "cat/gr\u00fcn.png,1"])
    found = attributes_of([ImageFolder(folder, 8, progress=False)])[0]
    assert bool(found["odd"].known.all())
    assert len(found["odd"].values) == 25


def test_drawn_pictures_know_their_factors():
    world = Shapes(60, seed=3)
    found = attributes_of([Subset(world, [7, 2]), world])
    assert found[0]["background_hue"].circular
    assert found[0]["shape"].values.tolist() == world.factors([7, 2])["shape"].tolist()
    assert attributes_of([[{"image": torch.zeros(3, 8, 8)}]]) == [{}]
