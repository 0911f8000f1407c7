"""A world in which every number is known: pictures of one colour, whose latent is the colour."""

import math

import pytest
import torch
from torch import nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.features.stream import Features
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation

SIZE = 8
ROOM = 4
"""Pictures are this much paler than their latents, so that samples stay within [-1, 1]."""


class Colour(nn.Module):
    """The mean colour, times a matrix."""

    def __init__(self, matrix):
        super().__init__()
        self.preprocessing = {"size": SIZE, "mean": 0.5, "std": 0.5}
        self.fc = nn.Linear(3, len(matrix), bias=False)
        self.fc.weight.data = torch.tensor(matrix)

    def forward(self, x):
        return self.fc(ROOM * x.mean(dim=(2, 3)))


class ColourCode(nn.Module):
    """Encodes the mean colour without noise; decodes a picture of it, `shift` brighter."""

    latent_dim, image_size = 3, SIZE

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = shift

    def encode(self, images):
        mean = ROOM * images.mean(dim=(2, 3))
        return DiagonalGaussian(mean, torch.full_like(mean, -30.0))

    def decode(self, latents):
        return ((latents + self.shift) / ROOM)[:, :, None, None].expand(-1, -1, SIZE, SIZE)

    def fingerprint(self):
        return "colour"


class Gaussian(nn.Module):
    """z̄ | z ~ N(A z, diag std²), in closed form, with the flow's names."""

    def __init__(self, matrix, std):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor(matrix))
        self.std = torch.tensor(std)
        self.latent_dim = len(matrix)
        self.latent_shape = (self.latent_dim,)
        self.representation_shape = (len(matrix[0]),)

    def embed(self, z):
        return z @ self.matrix.T

    def forward(self, latent, z):
        log_det = -self.std.log().sum().expand(len(latent))
        return (latent - self.embed(z)) / self.std, log_det

    def inverse(self, v, z=None, embedding=None):
        return (self.embed(z) if embedding is None else embedding) + v * self.std

    def log_prob(self, latent, z):
        v, log_det = self(latent, z)
        return log_det - 0.5 * v.square().sum(1) - 0.5 * self.latent_dim * math.log(2 * math.pi)

    def sample(self, z, n=1, temperature=1.0, generator=None, guidance=1.0):
        noise = torch.randn(len(z), n, self.latent_dim, generator=generator)
        return self.embed(z)[:, None] + temperature * noise * self.std


class Pictures:
    """Pictures of one colour each."""

    def __init__(self, n=64, seed=0, scale=0.4):
        generator = torch.Generator().manual_seed(seed)
        self.colours = (torch.randn(n, 3, generator=generator) * scale).clamp(-1, 1)

    def __len__(self):
        return len(self.colours)

    def __getitem__(self, index):
        return {"image": (self.colours[index] / ROOM)[:, None, None].expand(3, SIZE, SIZE)}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")


class Posteriors:
    """Pictures' latents and representations as a source of features."""

    def __init__(self, pictures, matrix):
        self.n, self.mean = len(pictures), pictures.colours
        self.z = self.mean @ torch.tensor(matrix).T

    def shape(self, layer):
        return tuple(self.z.shape[1:])

    def batch(self, indices, layer):
        mean = self.mean[indices]
        return mean, torch.full_like(mean, -30.0), self.z[indices]


IDENTITY = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]


@pytest.fixture
def world():
    class World:
        identity = IDENTITY
        Colour, ColourCode, Gaussian, Pictures = Colour, ColourCode, Gaussian, Pictures

        @staticmethod
        def features(pictures, matrix=IDENTITY):
            return Features(Posteriors(pictures, matrix), "fc")

        @staticmethod
        def interpreter(network, flow, shift=0.0):
            return Interpreter(Representation(Colour(network), "fc"), ColourCode(shift), flow)

    return World
