"""`invariances data …`, as people type it."""

import json
import shlex

import pytest
from PIL import Image

from invariances.cli.main import main
from invariances.data.published import imagenet
from invariances.data.published.imagenet import ImageNetTrain


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = main(["data", *map(str, words)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of three synsets with two pictures each, and an ImageNet that has no more."""
    names = ("n00000001", "n00000002", "n00000003")
    for k, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(2):
            picture = Image.new("RGB", (40, 30), (80 * k, 100 * n, 9))
            picture.save(tmp_path / "photos" / name / f"{name}_{n}.JPEG")
    monkeypatch.setattr(imagenet, "synsets", lambda: names)
    monkeypatch.setattr(imagenet, "human_names", lambda: ("cat", "dog", "cow"))
    monkeypatch.setattr(ImageNetTrain, "length", 6)
    return tmp_path / "photos"


def test_list_prepare_show_and_verify(run, folder, tmp_path):
    status, out, _ = run("list")
    assert status == 0
    assert "AnimalFacesSharedTrain      not here    105,653" in out
    status, out, err = run("prepare", "ImageNetTrain", "--from", folder)
    assert status == 0, err
    assert "ImageNetTrain: 6 pictures in " in out
    assert out.endswith("as --images ImageNetTrain\n")
    assert {row["name"]: row["state"] for row in json.loads(run("list", "--json")[1])}[
        "ImageNetTrain"
    ] == "ready"
    status, out, err = run("show", "ImageNetTrain", "--n", "12", "--size", "32")
    assert status == 0, err
    assert out.strip() == "ImageNetTrain.png"
    shown = Image.open(tmp_path / "ImageNetTrain.png")
    assert 3 * 32 <= shown.size[1] < 3 * 32 + 20  # a row for each class
    assert shown.size[0] > 2 * 32
    status, out, _ = run("verify", "ImageNetTrain")
    assert (status, out.strip()) == (0, "ImageNetTrain: all 6 pictures can be read")
    (folder / "n00000002" / "n00000002_1.JPEG").write_bytes(b"x")
    status, out, err = run("verify", "ImageNetTrain")
    assert status == 2
    assert "n00000002_1.JPEG" in err
    assert "1 of 6 pictures are missing or broken" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prepare", "ImageNetTrian"], "nearest: 'ImageNetTrain'"),
        (["prepare", "TrainSamples"], "needs a generator"),
        (["prepare", "ImageNetTrain"], "INVARIANCES_OFFLINE is set"),
        (["prepare", "ImageNetTrain", "--from", "nowhere"], "nowhere' does not exist"),
        (["prepare", "ImageNetTrain", "--from", ""], "--from is empty"),
        (["prepare"], "is missing"),
        (["verify", "AwA2Test"], "is not prepared"),
        (["show", "AwA3"], "'AwA3' is neither a folder nor a data set's name; nearest: 'AwA2"),
        (["show", "."], "holds no pictures"),
        (["show", "AwA2Test", "--n", "0"], "n is 0"),
        (["lost"], "is not a command"),
    ],
)
def test_what_goes_wrong_is_a_sentence(run, words, sentence):
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_ctrl_c_says_how_to_go_on(run, folder, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageNetTrain, "prepare", interrupted)
    status, _, err = run("prepare", "ImageNetTrain", "--from", folder)
    assert status == 130
    assert "the same command goes on" in err
    assert shlex.split(err.splitlines()[-1])[1:] == [
        "data",
        "prepare",
        "ImageNetTrain",
        "--from",
        str(folder),
    ]


def test_a_folder_can_be_shown(run, folder):
    status, out, err = run("show", folder, "--n", "1")
    assert status == 0, err
    assert out.strip() == "photos.png"
