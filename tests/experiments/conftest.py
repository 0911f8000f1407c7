"""Two interpreters of one tiny network, and pictures."""

import pytest
import torch
from torch import nn

from invariances.autoencoder.vae import VAE
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    from invariances.experiments import samples

    monkeypatch.setattr(samples, "CHUNK", 4)


def network(seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )
    net.preprocessing = {"size": 32, "mean": 0.5, "std": 0.5}
    net.class_names = ["cat", "dog", "fox", "hen"]
    return net


def made(seed=1, layer="1", latent=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(32, latent_dim=latent, width=4, max_width=4, blocks=0)
        representation = Representation(network(seed), layer)
        torch.manual_seed(seed)
        config = FlowConfig(blocks=2, width=8, depth=1)
        flow = ConditionalFlow(config, (latent,), representation.shape)
        for each in flow.parameters():
            nn.init.normal_(each, std=0.2) if each.dim() > 1 else None
    return Interpreter(representation, vae, flow).eval()


@pytest.fixture
def interpreter():
    return made()


@pytest.fixture
def second():
    return made(2)


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.fixture
def seeds():
    return lambda seed=0: torch.Generator().manual_seed(seed)
