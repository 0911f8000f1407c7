"""Where a model or a data set cannot be had, all that are not here are named, with the ways to get them."""

import pytest

from invariances import zoo
from invariances.system.errors import NotHere
from invariances.zoo.needs import needing


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")


def sentence(models, pictures=()):
    with pytest.raises(NotHere) as error, needing(models, pictures):
        zoo.fetch(models[0])
    assert error.value.reason == "INVARIANCES_OFFLINE is set"
    return str(error.value)


def test_all_that_are_not_here_are_named(tmp_path):
    sets = ["AnimalFacesSharedTrain", ["AnimalFacesSharedTest"], "photos/", 0.1, None]
    said = sentence(["resnet101_animalfaces_shared", "bigae_animalfaces", None, "photos64_ae"], sets)
    assert said.startswith(
        "resnet101_animalfaces_shared, bigae_animalfaces, AnimalFacesSharedTrain and AnimalFacesSharedTest are needed "
        "and not here (INVARIANCES_OFFLINE is set); "
        "`invariances models download resnet101_animalfaces_shared bigae_animalfaces`, "
        "`invariances data prepare AnimalFacesSharedTrain` and `invariances data prepare AnimalFacesSharedTest` fetch"
    )
    for word in (str(tmp_path / "home"), "`invariances models info NAME`", "--from FOLDER`", "photos64_ae"):
        assert (word in said) == (word != "photos64_ae")
    for file in ("shared_animalfaces_train.txt", "shared_animalfaces_test.txt", "ILSVRC2012_img_train.tar"):
        assert said.count(file) == 1


def test_what_is_here_is_not_named(tmp_path):
    place = zoo.path("resnet101_animalfaces_shared")
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    said = sentence(["bigae_animalfaces", "resnet101_animalfaces_shared"], ["AwA2Train"])
    assert said.startswith("bigae_animalfaces and AwA2Train are needed")


def test_the_only_one_keeps_its_own_sentence():
    assert "by hand, under the name conv5.ckpt" in sentence(["cinn_alexnet_aae_conv5", "photos64_ae"])


def test_a_generators_pictures_need_what_spreads_its_classes():
    said = sentence(["resnet50", "biggan_256"], ["TrainSamples", "TestSamples"])
    assert said.startswith("resnet50, biggan_256 and dequant_vae are needed")
    assert "data prepare" not in said
