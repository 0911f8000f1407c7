"""Every YAML of configs/ is parsed, says how it is used, and runs for one step on tiny stand-ins."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.cli.main import main
from invariances.data.images import to_uint8
from invariances.data.shapes import Shapes
from invariances.training.config import PRESETS
from invariances.training.run_folder import read_config, typed

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").mkdir()
    for index, image in enumerate(to_uint8(Shapes(24).images(range(24))).numpy()):
        Image.fromarray(image).save(folder / "photos" / f"{index}.png")
    torch.manual_seed(0)
    save_autoencoder(VAE(32, latent_dim=4, width=4, max_width=4, blocks=0), folder / "vae.safetensors")
    return folder


@pytest.mark.parametrize("name", FILES)
def test_each_config_says_its_command_and_runs_for_one_step(name, small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = (CONFIGS / name).read_text(encoding="utf-8")
    assert text.startswith(f"# invariances fit -c configs/{name} ")
    given = typed(yaml.safe_load(text), name)
    words = ["--network", "shapes_shape", "--layer", "stage4", "--size", "32"]
    words += ["--autoencoder", str(small / "vae.safetensors"), "--images", str(small / "photos")]
    words += ["--flow.blocks", "1", "--flow.width", "8", "--flow.embedder.width", "2", "--batch_size", "4"]
    words += ["--output", str(tmp_path / "run"), "--steps", "2", "--device", "cpu"]
    assert main(["fit", "-c", str(CONFIGS / name), *words]) == 0
    found = read_config(tmp_path / "run")
    assert found.learning == replace(given.learning, steps=2, batch_size=4)
    assert found.flow.transform == given.flow.transform


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_files_too(name):
    flow, learning = PRESETS[name]()
    values = yaml.safe_load((CONFIGS / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert values == {"flow": asdict(flow), "learning": asdict(learning)}
