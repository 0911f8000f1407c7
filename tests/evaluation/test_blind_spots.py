"""Networks with one planted blind spot each: map and factors point at just that, and comparisons at nothing else.

Pictures are mixtures of six patterns whose weights are independent; networks, and the posteriors of the weights given
what they see, are linear, so that flows are known in closed form.
"""

import pytest
import torch
from torch import nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.data.attributes import Attribute
from invariances.evaluation.attributes import AttributeReader
from invariances.evaluation.looking import Sampling
from invariances.evaluation.profiling import Beside, profile_layer
from invariances.features.stream import Features
from invariances.interpreter import Interpreter
from invariances.recipes.compare import differences
from invariances.representation.representation import Representation

SIZE, ROOM, COUNT = 8, 12.0, 300
NAMES = ("sky", "ground", "tilt", "tint", "green", "dot")


def patterns():
    """(6, 3, 8, 8): brightness of the upper and lower rows; a slope, red against blue, green, and two dots between."""
    found = torch.zeros(6, 3, SIZE, SIZE)
    found[0, :, :2] = 1
    found[1, :, 6:] = 1
    found[2, :, 2:5] = torch.linspace(-1, 1, SIZE)
    found[3, 0, 2:5], found[3, 2, 2:5] = 1, -1
    found[4, 1, 2:5] = 1
    found[5, :, 5, (0, 7)] = 1
    return found / ROOM


PATTERNS = patterns()


class Code(nn.Module):
    """The six weights."""

    latent_dim, image_size = 6, SIZE

    def __init__(self):
        super().__init__()
        self.back = nn.Parameter(torch.linalg.pinv(PATTERNS.flatten(1).T))

    def encode(self, images):
        mean = images.flatten(1) @ self.back.T
        return DiagonalGaussian(mean, torch.full_like(mean, -30.0))

    def decode(self, latents):
        return (latents @ PATTERNS.flatten(1)).reshape(-1, 3, SIZE, SIZE)


class Eye(nn.Module):
    """All pixels, after a change of the picture."""

    def __init__(self, change):
        super().__init__()
        self.preprocessing = {"size": SIZE, "mean": 0.5, "std": 0.5}
        self.change, self.flat = change, nn.Flatten()

    def forward(self, x):
        return self.flat(self.change(x))


class Without(nn.Module):
    """Drops a channel, masks rows, removes colour or pools a flip away."""

    def __init__(self, spot):
        super().__init__()
        self.spot = spot

    def forward(self, x):
        if self.spot == "channel":
            return x[:, ::2]
        if self.spot == "region":
            return x[:, :, :6]
        if self.spot == "colour":
            return x.mean(dim=1, keepdim=True)
        return x + x.flip(3) if self.spot == "flip" else x


class Exact(nn.Module):
    """z̄ | z for z̄ ~ N(0, I) and z = B z̄: what B sees as it is, what it does not as in the prior."""

    latent_dim, latent_shape = 6, (6,)

    def __init__(self, seen, width=0.02):
        super().__init__()
        self.representation_shape = (len(seen),)
        gain = torch.linalg.pinv(seen, rtol=1e-4)
        free = torch.eye(6) - gain @ seen
        values, vectors = torch.linalg.eigh(free @ free.T + width**2 * torch.eye(6))
        self.gain = nn.Parameter(gain)
        self.root = nn.Parameter(vectors * values.clamp(min=0).sqrt() @ vectors.T)

    def embed(self, z):
        return z @ self.gain.T

    def inverse(self, v, z=None, embedding=None):
        return (self.embed(z) if embedding is None else embedding) + v @ self.root.T

    def log_prob(self, latent, z):
        normal = torch.distributions.MultivariateNormal(torch.zeros(6), self.root @ self.root.T)
        return normal.log_prob(latent - self.embed(z))


class Pictures:
    def __init__(self):
        self.weights = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
        self.images = (self.weights @ PATTERNS.flatten(1)).reshape(-1, 3, SIZE, SIZE)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"image": self.images[index]}


class Known:
    """Their weights and representations as a source of features."""

    def __init__(self, representation, pictures):
        self.n, self.mean, self.z = COUNT, pictures.weights, representation(pictures.images)

    def shape(self, layer):
        return tuple(self.z.shape[1:])

    def batch(self, indices, layer):
        return self.mean[indices], torch.full_like(self.mean[indices], -30.0), self.z[indices]


class Weights(AttributeReader):
    """Reads the six weights as they are."""

    def __init__(self, pictures):
        told = {name: Attribute(pictures.weights[:, k].double()) for k, name in enumerate(NAMES)}
        super().__init__((6,), told)

    def forward(self, latents):
        return latents


def profiled(spot):
    pictures = Pictures()
    representation = Representation(Eye(Without(spot)), "flat")
    seen = representation(PATTERNS).T
    given = Interpreter(representation, Code(), Exact(seen)).eval()
    features = Features(Known(representation, pictures), "flat")
    beside = Beside(code_reader=Weights(pictures))
    return profile_layer(given, pictures, features, ["flat"], None, Sampling(8, batch_size=100), beside, [3])


@pytest.fixture(scope="module")
def profiles():
    return {spot: profiled(spot) for spot in ("nothing", "channel", "region", "colour", "flip")}


LOST = {"channel": "green", "region": "ground", "colour": "tint", "flip": "tilt"}


@pytest.mark.parametrize("spot", ["nothing", *LOST])
def test_factors_point_at_the_blind_spot_alone(profiles, spot):
    for name in NAMES:
        found = profiles[spot].tables[f"factor {name}"].told(name)
        low, high = found[f"{name}_interval"]
        truth = 0.0 if LOST.get(spot) == name else 1.0
        assert found[name] == pytest.approx(truth, abs=0.1), name
        if not truth:
            assert low < 0.05 < 0.2 > high
    remaining = profiles[spot].tables["variance_remaining"].told("share")["share"]
    assert remaining == pytest.approx(0 if spot == "nothing" else 1 / 6, abs=0.02)


@pytest.mark.parametrize("spot", list(LOST))
def test_the_map_is_the_pattern_that_is_not_seen(profiles, spot):
    pattern = PATTERNS[NAMES.index(LOST[spot])].square().mean(0).sqrt()
    for found in (profiles[spot].maps[1], profiles[spot].maps[0][0]):
        found = found.float()
        assert torch.corrcoef(torch.stack([found.flatten(), pattern.flatten()]))[0, 1] > 0.98
        assert float(found[pattern == 0].max()) < 0.1 * float(found.max())
    assert torch.allclose(profiles[spot].maps[1].float(), pattern, atol=0.015)


def test_the_layer_cannot_tell_samples_from_their_pictures(profiles):
    for each in profiles.values():
        assert each.tables["faithfulness_cosine"].told("cosine")["cosine"] > 0.99
        assert each.tables["source_rank"].told("rank")["rank"] > 0.99


def test_two_identical_networks_compare_as_equal(profiles):
    found = differences(profiles["region"].tables, profiled("region").tables, 0)
    assert all(each["difference"] == 0 and not each["sure"] for each in found.values())


@pytest.mark.parametrize("spot", list(LOST))
def test_networks_that_differ_in_one_blind_spot_differ_there_alone(profiles, spot):
    found = differences(profiles["nothing"].tables, profiles[spot].tables, 0)
    for name in NAMES:
        each = found[f"factor {name}"]
        assert each["difference"] == pytest.approx(-1.0 if LOST[spot] == name else 0, abs=0.1), name
        assert each["sure"] == (LOST[spot] == name), name
