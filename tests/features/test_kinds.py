"""What features may come from: numbers of any kind, maps for latents, odd memory layouts; what is never believed."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.features.cache import build_cache
from invariances.features.config import CacheConfig
from invariances.features.stale import differs, rows_to_try
from invariances.features.stream import Features, FeatureStream
from invariances.representation.representation import Representation
from invariances.system.errors import UserError

SMALL = {"size": 8, "mean": 0.5, "std": 0.5}


class Pictures(Dataset):
    def __init__(self, n=12):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(n, 3, 8, 8, generator=generator) * 2 - 1

    def __len__(self):
        return len(self.images)

    def fingerprint(self):
        return f"pictures {len(self)}"

    def __getitem__(self, index):
        return {"image": self.images[index]}


class Code(nn.Module):
    """Latents are what `encoder` gives of images, and twice that for the logvar."""

    image_size = 8

    def __init__(self, shape, encoder, **said):
        super().__init__()
        self.encoder, self.scale, self.batches = encoder, nn.Parameter(torch.ones(())), []
        for name, value in (said or {"latent_shape": shape}).items():
            setattr(self, name, value)

    def encode(self, images):
        self.batches.append(images.is_contiguous())
        mean = self.encoder(images) * self.scale
        return DiagonalGaussian(mean, 2 * mean)

    def fingerprint(self):
        return "code"


def flat():
    return Code((2,), lambda x: x.mean((2, 3))[:, :2])


class Give(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def layer(make, **options):
    return Representation(nn.Sequential(Give(make)), "0", **SMALL, **options)


def build(representations, autoencoder=None, dataset=None, precision="32-true", **options):
    config = CacheConfig(batch_size=5, **options)
    pictures, code = dataset or Pictures(), autoencoder or flat()
    return build_cache(pictures, code, representations, config, precision=precision, progress=False)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "invariances" / "features"


# --------------------------------------------------------------------------------------------------- kinds of numbers


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda x: (x * 1e6).long(), "float32"),
        (lambda x: 65_504 * x.sign(), "float16"),
        (lambda x: 65_536 * x.sign(), "float32"),
        (lambda x: (x * 100).to(torch.int16), "float16"),
        (lambda x: x > 0, "float16"),
        (lambda x: torch.complex(x, 3 * x), "float16"),
        (lambda x: torch.fft.fft2(1e5 * x), "float32"),
    ],
    ids=[
        "large whole numbers",
        "float16's largest",
        "beyond",
        "small ones",
        "booleans",
        "complex",
        "large complex",
    ],
)
@pytest.mark.parametrize("max_gb", [1.0, 0.0], ids=["stored", "computed"])
def test_layers_that_give_no_floats(make, dtype, max_gb):
    at = layer(make)
    cache = build(at, max_gb=max_gb)
    z, want = cache.batch(range(12), "0")[2], at(Pictures().images)
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    torch.testing.assert_close(z, want, rtol=1e-3, atol=1e-3)
    assert cache.dtype("0") == (dtype if max_gb else "float32")
    assert cache.shape("0") == at.shape


# ------------------------------------------------------------------------------------------------------------ latents


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4), (3, 4, 2)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_latents_may_be_maps(shape, precision):
    code = Code(
        shape,
        (lambda x: x.mean((2, 3))[:, :2]) if len(shape) == 1 else lambda x: x[:, :, ::2, :: 8 // shape[2]],
    )
    cache = build(layer(lambda x: x), code, precision=precision)
    mean, logvar = cache.moments([7, 2])
    want = code.encode(Pictures().images[[7, 2]])
    torch.testing.assert_close(mean, want.mean, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(logvar, want.logvar, rtol=1e-2, atol=1e-2)
    assert mean.shape == logvar.shape == (2, *shape)
    assert [each.shape[1:] for each in cache.batch([3], "0")[:2]] == [shape, shape]
    assert cache[3]["mean"].shape == shape
    features = Features(cache, "0")
    assert features.latent_shape == shape
    latent, z, indices = FeatureStream(features, 4).at(0)
    assert (latent.shape, z.shape, indices.shape) == ((4, *shape), (4, 3, 8, 8), (4,))


def test_a_latent_that_is_not_what_was_said():
    with pytest.raises(UserError, match=r"says that its latents have shape \(4,\), and they have \(2,\)"):
        build(layer(lambda x: x), Code((4,), flat().encoder))


def test_latent_dim_alone_will_do():
    cache = build(layer(lambda x: x), Code((2,), flat().encoder, latent_dim=2))
    assert cache.moments([0])[0].shape == (1, 2)


def test_precision_is_the_autoencoders():
    seen = []

    def encoder(x):
        seen.append(torch.is_autocast_enabled("cpu"))
        return x.mean((2, 3))[:, :2]

    for precision in ("32-true", "bf16-mixed"):
        build(layer(lambda x: x), Code((2,), encoder), precision=precision)
        assert set(seen) == {precision == "bf16-mixed"}
        seen.clear()


def test_precision_of_moments_is_in_their_key(home):
    def moments():
        told = [json.loads(path.read_text(encoding="utf-8")) for path in home.glob("*/manifest.json")]
        return sum(each["about"]["kind"] == "moments" for each in told)

    at = layer(lambda x: x)
    build(at)
    assert moments() == 1
    build(at, precision="bf16-mixed")
    assert moments() == 2
    with pytest.raises(UserError, match="precision is '16-true'; use"):
        build(at, precision="16-true")


# ------------------------------------------------------------------------------------------------------ memory layout


class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(x.size(0), -1))


def strided(x):
    return x.as_strided((len(x), 3 * 64), (3 * 64, 1)).contiguous()[:, :2]


@pytest.mark.parametrize("max_gb", [1.0, 0.0], ids=["stored", "computed"])
def test_classic_networks_that_flatten_by_view(max_gb):
    at = Representation(View(), "fc", **SMALL)
    cache = build(at, max_gb=max_gb, dtype="float32")
    torch.testing.assert_close(cache.batch(range(12), "fc")[2], at(Pictures().images))


@pytest.mark.parametrize(
    ("encoder", "fast"),
    [
        (lambda x: x.view(len(x), -1)[:, :2], False),
        (strided, False),
        (lambda x: x.flatten(1)[:, :2], True),
    ],
    ids=["objects", "answers otherwise", "bears it"],
)
def test_channels_last_is_given_up_where_the_autoencoder_does_not_bear_it(encoder, fast):
    code = Code((2,), encoder)
    cache = build(layer(lambda x: x), code)
    torch.testing.assert_close(cache.moments(range(12))[0], Pictures().images.flatten(1)[:, :2])
    assert code.batches[-1] is not fast


# ------------------------------------------------------------------------------------------------------------ devices


def test_parts_on_two_devices_are_refused_before_anything_runs():
    at = Representation(View(), "fc", **SMALL)
    code = flat()
    code.scale = nn.Parameter(torch.ones((), device="meta"))
    with pytest.raises(
        UserError, match=r"the autoencoder is on meta and layer 'fc' of View on cpu; bring both to one"
    ):
        build(at, code)
    assert code.batches == []


def test_images_go_where_the_parts_are(monkeypatch):
    """Recorded, since there may be one device only."""
    at, code, moved = Representation(View(), "fc", **SMALL), flat(), []
    plain = torch.Tensor.to

    def to(self, *args, **kwargs):
        moved.extend(each for each in args if isinstance(each, torch.device))
        return plain(self, *args, **kwargs)

    before = {name: value.data_ptr() for name, value in at.network.state_dict().items()}
    monkeypatch.setattr(torch.Tensor, "to", to)
    build(at, code)
    assert set(moved) == {torch.device("cpu")}
    assert {name: value.data_ptr() for name, value in at.network.state_dict().items()} == before


# -------------------------------------------------------------------------------------------------------------- stale


class Helper(nn.Module):
    """What it computes stands partly in a function and an attribute, which no hash sees."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 3), scale

    def forward(self, x):
        return self.scale * end(self.conv(x))


def end(x):
    return x.relu()


def helper(scale=1.0):
    torch.manual_seed(0)
    network = nn.Sequential(Helper(scale))
    return Representation(network, "0", **SMALL)


def patched(monkeypatch, name):
    """`end`, where the class looks for it: this file may not be known by its name."""
    new = {"a function": lambda x: -x.abs(), "its shape": lambda x: x.relu()[:, :2], "an attribute": end}[
        name
    ]
    monkeypatch.setitem(Helper.forward.__globals__, "end", new)
    return 1.1 if name == "an attribute" else 1.0


@pytest.mark.parametrize("name", ["a function", "its shape", "an attribute"])
def test_stale_rows_are_computed_again_with_a_line(monkeypatch, capfd, name):
    build(helper())
    assert capfd.readouterr().err == ""
    build(helper())
    assert capfd.readouterr().err == ""
    changed = helper(patched(monkeypatch, name))
    assert changed.fingerprint() == helper().fingerprint()
    cache = build(changed)
    torch.testing.assert_close(
        cache.batch(range(12), "0")[2], changed(Pictures().images), rtol=1e-3, atol=1e-3
    )
    assert cache.shape("0") == changed.shape
    told = capfd.readouterr().err
    assert (
        told.count("layer '0' gives other values now than those that were cached: they are computed again")
        == 1
    )
    build(changed)
    assert capfd.readouterr().err == ""


def test_half_built_rows_are_looked_at_too(monkeypatch, tmp_path):
    class Interrupted(Pictures):
        def __getitem__(self, index):
            if index == 10:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        build(helper(), dataset=Interrupted())
    changed = helper(patched(monkeypatch, "a function"))
    cache = build(changed)
    torch.testing.assert_close(
        cache.batch(range(12), "0")[2], changed(Pictures().images), rtol=1e-3, atol=1e-3
    )


def test_stale_moments(capfd):
    code = flat()
    build(layer(lambda x: x), code)
    code.scale.data.mul_(-1)  # and its fingerprint says nothing of it
    cache = build(layer(lambda x: x), code)
    torch.testing.assert_close(cache.moments(range(12))[0], -Pictures().images.mean((2, 3))[:, :2])
    assert "the autoencoder gives other values now" in capfd.readouterr().err


def test_networks_let_through_with_their_chance_are_believed(capfd):
    at = layer(lambda x: x + torch.randn_like(x), check=False)
    first = build(at).batch(range(12), "0")[2]
    assert torch.equal(build(at).batch(range(12), "0")[2], first)
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match="no function of the picture"):
        build(layer(lambda x: x + torch.randn_like(x)))


@pytest.mark.parametrize(
    ("there", "rows"),
    [
        ([0], [0]),
        ([3, 7], [3, 7]),
        (range(3), [0, 1, 2]),
        (range(4), [0, 1, 2, 3]),
        (range(100), [0, 33, 66, 99]),
    ],
)
def test_rows_to_try(there, rows):
    assert rows_to_try(there) == rows


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda z: z, False),
        (lambda z: z.half().float(), False),
        (lambda z: z.bfloat16().float(), False),
        (lambda z: z * 1.05, True),
        (lambda z: -z, True),
        (lambda z: z * float("nan"), True),
        (lambda z: z[:, :50], True),
        (lambda z: torch.cat([z[:3], -z[3:]]), True),
        (lambda z: torch.cat([torch.cat([-z[:1, :8], z[:1, 8:]], 1), z[1:]]), True),
        (lambda z: torch.cat([-z[:, :1], z[:, 1:]], 1), False),
    ],
    ids=[
        "same",
        "float16",
        "bfloat16",
        "a factor",
        "a sign",
        "NaN",
        "a shape",
        "one row",
        "a part of one row",
        "one of 400 values",
    ],
)
def test_what_counts_as_stale(change, stale):
    z = torch.rand(4, 400, generator=torch.Generator().manual_seed(0)) + 0.5
    assert differs(z, change(z)) is stale
    assert not differs(torch.zeros(2, 3), torch.zeros(2, 3))
