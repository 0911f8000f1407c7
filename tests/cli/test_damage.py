"""Damaged files and nonsense options: a result, or one sentence; never a trace, a hang or another's number."""

import json
import random
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from invariances.autoencoder.storage import load_saved
from invariances.cli.main import main
from invariances.data.identity import Identity
from invariances.data.images import load_images
from invariances.features.shards import Shards
from invariances.interpreter import Interpreter
from invariances.recipes.compare import read_profile
from invariances.system.errors import UserError
from invariances.system.weights import read_state_dict
from invariances.training.callbacks import COLUMNS
from invariances.training.checkpoints import load_checkpoint
from invariances.training.metrics_file import MetricsFile
from invariances.training.run_folder import read_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, words, cache_home, photos):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        folder = tmp_path_factory.mktemp("damage") / "run"
        assert main(words(f"--output={folder}")) == 0
    told = {"same": {}, "layers_measured": ["fc"], "seed": 0, "network": "n"}
    (folder / "profile.json").write_text(json.dumps(told))
    shutil.copy(photos / "0.png", folder)
    shards = Shards(folder / "shards", 4, (3,), "float32")
    shards.start()
    shards.write(0, torch.ones(4, 3).numpy())
    shards.commit()
    shards.close()
    return folder


def read_shards(path):
    found = Shards.load(path.parent)
    if found is not None and found.done:
        assert found.read(torch.arange(found.done).numpy()).shape == (found.done, *found.shape)


READERS = {
    "interpreter.safetensors": lambda path: Interpreter.load(path.parent),
    "autoencoder.safetensors": load_saved,
    "config.yaml": lambda path: read_config(path.parent),
    "checkpoints/last.ckpt": load_checkpoint,
    "pictures/trained_on.json.gz": Identity.load,
    "metrics.csv": lambda path: MetricsFile(path, COLUMNS).start(3),
    "profile.json": lambda path: read_profile(path.parent),
    "0.png": lambda path: load_images(path, 32),
    "shards/manifest.json": read_shards,
    "shards/00000.bin": read_shards,
    "weights": read_state_dict,
}


def damaged(random, whole):
    """The bytes, with some flipped, put in, taken out or cut off; more often near the beginning."""
    data = bytearray(whole)
    place = random.randrange(min(len(data), random.choice([64, 600, len(data)])))
    kind = random.randrange(5)
    if kind == 0:
        data[place] ^= 1 << random.randrange(8)
    elif kind == 1:
        data[place] = random.choice(b'0123456789-{}[],":ne\0\xff')
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        data[place:place] = random.randbytes(random.randrange(1, 9))
    else:
        del data[place : place + random.randrange(1, 40)]
    return bytes(data)


def try_damage(trained, folder, name, times):
    source = trained / ("checkpoints/last.ckpt" if name == "weights" else name)
    chance, whole = random.Random(name), source.read_bytes()
    shutil.copytree(source.parent, folder)
    for _ in range(times):
        (folder / source.name).write_bytes(damaged(chance, whole))
        with suppress(UserError):
            READERS[name](folder / source.name)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(trained, tmp_path, name, capsys):
    try_damage(trained, tmp_path / "copy", name, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files(trained, tmp_path, name, capsys):
    try_damage(trained, tmp_path / "copy", name, 1000)


def test_no_flipped_bit_of_a_checkpoint_goes_unseen(trained, tmp_path):
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    weights = next(iter(load_checkpoint(trained / "checkpoints" / "last.ckpt")["state_dict"].values()))
    place = whole.index(weights.numpy().tobytes())
    (tmp_path / "last.ckpt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(UserError, match="other bytes than were written"):
        load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("missing", ["representation", "network_fingerprint", "autoencoder", "flow"])
@pytest.mark.parametrize("value", [None, "{", "null", '{"layer": 3}'])
def test_metadata_that_are_missing_or_others(trained, tmp_path, missing, value):
    from safetensors import safe_open
    from safetensors.torch import save_file

    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "interpreter.safetensors"
    with safe_open(path, "pt") as file:
        tensors, told = {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118
    del told[missing]
    save_file(tensors, path, told if value is None else told | {missing: value})
    with pytest.raises(UserError):
        Interpreter.load(tmp_path / "run")


LONG, HUGE = "x" * 300, "99999999999999999999"
NONSENSE = [
    ("sample", "--n", ["0", "-1", HUGE, "x", "1.5"]),
    ("sample", "--refine", ["-1", HUGE, "x", "1.5"]),
    ("sample", "--temperature", ["-1", "nan", "inf", "x"]),
    ("sample", "--layer", ["", "layer1", LONG]),
    ("sample", "--network", ["", LONG, "nowhere", "/dev/null"]),
    ("sample", "--output", ["", LONG, "/dev/null/x.png"]),
    ("sample", "--device", ["", "tpu9", "cuda:99"]),
    ("attack", "--n", ["0", HUGE]),
    ("attack", "--epsilon", ["nan", "-1", "3"]),
    ("attack", "--target", ["", HUGE, "nobody"]),
    ("attack", "--method", ["", "x"]),
    ("mix", "--output", ["", LONG]),
    ("evaluate", "--n", ["0", "-1", HUGE]),
    ("evaluate", "--limit", ["0", "-1", "x"]),
    ("evaluate", "--seed", ["-1", "x"]),
    ("evaluate", "--images", ["", LONG, "nowhere", "/dev/null"]),
    ("evaluate", "--fid", ["", "x", LONG, "nowhere:fc"]),
]


@pytest.mark.parametrize(("command", "option", "values"), NONSENSE)
def test_nonsense(run, trained, photos, tmp_path, monkeypatch, command, option, values):
    monkeypatch.chdir(tmp_path)
    pictures = [] if command == "evaluate" else [photos / "0.png"]
    for value in values:
        status, _, err = run(command, trained, *pictures, f"{option}={value}")
        assert status == 2, (value, err)
        assert "Traceback" not in err
        assert len([line for line in err.splitlines() if line.startswith("invariances: ")]) == 1


def test_pictures_out_of_range_are_refused_at_every_door(trained):
    interpreter = Interpreter.load(trained)
    for size in (32, 48):
        good = torch.zeros(1, 3, size, size)
        for bad in (good + 200, good + 1.4, good + float("nan")):
            for door in (
                interpreter.sample,
                interpreter.log_prob,
                interpreter.encode,
                interpreter.reconstruct,
                interpreter.represent,
                lambda images, own=good: interpreter.mix(images, own),
                lambda images, own=good: interpreter.mix(own, images),
            ):
                door(good)
                with pytest.raises(UserError, match=r"\[-1, 1\]"):
                    door(bad)


def test_pictures_come_in_any_form(trained, photos):
    interpreter = Interpreter.load(trained)
    path = photos / "0.png"
    with Image.open(path) as picture:
        array = np.asarray(picture)
        forms = [
            path,
            str(path),
            picture,
            array,
            torch.from_numpy(array.copy()),
            [path],
            load_images(path, 32),
        ]
        found = [interpreter.log_prob(each) for each in forms]
    assert all(torch.equal(each, found[0]) for each in found)
    for wrong in (None, 3, "nowhere.png", torch.zeros(0, 3, 32, 32), torch.zeros(1, 1, 32, 32), array / 255):
        for door in (interpreter.sample, interpreter.log_prob):
            with pytest.raises(UserError):
                door(wrong)
    with pytest.raises(UserError, match=r"^(n|temperature) is"):
        interpreter.sample(path, 2.5)
