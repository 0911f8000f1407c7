import pytest
import torch

from invariances.experiments import samples
from invariances.experiments.layers import layer_views

from .conftest import made


def test_a_view_shows_samples_and_numbers(interpreter, images, seeds):
    (view,) = layer_views([interpreter], images[0], 5, generator=seeds(), others=images)
    assert view.samples.shape == (5, 3, 32, 32)
    assert torch.equal(view.picture, images[0])
    assert torch.allclose(view.reconstruction, interpreter.reconstruct(images[:1])[0], atol=1e-6)
    assert view.cosine.shape == (5,)
    assert len(view.others) == len(images) - 1, "the picture itself is no other picture"
    assert float(view.others.max()) < 1 - 1e-6
    assert 0 <= view.agreement <= 1
    assert view.variance_open > 0
    assert set(view.numbers()) > {"cosine_of_samples", "variance_open"}


def test_layers_share_their_invariances(interpreter, images, seeds):
    one, same = layer_views([interpreter, made()], images[0], 4, generator=seeds(), others=images)
    assert torch.equal(one.samples, same.samples)


def test_temperature_zero_gives_one_picture_and_leaves_the_open_variance(interpreter, images, seeds):
    (still,) = layer_views([interpreter], images[0], 4, 0.0, seeds(), images)
    (true,) = layer_views([interpreter], images[0], 4, 1.0, seeds(), images)
    assert torch.allclose(still.samples[0], still.samples[1], atol=1e-5)
    assert not torch.allclose(true.samples[0], true.samples[1], atol=1e-3)
    assert still.variance_open == pytest.approx(true.variance_open)


def test_chunks_do_not_matter_and_seeds_repeat(interpreter, images, seeds, monkeypatch):
    one, same = (layer_views([interpreter], images[0], 6, generator=seeds(1), others=images)[0] for _ in "ab")
    monkeypatch.setattr(samples, "CHUNK", 64)
    (large,) = layer_views([interpreter], images[0], 6, generator=seeds(1), others=images)
    assert torch.equal(one.samples, same.samples)
    assert torch.allclose(one.samples, large.samples, atol=1e-4)
    assert one.variance_open == pytest.approx(large.variance_open, rel=1e-3)


def test_without_other_pictures_nothing_is_compared(interpreter, images):
    (view,) = layer_views([interpreter], images[0], 2)
    assert len(view.others) == 0
    assert view.variance_open is None
    assert view.numbers()["cosine_of_others"] is None
