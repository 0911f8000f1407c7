"""The models that come with the package do what the page says of them."""

import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from invariances import zoo
from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.data.shapes import FACTORS, Shapes
from invariances.evaluation.factors import kept_by_probe, reading_quality
from invariances.experiments.texture_bias import cue_conflict
from invariances.recipes.quickstart_measures import READERS
from invariances.representation.representation import Representation
from invariances.training.classifier import accuracy
from invariances.zoo.factor_reader import load_readers

N = 400


@pytest.fixture(scope="module")
def world() -> Shapes:
    return Shapes(N, seed=77)


@pytest.fixture(scope="module")
def readers():
    return load_readers(zoo.fetch(READERS))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shapes_shape", {"target": "shape"}),
        ("shapes_texture", {"target": "texture"}),
        ("shapes_colour", {"target": "foreground_hue"}),
        ("shapes_cue", {"target": "shape", "correlate": ("shape", "texture")}),
    ],
)
def test_classifiers_name_their_target(name, kind) -> None:
    assert accuracy(zoo.load(name), Shapes(4000, seed=2, **kind), 4000) >= 0.98


def test_the_autoencoder_gives_back_the_picture_and_all_its_factors(world, readers) -> None:
    vae = zoo.load("shapes_vae")
    images, truth = world.images(range(N)), world.factors(range(N))
    with torch.inference_mode():
        decoded = torch.cat([vae.decode(vae.encode(part).mode()) for part in images.split(100)])
    assert float((decoded - images).abs().mean()) < 0.035
    quality = reading_quality(readers["reader"].read(decoded), truth)
    assert all(quality[name] >= 0.96 for name in FACTORS), quality


def test_the_reader_reads_pictures_as_drawn(world, readers) -> None:
    quality = reading_quality(readers["reader"].read(world.images(range(N))), world.factors(range(N)))
    assert all(quality[name] >= 0.96 for name in FACTORS), quality


def kept_of(network, world, readers) -> dict[str, dict[str, float]]:
    probes = {
        name.partition("/")[2]: reader for name, reader in readers.items() if name.startswith(f"{network}/")
    }
    taps, truth = Representation.many(network, list(probes)), world.factors(range(N))
    with torch.inference_mode():
        parts = [taps(part) for part in world.images(range(N)).split(100)]
        return {
            layer: kept_by_probe(torch.cat([probe(part[layer]) for part in parts]), truth)
            for layer, probe in probes.items()
        }


def test_what_layers_of_the_texture_classifier_keep_by_their_probes(world, readers) -> None:
    """It loses the foreground's hue at stage3, keeps place to the pooled layer and part of the shape to the end."""
    kept = kept_of("shapes_texture", world, readers)
    assert set(kept) == {"stage2", "stage3", "pool", "logits", "softmax"}
    for layer, shares in kept.items():
        assert shares["texture"] > 0.98, layer
    assert kept["stage2"]["foreground_hue"] > 0.8 > 0.5 > kept["stage3"]["foreground_hue"]
    assert kept["pool"]["x"] > 0.7 > 0.3 > kept["logits"]["x"]
    assert 0.3 < kept["logits"]["shape"] < 0.6


def test_the_network_that_could_take_either_cue_keeps_both(world, readers) -> None:
    kept = kept_of("shapes_cue", world, readers)
    assert set(kept) == {"stage3", "logits"}
    assert min(kept["stage3"]["shape"], kept["stage3"]["texture"]) > 0.95
    assert min(kept["logits"]["shape"], kept["logits"]["texture"]) > 0.7


def test_what_layers_of_the_shape_classifier_keep_by_their_probes(world, readers) -> None:
    kept = kept_of("shapes_shape", world, readers)
    assert set(kept) == {"stage1", "stage2", "stage3", "stage4", "pool", "logits", "softmax"}
    for layer, shares in kept.items():
        assert shares["shape"] > 0.95, layer
    textures = [kept[layer]["texture"] for layer in ("stage2", "stage3", "pool", "logits")]
    assert all(later < earlier - 0.03 for earlier, later in pairwise(textures)), textures
    assert abs(kept["logits"]["texture"]) < 0.1
    assert abs(kept["logits"]["foreground_hue"]) < 0.1
    assert kept["pool"]["background_hue"] > 0.5
    order = [kept[layer]["foreground_hue"] for layer in ("stage2", "stage3", "stage4", "pool", "logits")]
    assert all(later < earlier - 0.05 for earlier, later in pairwise(order)), order
    assert kept["stage2"]["background_hue"] > 0.9
    assert kept["stage2"]["texture"] > 0.9
    assert kept["stage4"]["x"] > 0.9
    assert kept["logits"]["x"] < kept["pool"]["x"]


def test_which_cue_networks_follow_where_two_conflict() -> None:
    """Chance is 1/8 for each cue; the network that saw them agree uses both, and is often torn."""
    followed = cue_conflict(zoo.load("shapes_cue"), 500)
    assert sum(followed.values()) == pytest.approx(1)
    assert min(followed["shape"], followed["texture"]) > 0.2
    shape_only = cue_conflict(zoo.load("shapes_shape"), 500)
    assert shape_only["shape"] > 0.98
    assert cue_conflict(zoo.load("shapes_texture"), 500)["texture"] > 0.98


WEIGHTS = Path(zoo.__file__).parent / "weights"


def test_they_are_small() -> None:
    """As a wheel packs them."""
    sizes = {file.stem: file.stat().st_size for file in WEIGHTS.glob("*.safetensors")}
    packed = sum(len(zlib.compress(file.read_bytes(), 6)) for file in WEIGHTS.glob("*.safetensors"))
    models = [
        size for name, size in sizes.items() if name.startswith("shapes_") and not name.endswith("_flows")
    ]
    assert len(models) == 6
    assert sum(models) <= 12_000_000
    assert packed <= 60_000_000


def test_a_folder_named_like_a_shipped_autoencoder_is_not_taken_for_it(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    own = VAE(32, latent_dim=4, width=4, max_width=4, blocks=0)
    save_autoencoder(own, tmp_path / "photos64_ae" / "autoencoder.safetensors")
    monkeypatch.chdir(tmp_path)
    shipped = zoo.load_autoencoder("photos64_ae")
    assert shipped.published_name == "photos64_ae"
    assert type(shipped).__name__ == "SpatialAutoencoder"
    assert "what lies here is ./photos64_ae" in capsys.readouterr().err
    assert zoo.load_autoencoder("./photos64_ae").fingerprint() == own.fingerprint()


@pytest.mark.parametrize(("name", "layer"), [("photos64", "conv5"), ("shapes_shape", "pool")])
def test_a_shipped_interpreter_samples_without_compilers(name, layer):
    """Each of these imports takes seconds, and a visitor waits for them."""
    words = (
        "import sys, torch; from invariances.interpreter import Interpreter; "
        f"Interpreter.load({name!r}, layer={layer!r}).sample(torch.zeros(1, 3, 64, 64), 1); "
        "print([each for each in ('torchvision', 'torch._dynamo', 'sympy', 'lightning') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
