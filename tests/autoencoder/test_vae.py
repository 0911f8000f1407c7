import pytest
import torch

from invariances import UserError
from invariances.autoencoder.posterior import LOGVAR_RANGE, DiagonalGaussian
from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.zoo.loading import load_autoencoder


def small_vae(size=32, latent_dim=8):
    torch.manual_seed(0)
    return VAE(size, latent_dim, width=8, max_width=16).eval()


def low_rank_images(count, rank, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, 3 * size * size, generator=generator) * 0.05
    return (torch.randn(count, rank, generator=generator) @ basis).unflatten(1, (3, size, size))


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes(size):
    vae = small_vae(size)
    posterior = vae.encode(torch.zeros(3, 3, size, size))
    assert posterior.mean.shape == posterior.logvar.shape == (3, 8)
    assert vae.decode(posterior.mode()).shape == (3, 3, size, size)


def test_other_sizes_are_resized_before_encoding():
    vae = small_vae(32)
    assert vae.encode(torch.zeros(2, 3, 50, 50)).mean.shape == (2, 8)


def test_starts_as_principal_components():
    images = low_rank_images(200, rank=8)
    vae = small_vae()
    vae.start_linear(images)
    latents = vae.encode(images).mode()
    assert torch.allclose(latents.mean(dim=0), torch.zeros(8), atol=1e-3)
    assert torch.allclose(latents.std(dim=0), torch.ones(8), atol=1e-2)
    assert (vae.decoder(latents) - images).abs().max() < 1e-3


def test_more_latents_than_pictures_start_finite():
    vae = small_vae(latent_dim=16)
    images = low_rank_images(4, rank=3)
    vae.start_linear(images)
    assert vae.encode(images).mean.isfinite().all()
    assert (vae.decoder(vae.encode(images).mode()) - images).abs().max() < 1e-2


def test_decoded_pictures_are_in_range():
    pictures = small_vae().decode(100 * torch.randn(4, 8))
    assert pictures.min() >= -1
    assert pictures.max() <= 1


def test_kl_matches_torch_and_is_zero_at_the_prior():
    torch.manual_seed(0)
    mean, logvar = torch.randn(5, 4), torch.randn(5, 4)
    posterior = DiagonalGaussian(mean, logvar)
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(posterior.kl(), expected, atol=1e-5)
    assert DiagonalGaussian(torch.zeros(1, 4), torch.zeros(1, 4)).kl().item() == 0


def test_logvar_is_clamped_and_samples_follow_the_generator():
    posterior = DiagonalGaussian(torch.zeros(2, 3), torch.tensor([[-100.0, 0, 100]] * 2))
    assert posterior.logvar[0].tolist() == [LOGVAR_RANGE[0], 0, LOGVAR_RANGE[1]]
    first, second = (posterior.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, posterior.sample(torch.Generator().manual_seed(4)))


def test_sample_moments():
    posterior = DiagonalGaussian(
        torch.full((20_000, 1), 2.0), torch.full((20_000, 1), 2 * torch.log(torch.tensor(0.5)).item())
    )
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert abs(sample.mean() - 2) < 0.02
    assert abs(sample.std() - 0.5) < 0.02


def test_save_and_load_to_the_bit(tmp_path):
    vae = small_vae()
    save_autoencoder(vae, tmp_path / "autoencoder.safetensors")
    loaded = load_autoencoder(tmp_path)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(loaded.encode(images).mean, vae.encode(images).mean)
    assert loaded.fingerprint() == vae.fingerprint()
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_fingerprint_follows_the_weights():
    vae = small_vae()
    before = vae.fingerprint()
    with torch.no_grad():
        vae.decoder.out.bias[0] += 1e-3
    assert vae.fingerprint() != before


def test_bad_files_get_a_sentence(tmp_path):
    path = save_autoencoder(small_vae(), tmp_path / "a.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_autoencoder(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_autoencoder(tmp_path / "b.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="holds no autoencoder"):
        load_autoencoder(tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="there is no autoencoder"):
        load_autoencoder(tmp_path / "none.safetensors")


def test_unwritable_place_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        save_autoencoder(small_vae(), tmp_path / "file" / "a.safetensors")


@pytest.mark.parametrize("options", [{"size": 48}, {"latent_dim": 0}, {"width": 0}, {"blocks": -1}])
def test_impossible_architectures_get_a_sentence(options):
    with pytest.raises(UserError):
        VAE(**options)
