from dataclasses import replace

import pytest
import torch

from invariances.training.stages import Stage


@pytest.fixture
def losses_of(monkeypatch):
    """Puts numbers in place of the held-out losses; a run of 10 steps measures them at steps 3, 6, 9 and 10."""

    def put(*losses):
        held_out = iter(losses)
        monkeypatch.setattr(Stage, "held_out_nll", lambda *_: next(held_out))

    return put


@pytest.mark.parametrize(("losses", "said"), [((1.0, 0.7, 0.6, 0.6), False), ((1.0, 0.6, 0.64, 0.66), True)])
@pytest.mark.parametrize(
    ("keep", "words"), [("best", "these weights are kept"), ("last", "last weights are kept")]
)
def test_a_run_that_learns_its_pictures_by_heart_says_so(
    setup, world, train, tmp_path, capsys, losses_of, losses, said, keep, words
):
    losses_of(*losses)
    train(setup, tmp_path, progress=True, learning=replace(world.learning, keep=keep))
    error = capsys.readouterr().err
    assert ("was lowest at step 6 (0.600 nats" in error) == said
    assert (words in error) == said


def same(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_of_the_lowest_held_out_loss_remain(setup, world, train, tmp_path, losses_of, ema):
    learning = replace(world.learning, schedule="constant", warmup=0, ema=ema)
    losses_of(1.0, 0.6)
    shorter = train(setup, tmp_path / "shorter", learning=replace(learning, steps=6, keep="last"))
    losses_of(1.0, 0.6, 0.7, 0.65)
    best = train(setup, tmp_path / "best", learning=learning)
    losses_of(1.0, 0.6, 0.7, 0.65)
    last = train(setup, tmp_path / "last", learning=replace(learning, keep="last"))
    assert same(best, shorter)
    assert not same(last, shorter)


def test_an_average_is_the_sum_that_its_decay_says(setup, world, train, tmp_path, monkeypatch):
    from lightning.pytorch import Callback

    weights = []

    class Watch(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            weights.append(next(pl_module.learner.transform.parameters()).detach().clone())

        def on_train_end(self, trainer, pl_module):
            weights.append(next(pl_module.learner.transform.parameters()).detach().clone())

    flow = train(setup, tmp_path, act=Watch(), learning=replace(world.learning, keep="last", ema=0.5))
    after = weights[-world.learning.steps :]
    expected = after[0]
    for each in after[1:]:
        expected = 0.5 * expected + 0.5 * each
    found = next(flow.transform.parameters())
    assert torch.allclose(found, expected, atol=1e-6)
