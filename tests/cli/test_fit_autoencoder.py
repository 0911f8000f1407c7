import csv

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from invariances import Interpreter, load_autoencoder
from invariances.autoencoder.lpips import LPIPS
from invariances.autoencoder.spatial import SpatialAutoencoder
from invariances.cli.main import main
from invariances.recipes import own_autoencoder as training
from invariances.training.autoencoder_config import Objective


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


def spatial(photos, output, *more):
    words = ["fit-autoencoder", str(photos), "--output", str(output), "--kind", "spatial", "--size", "40"]
    return [*words, "--steps", "2", "--batch_size", "4", *more]


def test_maps_of_own_photos_serve_flows_over_maps(photos, tmp_path, capsys):
    eyes = ["--size", "72", "--network", "alexnet_animals", "--layers", "conv1", "conv3"]
    assert main(spatial(photos, tmp_path / "code", *eyes)) == 0
    assert "--preset maps" in capsys.readouterr().err
    code = load_autoencoder(tmp_path / "code")
    assert isinstance(code, SpatialAutoencoder)
    assert code.latent_shape == (32, 9, 9)
    file, run = str(tmp_path / "code" / "autoencoder.safetensors"), str(tmp_path / "run")
    fit = ["fit", "--network", "shapes_shape", "--layers", "stage2", "pool", "--autoencoder", file]
    fit += ["--images", str(photos), "--preset", "maps", "--flow.blocks", "1", "--flow.width", "8"]
    fit += ["--steps", "2", "--batch_size", "4", "--output", run, "--device", "cpu"]
    assert main(fit) == 0
    assert Interpreter.load(run).autoencoder.fingerprint() == code.fingerprint()
    picture, drawn = str(next(photos.rglob("*.png"))), []
    for steps in ("0", "2"):
        path = tmp_path / f"refined{steps}.png"
        words = ["sample", run, picture, "--layer", "pool", "--n", "2", "--refine", steps]
        assert main([*words, "--output", str(path)]) == 0
        drawn.append(np.asarray(Image.open(path)))
    assert drawn[0].shape == drawn[1].shape
    assert (drawn[0] != drawn[1]).any()


def test_the_objective_is_that_of_the_kind(photos, tmp_path):
    def used(folder):
        return yaml.safe_load((folder / "hparams.yaml").read_text())["objective"]

    torch.manual_seed(0)
    lpips = LPIPS("alexnet")
    state = {f"features.{name}": each for name, each in lpips.backbone.state_dict().items()}
    lins = {f"lpips.lin{k}": each.detach().view(1, -1, 1, 1) for k, each in enumerate(lpips.weights)}
    save_file({**state, **lins}, tmp_path / "lpips.safetensors")
    by_lpips = ["--network", "lpips", "--weights", str(tmp_path / "lpips.safetensors")]
    assert main(spatial(photos, tmp_path / "a", *by_lpips)) == 0
    assert (used(tmp_path / "a")["perceptual"], used(tmp_path / "a")["kl"]) == (1.0, 0.0)
    with (tmp_path / "a" / "metrics.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["perceptual"]) > 0
    assert main(spatial(photos, tmp_path / "b", *by_lpips, "--perceptual", "0.5", "--kl", "1e-6")) == 0
    assert (used(tmp_path / "b")["perceptual"], used(tmp_path / "b")["kl"]) == (0.5, 1e-6)
    vae = Objective().complete(spatial=False, lpips=False)
    assert (vae.perceptual, vae.kl) == (0.1, 1e-5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--latent_dim", "128"], "latent_dim cannot be chosen for a spatial"),
        (["--width", "8", "--blocks", "1"], "width and blocks cannot"),
        (["--perceptual", "0.5"], "needs a network that compares"),
        (["--size", "44"], "multiple of 8"),
        (["--size", "0"], "at least 8"),
        (["--kind", "map"], "spatial"),
        (["--network", "lpips"], "--weights FILE"),
        (["--network", "lpips", "--weights", "x", "--layers", "conv1"], "no --layers"),
        (["--network", "lpips", "--weights", "x", "--size", "24"], "32 or more"),
        (["--network", "lpips", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_does_not_apply_to_maps_gets_a_sentence(photos, tmp_path, capsys, more, sentence):
    assert main(spatial(photos, tmp_path / "run", *more)) == 2
    assert sentence in capsys.readouterr().err
