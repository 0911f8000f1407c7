"""Autoencoders as diffusers keeps them, made here: nothing is downloaded."""

import pytest
import torch

from invariances import UserError, load_autoencoder
from invariances.autoencoder.hub import HubAutoencoder
from invariances.autoencoder.interface import Autoencoder
from invariances.data.shapes import Shapes

diffusers = pytest.importorskip("diffusers", reason="extra hub is not installed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub")
    blocks = {"block_out_channels": (4, 4, 4), "norm_num_groups": 2, "latent_channels": 4, "sample_size": 32}
    ways = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    diffusers.AutoencoderKL(**blocks, **ways).save_pretrained(folder / "kl")
    small = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 3}
    diffusers.AutoencoderTiny(**small, **counts).save_pretrained(folder / "tiny")
    diffusers.UNet2DModel(
        8,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        down_block_types=["DownBlock2D"] * 2,
        up_block_types=["UpBlock2D"] * 2,
    ).save_pretrained(folder / "unet")
    return folder


def test_moments_and_pictures_are_the_models_own(kept):
    code = load_autoencoder(f"{kept / 'kl'}")
    model = diffusers.AutoencoderKL.from_pretrained(kept / "kl")
    assert isinstance(code, Autoencoder)
    assert (code.image_size, code.latent_shape, code.latent_dim) == (32, (4, 8, 8), 256)
    images = Shapes(2, size=32).images(range(2))
    posterior = code.encode(images)
    with torch.no_grad():
        own = model.encode(images).latent_dist
        assert torch.allclose(posterior.mean, own.mean)
        assert torch.allclose(posterior.logvar, own.logvar)
        assert torch.allclose(code.decode(own.mean), model.decode(own.mean).sample.clamp(-1, 1))
    assert not any(each.requires_grad for each in code.parameters())


def test_the_size_is_the_names_and_the_fingerprint_the_weights(kept):
    tiny = load_autoencoder(f"{kept / 'tiny'}@48")
    assert tiny.latent_shape == (3, 24, 24)
    assert tiny.encode(torch.zeros(2, 3, 48, 48)).logvar.exp().sqrt().mean() == pytest.approx(0.05, rel=1e-4)
    assert tiny.fingerprint() == load_autoencoder(f"{kept / 'tiny'}@32").fingerprint()
    with torch.no_grad():
        next(tiny.parameters()).add_(1)
    assert tiny.fingerprint() != load_autoencoder(f"{kept / 'tiny'}@48").fingerprint()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unet", "holds UNet2DModel; give an AutoencoderKL"),
        ("kl@30", "multiple of 8"),
        ("kl@1", "does not code pictures of 1 pixels"),
    ],
)
def test_what_codes_no_pictures_is_refused(kept, name, said):
    with pytest.raises(UserError, match=said):
        load_autoencoder(f"{kept / name}")


def test_names_of_the_hub_offline(monkeypatch):
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    with pytest.raises(UserError, match="no autoencoder could be loaded as 'hf_hub:nobody/nothing'"):
        load_autoencoder("hf_hub:nobody/nothing")


def test_a_flow_is_trained_in_its_latents(kept, tmp_path):
    from invariances.flow.config import FlowConfig
    from invariances.interpreter import Interpreter
    from invariances.training.config import CacheConfig, FitConfig, LearningConfig, RunConfig
    from invariances.training.fit import fit_layers

    config = FitConfig(
        flow=FlowConfig("maps", 1, 8),
        learning=LearningConfig(steps=2, batch_size=4),
        cache=CacheConfig(folder=str(tmp_path / "features")),
        run=RunConfig(str(tmp_path / "run"), device="cpu", progress=False),
    )
    fit_layers("shapes_shape", ["pool"], str(kept / "kl"), Shapes(8, size=32), config=config)
    kept_run = Interpreter.load(tmp_path / "run")
    assert isinstance(kept_run.autoencoder, HubAutoencoder)
    assert not (tmp_path / "run" / "autoencoder.safetensors").exists()
    assert kept_run.sample(Shapes(1, size=32).images([0]), 2).shape == (1, 2, 3, 32, 32)
