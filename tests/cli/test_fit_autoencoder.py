import numpy as np
import pytest
import torch
from PIL import Image

from invariances import load_autoencoder
from invariances.cli.main import main
from invariances.recipes import own_autoencoder as training


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "photos" / f"kind{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def words(photos, output, *more):
    small = ["--size", "32", "--width", "4", "--max_width", "8", "--latent_dim", "4", "--steps", "2"]
    return ["fit-autoencoder", str(photos), "--output", str(output), *small, "--batch_size", "4", *more]


def test_a_run_leaves_an_autoencoder_that_loads(photos, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(words(photos, output)) == 0
    assert "next: invariances fit" in capsys.readouterr().err
    assert load_autoencoder(output).latent_dim == 4
    assert main(words(photos, output)) == 2
    assert "--resume" in capsys.readouterr().err


def test_views_are_random_crops_to_learn_from(photos, tmp_path, capsys, monkeypatch):
    learnt, looked_at = [], []
    fit = training.fit_autoencoder

    def spy(pictures, held_out, **options):
        learnt.append(pictures)
        looked_at.append(held_out)
        return fit(pictures, held_out, **options)

    monkeypatch.setattr(training, "fit_autoencoder", spy)
    assert main(words(photos, tmp_path / "one")) == 0
    assert main(words(photos, tmp_path / "three", "--data.crop", "random", "--views", "3")) == 0
    assert len(learnt[1]) == 3 * len(learnt[0])
    assert len({each.numpy().tobytes() for each in learnt[1]}) == len(learnt[1])
    assert torch.equal(*looked_at)
    assert main(words(photos, tmp_path / "none", "--views", "0")) == 2
    assert "at least 1" in capsys.readouterr().err


def test_network_without_layers_gets_a_sentence(photos, tmp_path, capsys):
    assert main(words(photos, tmp_path / "run", "--network", "resnet18")) == 2
    assert "--network and --layers belong together" in capsys.readouterr().err


def test_impossible_size_and_missing_folder_get_a_sentence(photos, tmp_path, capsys):
    assert main([*words(photos, tmp_path / "run"), "--size", "48"]) == 2
    assert "choose 32, 64 or 128" in capsys.readouterr().err
    assert main(words(tmp_path / "nowhere", tmp_path / "run")) == 2
    assert "does not exist" in capsys.readouterr().err
