import pytest
import torch

from invariances.experiments import attack as module
from invariances.experiments import samples
from invariances.experiments.attack import attack, noise_like, perturbed, top
from invariances.system.errors import UserError

METHODS = ["fgsm", "pgd"]


@pytest.mark.parametrize("method", METHODS)
def test_no_radius_changes_nothing(interpreter, images, seeds, method):
    found = attack(interpreter, images, method, 0.0, generator=seeds())
    assert torch.equal(found.attacked, found.original)
    assert torch.equal(found.noisy, found.original)
    assert torch.equal(found.samples, found.attacked_samples)
    assert torch.allclose(found.seen, found.reconstruction, atol=1e-4)
    assert torch.equal(found.probabilities["original"], found.probabilities["attacked"])
    assert all(float(each.max()) == 0 for each in found.movement["1"])


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("method", METHODS)
def test_an_attack_stays_in_its_ball_and_in_range_and_does_what_it_should(
    interpreter, images, seeds, method, target
):
    extreme = torch.cat([images, torch.ones_like(images[:1]), -torch.ones_like(images[:1])])
    found = attack(interpreter, extreme, method, 0.1, target, generator=seeds())
    assert (found.attacked - found.original).abs().max() <= 0.1 + 1e-6
    assert (found.attacked - found.original).abs().max() > 0.05
    for each in (found.attacked, found.noisy):
        assert each.abs().max() <= 1
    wanted = found.probabilities["original"].argmax(1) if target is None else found.target
    before, after = (
        found.probabilities[name].gather(1, wanted[:, None]) for name in ("original", "attacked")
    )
    assert bool((after < before).all()) if target is None else bool((after > before).all())


def test_noise_is_exactly_as_long_as_the_attack(interpreter, images, seeds):
    found = attack(interpreter, images, "pgd", 0.3, generator=seeds())
    length = [(each - found.original).flatten(1).norm(dim=1) for each in (found.attacked, found.noisy)]
    assert torch.allclose(*length, rtol=1e-4)
    at_the_edge = noise_like(torch.ones(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.9), torch.ones(1, 3, 4, 4))
    assert torch.allclose(at_the_edge, torch.full((1, 3, 4, 4), 0.9))


def test_pgd_finds_at_least_what_one_step_finds(interpreter, images):
    x = interpreter.resized(images)
    wanted = interpreter.representation.logits(x).argmax(1, keepdim=True)
    one, many = (
        interpreter.representation.logits(perturbed(interpreter.representation, x, method, 0.1))
        .softmax(1)
        .gather(1, wanted)
        for method in METHODS
    )
    assert float((many - one).max()) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_size_of_chunks_does_not_matter_and_a_seed_repeats_to_the_bit(
    interpreter, images, seeds, method, monkeypatch
):
    one, same = (attack(interpreter, images, method, 0.1, n=2, generator=seeds(5)) for _ in range(2))
    monkeypatch.setattr(samples, "CHUNK", 64)
    large = attack(interpreter, images, method, 0.1, n=2, generator=seeds(5))
    for name in ("attacked", "noisy", "seen", "samples", "attacked_samples"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert torch.allclose(getattr(one, name), getattr(large, name), atol=1e-4)
    assert not torch.equal(one.samples, attack(interpreter, images, generator=seeds(6), n=2).samples)


def test_samples_are_pairs_of_one_invariance(interpreter, images, seeds):
    found = attack(interpreter, images[:1], "fgsm", 0.5, n=3, generator=seeds())
    z = interpreter.represent(found.attacked)
    v = samples.invariances(interpreter, 1, 3, generator=seeds())
    assert torch.allclose(found.attacked_samples, samples.pictures_of(interpreter, v, z), atol=1e-5)


def test_movement_is_measured_where_asked_and_gradients_reach_no_weight(interpreter, images, seeds):
    found = attack(interpreter, images, epsilon=0.2, generator=seeds(), layers=["0", "logits"])
    assert set(found.movement) == {"0", "logits", "1"}
    assert all(float(each.min()) > 0 for pair in found.movement.values() for each in pair)
    assert not any(each.requires_grad for each in (found.attacked, found.seen, found.samples))
    assert all(each.grad is None for each in interpreter.representation.parameters())
    rows = found.numbers(interpreter.representation.class_names)
    assert len(rows) == len(images)
    assert [each["class"] in ("cat", "dog", "fox", "hen") for each in rows[0]["predicted_attacked"]] == [
        True
    ] * 3


def test_the_best_classes_come_first():
    assert [each["class"] for each in top(torch.tensor([0.1, 0.6, 0.3]), None)] == [
        "class 1",
        "class 2",
        "class 0",
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epsilon": -1}, "epsilon is -1"),
        ({"target": 9}, "0 to 3"),
        ({"method": "cw"}, "use 'fgsm' or 'pgd'"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_what_cannot_be_is_refused(interpreter, images, given, words):
    with pytest.raises(UserError, match=words):
        attack(interpreter, images, **given)
    assert module.STEPS > 1
