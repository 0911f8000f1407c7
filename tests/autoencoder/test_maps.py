"""Autoencoders whose latents are maps, pixels as their own, and what all of them share."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from invariances import UserError, zoo
from invariances.autoencoder.interface import Autoencoder
from invariances.autoencoder.lpips import LPIPS
from invariances.autoencoder.pixels import Pixels
from invariances.autoencoder.spatial import BOUND, NOISE, SpatialAutoencoder
from invariances.autoencoder.storage import load_saved, save_autoencoder
from invariances.autoencoder.tiny import TinyAutoencoder
from invariances.data.images import ImageFolder, from_uint8

torch.set_num_threads(1)
SHARED = Path(__file__).parents[3] / "shared"
TAEF2, ALEXNET = (
    SHARED / "weights" / "taef2.safetensors",
    SHARED / "weights" / "alexnet_features_lpips.safetensors",
)
needs_shared = pytest.mark.skipif(not TAEF2.is_file(), reason="needs ../shared/weights")


@pytest.fixture(scope="module")
def spatial():
    torch.manual_seed(0)
    return SpatialAutoencoder(16, 4).eval()


@pytest.mark.parametrize(
    "make", [lambda: SpatialAutoencoder(32, 4), lambda: TinyAutoencoder(4, True, 32), lambda: Pixels(32)]
)
def test_shapes_go_together(make):
    code = make().eval()
    assert isinstance(code, Autoencoder)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        posterior = code.encode(images)
        decoded = code.decode(posterior.mode())
    assert posterior.mean.shape == posterior.logvar.shape == (2, *code.latent_shape)
    assert torch.Size(code.latent_shape).numel() == code.latent_dim
    assert decoded.shape == images.shape
    assert float(decoded.abs().max()) <= 1


@pytest.mark.parametrize("sides", [(8, 8), (24, 16), (64, 40)])
@pytest.mark.parametrize("kind", [SpatialAutoencoder(16, 4), TinyAutoencoder(4)])
def test_any_multiple_of_eight_goes_in_and_out(kind, sides):
    images = torch.rand(1, 3, *sides)
    with torch.inference_mode():
        latents = kind.encode(images).mode()
        assert latents.shape == (1, 4, sides[0] // 8, sides[1] // 8)
        assert kind.decode(latents).shape == images.shape
    with pytest.raises(UserError, match="multiples of 8"):
        kind.encode(torch.rand(1, 3, 12, 16))


def test_latents_lie_in_bounds_and_have_one_noise(spatial):
    with torch.inference_mode():
        posterior = spatial.encode(100 * torch.randn(4, 3, 16, 16))
    assert float(posterior.mean.abs().max()) <= BOUND
    torch.testing.assert_close(posterior.logvar.exp().sqrt(), torch.full_like(posterior.mean, NOISE))


def test_a_picture_is_coded_by_itself(spatial):
    images = torch.rand(3, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(spatial(images)[1:2], spatial(images[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: SpatialAutoencoder(16, 4), lambda: TinyAutoencoder(4, True, 16)])
def test_files_come_back(make, tmp_path):
    code = make().eval()
    again = load_saved(save_autoencoder(code, tmp_path / "a.safetensors"))
    assert again.fingerprint() == code.fingerprint()
    assert again.config == code.config
    assert zoo.load_autoencoder(tmp_path / "a.safetensors").fingerprint() == code.fingerprint()


def test_pixels_lose_nothing():
    code, images = zoo.load_autoencoder("pixels32"), torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(code.decode(code.encode(images).mode()), images)
    assert zoo.load_autoencoder("pixels").latent_shape == (3, 64, 64)


def test_published_names_are_read_in_both_forms(tmp_path):
    code = TinyAutoencoder(4, pooled=True).eval()
    own = {
        name: each.clone(memory_format=torch.contiguous_format) for name, each in code.state_dict().items()
    }
    theirs = {}
    for name, each in own.items():
        side, place, rest = name.split(".", 2)
        theirs[f"{side}.layers.{int(place) - (side == 'decoder')}.{rest}"] = each
    for number, state in enumerate((own, theirs)):
        path = tmp_path / f"{number}.safetensors"
        save_file(state, path)
        assert zoo.load_autoencoder(path).fingerprint() == code.fingerprint()
    save_file({"decoder.1.weight": torch.zeros(64, 4, 3, 3)}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="holds no tiny autoencoder"):
        zoo.load_autoencoder(tmp_path / "part.safetensors")


def photos(count):
    faces = ImageFolder(SHARED / "data" / "animalfaces10", 64)
    return from_uint8(faces.tensor()[:: len(faces) // count][:count])


@needs_shared
def test_taef2_is_near_to_the_eye():
    images, code = photos(8), zoo.load_autoencoder(TAEF2)
    assert code.latent_shape == (32, 8, 8)
    with torch.inference_mode():
        assert float(LPIPS.from_file(ALEXNET)(images, code(images)).mean()) < 0.06


@needs_shared
def test_lpips_tells_noise_from_nothing():
    images, distance = photos(2), LPIPS.from_file(ALEXNET)
    with torch.inference_mode():
        assert float(distance(images, images).abs().max()) < 1e-6
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        far, near = (float(distance(images, images + each * noise).mean()) for each in (0.5, 0.1))
    assert far > 0.3 > near > 0.01


@needs_shared
def test_the_shipped_one_gives_photos_back():
    path, images = zoo.fetch("photos64_ae"), photos(16)
    code, distance = zoo.load_autoencoder("photos64_ae"), LPIPS.from_file(ALEXNET)
    assert path.stat().st_size < 6_000_000
    assert code.latent_shape == (32, 8, 8)
    with torch.inference_mode():
        assert float(distance(images, code(images)).mean()) < 0.07
        larger = torch.nn.functional.interpolate(images[:2], (96, 72), mode="bicubic").clamp(-1, 1)
        assert float(distance(larger, code(larger)).mean()) < 0.12


def test_drawn_pixels_are_spread_as_by_uniform_dequantisation():
    images = 2 * torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) - 1
    posterior = Pixels(32).encode(images)
    assert torch.equal(posterior.mode(), images)
    apart = posterior.sample(torch.Generator().manual_seed(0)) - images
    levels = 127.5 * apart  # uniform in one grey level: a deviation of 1 / √12
    assert levels.std() == pytest.approx(12**-0.5, rel=0.02)
