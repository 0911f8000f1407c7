"""Pictures to train on by the name of a data set."""

import pytest
from PIL import Image

from invariances.data.published import imagenet
from invariances.data.published.imagenet import ImageNetTrain
from invariances.system.errors import UserError
from invariances.training.config import DataConfig
from invariances.training.data import FeatureData

SYNSETS = ("n00000001", "n00000002")


@pytest.fixture
def imagenet_of_ten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    for name in SYNSETS:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(5):
            picture = Image.new("RGB", (40, 30), (50 * n, 100, 9))
            picture.save(tmp_path / "photos" / name / f"{name}_{n}.JPEG")
    monkeypatch.setattr(imagenet, "synsets", lambda: SYNSETS)
    monkeypatch.setattr(imagenet, "human_names", lambda: ("cat", "dog"))
    monkeypatch.setattr(ImageNetTrain, "length", 10)
    ImageNetTrain.prepare(ImageNetTrain.root_of(), tmp_path / "photos", progress=False)
    return tmp_path


def read(images, **options):
    data = FeatureData(images, config=DataConfig(**options), progress=False)
    data.read(16)
    return data


@pytest.mark.parametrize("images", ["ImageNetTrain", ["ImageNetTrain"]])
def test_a_name_stands_for_a_data_set_that_is_split_by_names(imagenet_of_ten, images):
    data = read(images, held_out=3)
    (training,) = data.train_sets
    assert isinstance(training, ImageNetTrain)
    assert len(training) == 7
    assert len(data.held_out_set) == 3
    assert not set(training.names) & set(data.held_out_set.names)
    assert (training.crop, data.held_out_set.crop) == ("random", "center")


def test_random_crops_of_it_are_cached_by_views(imagenet_of_ten):
    data = read("ImageNetTrain", held_out=3, crop="random", views=4)
    assert len(data.train_sets[0]) == 28
    assert len(data.held_out_set) == 3


def test_a_name_may_be_kept_out_or_trained_on_too(imagenet_of_ten):
    data = read(str(imagenet_of_ten / "photos"), held_out="ImageNetTrain")
    assert isinstance(data.held_out_set, ImageNetTrain)
    assert data.held_out_set.crop == "center"


def test_a_folder_of_that_name_wins(imagenet_of_ten):
    (imagenet_of_ten / "ImageNetTrain").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        read("ImageNetTrain")
