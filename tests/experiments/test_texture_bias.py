import pytest
import torch

from invariances.experiments import samples
from invariances.experiments.texture_bias import texture_bias
from invariances.system.errors import UserError

from .conftest import made


def test_both_networks_get_the_same_invariances(interpreter, second, images, seeds):
    twins = texture_bias(interpreter, made(), images, 3, generator=seeds())
    assert torch.equal(*twins.samples)
    found = texture_bias(interpreter, second, images, 3, generator=seeds())
    v = samples.invariances(second, len(images), 3, generator=seeds())
    expected = samples.pictures_of(second, v, second.represent(images))
    assert torch.allclose(found.samples[1], expected, atol=1e-5)
    assert not torch.allclose(*found.samples, atol=1e-3)


def test_the_reader_tells_what_each_keeps(interpreter, second, images, seeds):
    def reader(pictures):
        bright = (pictures.flatten(1).mean(1) > 0).long()
        return {"shape": torch.zeros(len(pictures), dtype=torch.long), "texture": bright, "x": bright}

    found = texture_bias(interpreter, second, images, 4, generator=seeds(), reader=reader)
    assert torch.equal(found.kept[0]["shape"], torch.ones(len(images), dtype=torch.double))
    assert set(found.read) == {"shape", "texture"}
    assert found.kept[1]["texture"].max() <= 1
    assert found.numbers()[0]["first"]["shape"] == 1
    assert texture_bias(interpreter, second, images, 2).kept == ({}, {})


def test_chunks_do_not_matter_and_seeds_repeat(interpreter, second, images, seeds, monkeypatch):
    one, same = (texture_bias(interpreter, second, images, 3, generator=seeds(2)) for _ in "ab")
    monkeypatch.setattr(samples, "CHUNK", 64)
    large = texture_bias(interpreter, second, images, 3, generator=seeds(2))
    assert torch.equal(one.samples[0], same.samples[0])
    assert torch.allclose(one.samples[1], large.samples[1], atol=1e-4)


def test_other_latents_do_not_pair(interpreter, images):
    with pytest.raises(UserError, match="of one autoencoder"):
        texture_bias(interpreter, made(latent=8), images)
