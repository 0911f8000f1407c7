import csv
import signal

import pytest
import torch

from invariances import UserError, load_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.training.autoencoder import augment, fit_autoencoder
from invariances.training.autoencoder_config import Objective, Schedule
from invariances.training.config import RunConfig
from invariances.training.perceptual import PatchDiscriminator, perceptual_distance


def pictures(count, size=32, seed=0):
    """Two soft blobs of random colour and place, uint8 (N, S, S, 3)."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    image = torch.zeros(count, size, size, 3)
    for _ in range(2):
        x, y = torch.rand(2, count, 1, 1, generator=generator) - 0.5
        blob = torch.exp(-8 * ((axis[None, None] - x) ** 2 + (axis[None, :, None] - y) ** 2))
        image += blob[..., None] * torch.rand(count, 1, 1, 3, generator=generator)
    return (image.clamp(0, 1) * 255).to(torch.uint8)


def small(latent_dim=8):
    torch.manual_seed(0)
    return VAE(32, latent_dim, width=8, max_width=16)


def quiet(folder, **options):
    return RunConfig(str(folder), **{"device": "cpu", "progress": False, "checkpoint_every": 120, **options})


def edges(images):
    return {"x": images.diff(dim=3), "y": images.diff(dim=2)}


def test_learns_beyond_principal_components(tmp_path):
    data, held_out = pictures(256), pictures(64, seed=1)
    start = small()
    start.start_linear(data.permute(0, 3, 1, 2) / 127.5 - 1)
    images = held_out.permute(0, 3, 1, 2) / 127.5 - 1
    before = (start(images) - images).abs().mean()
    vae = fit_autoencoder(
        data,
        held_out,
        vae=small(),
        objective=Objective(adversarial=0),
        schedule=Schedule(120, 32, learning_rate=3e-3, warmup=10, ema=0.9, flip=False, shift=0),
        run=quiet(tmp_path),
    )
    assert (vae(images) - images).abs().mean() < 0.97 * before
    assert load_autoencoder(tmp_path).fingerprint() == vae.fingerprint()
    assert list((tmp_path / "samples").glob("*.png"))
    with (tmp_path / "metrics.csv").open() as file:
        assert any(row["held_out_mae"] for row in csv.DictReader(file))


def test_a_stopped_run_goes_on_to_the_bit(tmp_path):
    schedule = Schedule(steps=6, batch_size=4, warmup=2, ema=0.5, shift=1)
    objective = Objective(perceptual=0.1, adversarial=0.3, adversarial_start=0.3)
    data, held_out = pictures(10), pictures(2, seed=1)

    def run(folder, network, resume=False):
        return fit_autoencoder(
            data,
            held_out,
            vae=small(),
            perceptual=[network],
            objective=objective,
            schedule=schedule,
            run=quiet(folder, resume=resume, seed=3),
        )

    whole = run(tmp_path / "whole", edges)
    calls = []

    def stops(images):
        calls.append(1)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGTERM)
        return edges(images)

    with pytest.raises(KeyboardInterrupt) as interrupt:
        run(tmp_path / "parts", stops)
    assert interrupt.value.__cause__.step == 5
    parts = run(tmp_path / "parts", edges, resume=True)
    assert parts.fingerprint() == whole.fingerprint()
    objective = Objective(perceptual=0.2, adversarial=0.3, adversarial_start=0.3)
    with pytest.raises(UserError, match="another objective"):
        run(tmp_path / "parts", edges, resume=True)


def test_a_finished_run_goes_on_with_more_steps_and_keeps_its_metrics(tmp_path):
    def run(steps, resume):
        fit_autoencoder(
            pictures(10),
            pictures(2, seed=1),
            vae=small(),
            objective=Objective(),
            schedule=Schedule(steps=steps, batch_size=4),
            run=quiet(tmp_path, checkpoint_every=20, resume=resume),
        )
        with (tmp_path / "metrics.csv").open() as file:
            return list(csv.DictReader(file))

    first = run(40, resume=False)
    assert {int(row["step"]) for row in first} == {20, 40}
    longer = run(60, resume=True)
    assert longer[: len(first)] == first
    assert {int(row["step"]) for row in longer} == {20, 40, 60}
    assert run(20, resume=False)[-1]["step"] == "20"


def test_augmentation_moves_and_mirrors():
    image = torch.zeros(200, 8, 8, 3, dtype=torch.uint8)
    image[:, 3, 2] = 255
    seen = augment(image, torch.Generator().manual_seed(0), flip=True, shift=1)
    places = {tuple(place.tolist()) for place in (seen[..., 0] == 255).nonzero()[:, 1:]}
    assert places <= {(row, column) for row in (2, 3, 4) for column in range(1, 7)}
    assert {column for _, column in places} == {1, 2, 3, 4, 5, 6}
    assert {row for row, _ in places} == {2, 3, 4}
    assert torch.equal(augment(image, torch.Generator(), flip=False, shift=0), image)


def test_perceptual_distance_is_zero_for_the_same_and_four_for_the_opposite():
    features = {"a": torch.randn(2, 3, 4, 4)}
    assert perceptual_distance(features, features) == 0
    opposite = perceptual_distance({"a": -features["a"]}, features)
    assert opposite == pytest.approx(4, abs=1e-5)


def test_critic_learns_to_tell_real_from_fake():
    torch.manual_seed(0)
    critic = PatchDiscriminator(8)
    real, fake = torch.randn(16, 3, 32, 32), torch.zeros(16, 3, 32, 32)
    assert critic(real).shape == (16, 1, 4, 4)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    first = critic.loss(real, fake).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = critic.loss(real, fake)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_unfit_pictures_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match="uint8"):
        fit_autoencoder(torch.zeros(4, 32, 32, 3), pictures(1), run=quiet(tmp_path))
    with pytest.raises(UserError, match="at least two"):
        fit_autoencoder(pictures(1), pictures(1), run=quiet(tmp_path))


def test_diverging_runs_stop_with_a_sentence(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        fit_autoencoder(
            pictures(8),
            pictures(2),
            vae=small(),
            schedule=Schedule(steps=50, batch_size=4, learning_rate=1e30, warmup=0),
            run=quiet(tmp_path),
        )


def test_a_run_does_not_go_on_with_as_many_other_pictures(tmp_path):
    def run(seed, resume):
        fit_autoencoder(
            pictures(8, seed=seed),
            pictures(2, seed=9),
            vae=small(),
            objective=Objective(perceptual=0),
            schedule=Schedule(2, 4),
            run=quiet(tmp_path, resume=resume),
        )

    run(0, resume=False)
    run(0, resume=True)
    with pytest.raises(UserError, match="trained on other pictures"):
        run(1, resume=True)
