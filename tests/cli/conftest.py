"""A small world for commands: photos, an autoencoder's file, and a network that needs no download."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.cli.main import main


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(24):
        blocks = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vae") / "autoencoder.safetensors"
    save_autoencoder(VAE(32, latent_dim=4, width=4, max_width=4, blocks=0), path)
    return path


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def home(monkeypatch, cache_home):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")


@pytest.fixture(scope="session")
def words(photos, vae):
    """`fit` on the small world, but for --output; later words win."""

    def made(*more, **changed):
        given = {
            "network": "test_resnet",
            "weights": "random",
            "layer": "layer2",
            "autoencoder": vae,
            "images": photos,
            "steps": 4,
        }
        options = [f"--{key}={value}" for key, value in (given | changed).items() if value is not None]
        sizes = ["--flow.blocks=1", "--flow.width=8", "--flow.depth=0", "--batch_size=8"]
        quick = ["--device=cpu", "--run.log_every=1", "--run.samples_every=0"]
        return ["fit", *options, *sizes, *quick, *more]

    return made


@pytest.fixture
def run(capsys):
    """Runs a command in this process: (exit status, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        status = main([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="session")
def started():
    """Starts a command in a process of its own, with one thread, and more of an environment."""

    def call(arguments, more=None):
        return subprocess.Popen(
            [sys.executable, "-m", "invariances", *map(str, arguments)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(more or {})},
        )

    return call


@pytest.fixture(scope="session")
def fit(started):
    """Runs such a process to its end."""

    def call(arguments, more=None):
        with started(arguments, more) as process:
            try:
                out, err = process.communicate(timeout=280)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return call
