"""Coloured squares, a small network, an autoencoder of four numbers, and runs on them that can be acted upon."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import Dataset

from invariances.autoencoder.vae import VAE
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.representation.representation import Representation
from invariances.training import fit as fitting
from invariances.training.config import CacheConfig, FitConfig, LearningConfig, RunConfig
from invariances.training.data import FeatureData
from invariances.training.run_folder import METRICS


class Colours(Dataset):
    """Coloured squares, by index."""

    def __init__(self, n=40, seed=0):
        self.images = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index].expand(3, 32, 32).contiguous(), "label": -1, "index": index}

    def fingerprint(self):
        return f"colours {len(self)} {float(self.images.sum())}"


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )
    net.preprocessing = {"size": 32}
    return net


SMALL_FLOW = FlowConfig(blocks=2, width=8, depth=1)
REGRESSION = EmbedderConfig("regression", width=2)
LEARNING = LearningConfig(steps=10, batch_size=8, learning_rate=1e-3, schedule="cosine", warmup=0.3, ema=0.9)
QUIET = RunConfig(output=None, seed=7, device="cpu", progress=False, log_every=1, samples_every=0)


@dataclass
class Setup:
    """Frozen parts, data on disk, and the settings of a run; `layer` is a layer of `small_network`."""

    representation: Representation
    vae: VAE
    data: FeatureData

    def of(self, layer):
        """The same at another layer."""
        cut = self.representation.at(layer)
        data = FeatureData(self.data.images, cache=self.data.cache, progress=False)
        data.config = replace(data.config, held_out=0.25)
        data.prepare([cut], self.vae)
        return Setup(cut, self.vae, data)


@pytest.fixture(scope="session")
def setup(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(32, latent_dim=4, width=4, max_width=4, blocks=0).eval()
    cache = CacheConfig(folder=str(tmp_path_factory.mktemp("features")))
    representation = Representation(small_network(), "4")
    return Setup(representation, vae, FeatureData(Colours(), cache=cache, progress=False)).of("4")


class At(Callback):
    """Calls a function in the middle of a step, counted from the beginning of the run."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, pl_module, *args):
        if pl_module.step == self.step:
            self.act()


@pytest.fixture
def train(monkeypatch):
    """Trains a flow in `folder` as `fit` does; `act` is a callback, or (step, function)."""
    real = fitting.make_trainer

    def run(setup, folder, *, act=None, resume=False, flow=SMALL_FLOW, learning=LEARNING, **options):
        if act is not None and not isinstance(act, Callback):
            act = At(*act)

        def make(run, steps, callbacks, loggers, **more):
            return real(run, steps, [*([] if act is None else [act]), *callbacks], loggers, **more)

        monkeypatch.setattr(fitting, "make_trainer", make)
        settings = replace(QUIET, output=str(folder), resume=resume, **options)
        Path(folder).mkdir(exist_ok=True)
        config = FitConfig(flow=flow, learning=learning, run=settings)
        parts = setup.representation, setup.vae, setup.data, config, Path(folder), ()
        return fitting.Fitting(*parts).trained()

    return run


def rows(folder):
    """Of metrics.csv, but for what the clock says."""
    with (Path(folder) / METRICS).open() as file:
        found = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in found]


@pytest.fixture(scope="session")
def world():
    """What tests make runs of."""
    return SimpleNamespace(
        Colours=Colours,
        small_network=small_network,
        flow=SMALL_FLOW,
        regression=replace(SMALL_FLOW, embedder=REGRESSION),
        learning=LEARNING,
        quiet=QUIET,
        rows=rows,
    )
