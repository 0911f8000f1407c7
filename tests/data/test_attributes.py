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


def test_drawn_pictures_know_their_factors():
    world = Shapes(60, seed=3)
    found = attributes_of([Subset(world, [7, 2]), world])
    assert found[0]["background_hue"].circular
    assert found[0]["shape"].values.tolist() == world.factors([7, 2])["shape"].tolist()
    assert attributes_of([[{"image": torch.zeros(3, 8, 8)}]]) == [{}]
