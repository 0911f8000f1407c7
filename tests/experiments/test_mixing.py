import pytest
import torch

from invariances.experiments import samples
from invariances.experiments.mixing import mix
from invariances.system.errors import UserError


def test_a_picture_mixed_with_itself_is_its_reconstruction(interpreter, images):
    found = mix(interpreter, images)
    diagonal = torch.stack([found.mixed[k, k] for k in range(len(images))])
    assert torch.allclose(diagonal, interpreter.reconstruct(images), atol=1e-3)


def test_rows_are_contents_and_columns_invariances(interpreter, images):
    found = mix(interpreter, images)
    assert found.mixed.shape == (6, 6, 3, 32, 32)
    expected = interpreter.mix(content=images[1:2], invariance=images[4:5])[0]
    assert torch.allclose(found.mixed[1, 4], expected, atol=1e-4)
    assert found.grid().shape == (7, 7, 3, 32, 32)
    assert torch.equal(found.grid()[0, 3], found.pictures[2])
    assert torch.equal(found.grid()[3, 0], found.pictures[2])
    assert torch.equal(found.grid()[3, 5], found.mixed[2, 4])
    assert found.kept.shape == (6, 6)


def test_chunks_do_not_matter(interpreter, images, monkeypatch):
    small = mix(interpreter, images)
    monkeypatch.setattr(samples, "CHUNK", 64)
    assert torch.allclose(small.mixed, mix(interpreter, images).mixed, atol=1e-4)


def test_too_many_pictures_are_refused(interpreter, images):
    with pytest.raises(UserError, match="1 to 16"):
        mix(interpreter, images[:1].expand(17, 3, 32, 32))


def test_without_an_encoder_there_is_no_mixing(interpreter, images):
    class Decoder(torch.nn.Module):
        image_size, latent_dim = 32, 4

        def decode(self, z):
            return torch.zeros(len(z), 3, 32, 32)

    interpreter.autoencoder = Decoder()
    with pytest.raises(UserError, match="no encoder"):
        mix(interpreter, images)
    assert interpreter.sample(images, 2).shape == (6, 2, 3, 32, 32)
