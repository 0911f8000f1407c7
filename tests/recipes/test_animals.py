import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from invariances import UserError
from invariances.recipes import animals_models as animals
from invariances.zoo.small_resnet import load_classifier


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for group, kinds, side in (
        ("animals64", ["n01", "n02", "n03"], 64),
        ("animalfaces10", ["n02117135", "n9"], 80),
    ):
        for kind in kinds:
            (tmp_path / group / kind).mkdir(parents=True)
            for number in range(6):
                pixels = random.integers(0, 255, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / group / kind / f"{number}.jpg")
    return tmp_path


def test_split_keeps_the_same_faces_out_whatever_the_crops(photos):
    train, held_out = animals.faces_of(photos)
    crops, same = animals.faces_of(photos, views=8)
    assert held_out.paths == same.paths
    assert train.paths == crops.paths
    assert not set(train.paths) & set(held_out.paths)
    assert len(crops) == 8 * len(train)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(timm.create_model(animals.TEACHER).state_dict(), path)
    return path


def test_classifier_is_kept_with_names_and_accuracy(photos, weights, tmp_path, capsys):
    animals.build_classifier(tmp_path / "out", photos, weights, steps=(2, 2))
    assert load_classifier(tmp_path / "out" / "animals10.safetensors").classes == ["hyena", "n9"]
    assert "faces kept out named rightly" in capsys.readouterr().err


def test_missing_weights_get_a_sentence(photos, tmp_path):
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        animals.build_autoencoder(tmp_path, photos, tmp_path / "none.safetensors", "32-true")
