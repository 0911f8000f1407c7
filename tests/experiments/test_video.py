import pytest
import torch

from invariances.experiments.video import translated


def results(interpreter, picture, frames, **given):
    return torch.cat([each.results for each in translated(interpreter, picture, frames, **given)])


def test_equal_frames_give_equal_results(interpreter, images):
    made = results(interpreter, images[0], [images[1]] * 11, batch=4)
    assert made.shape == (11, 3, 32, 32)
    assert torch.allclose(made, made[:1].expand_as(made), atol=1e-5)


def test_the_picture_as_its_own_video_is_its_reconstruction(interpreter, images):
    made = results(interpreter, images[0], [images[0]])
    assert torch.allclose(made, interpreter.reconstruct(images[:1]), atol=1e-3)


def test_batch_size_does_not_matter(interpreter, images):
    one, three = (results(interpreter, images[0], images, batch=size) for size in (1, 3))
    assert torch.allclose(one, three, atol=1e-5)
    assert torch.allclose(one[2], interpreter.mix(images[:1], images[2:3])[0], atol=1e-4)


def test_frames_are_counted_and_read_only_when_needed(interpreter, images):
    read = []

    def frames():
        for number in range(100):
            read.append(number)
            yield images[number % 6]

    stream = translated(interpreter, images[0], frames(), batch=4)
    first, second = next(stream), next(stream)
    assert (first.first, second.first) == (0, 4)
    assert len(read) == 8, "no more frames are held than one batch"
    assert list(translated(interpreter, images[0], [])) == []
    assert pytest.approx(float((first.frames[1] - images[1]).abs().max())) == 0
