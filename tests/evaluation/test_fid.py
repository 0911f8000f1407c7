import pytest
import torch
from torch import nn

from invariances.evaluation.fid import FID, FeatureSpace, Moments, Vectors, feature_space, fid, frechet
from invariances.evaluation.looking import Sampling, look
from invariances.representation.representation import Representation
from invariances.system.errors import UserError


def colours(n, seed, shift=0.0, scale=0.15):
    generator = torch.Generator().manual_seed(seed)
    found = (
        torch.randn(n, 3, 1, 1, generator=generator) * scale + torch.tensor([shift, 0.0, 0.0])[:, None, None]
    )
    return (found.clamp(-1, 1) / 4).expand(-1, -1, 8, 8)


@pytest.fixture
def space(world):
    return FeatureSpace("colour", Vectors(Representation(world.Colour(world.identity), "fc")))


def test_the_same_pictures_are_at_distance_zero(space):
    pictures = colours(200, 0)
    assert fid(space, [pictures], [pictures]) == pytest.approx(0, abs=1e-4)


def test_a_shifted_mean_is_its_squared_length(space):
    real, shifted = colours(4000, 0), colours(4000, 1, shift=0.3)
    assert fid(space, [real], [shifted]) == pytest.approx(0.09, rel=0.05)


def test_a_wider_spread_is_the_squared_difference_of_deviations(space):
    real, wide = colours(6000, 0, scale=0.1), colours(6000, 1, scale=0.2)
    assert fid(space, [real], [wide]) == pytest.approx(3 * 0.1**2, rel=0.05)


def test_batches_do_not_matter(space):
    real, other = colours(100, 0), colours(100, 1, shift=0.2)
    whole = fid(space, [real], [other])
    assert fid(space, real.split(7), other.split(1)) == pytest.approx(whole, rel=1e-5)


def test_it_equals_torch_fidelity_and_torchmetrics():
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(16, 16, generator=generator).double()
    real = torch.randn(500, 16, generator=generator).double() @ mixing + 0.5
    other = torch.randn(300, 16, generator=generator).double() * 1.3
    found = []
    for rows in (real, other):
        moments = Moments()
        for part in rows.split(77):
            moments.add(part)
        found.append(moments.gaussian())
    statistics = [{"mu": rows.mean(0).numpy(), "sigma": rows.T.cov().numpy()} for rows in (real, other)]
    name = next(iter(fid_statistics_to_metric(*statistics, False)))
    truth = float(fid_statistics_to_metric(*statistics, False)[name])
    assert frechet(*found) == pytest.approx(truth, rel=1e-6)
    assert frechet(*found) == pytest.approx(float(_compute_fid(*found[0], *found[1])), rel=1e-6)


def test_a_set_against_itself_is_zero_and_never_below():
    for count in (3, 40, 500):
        moments = Moments()
        moments.add(torch.randn(count, 64, generator=torch.Generator().manual_seed(count)) + 3)
        assert 0 <= frechet(moments.gaussian(), moments.gaussian()) < 1e-9


def test_the_extractor_stays_in_eval_mode_and_averages_places():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    network.preprocessing = {"size": 8}
    vectors = Vectors(Representation(network, "2"))
    pictures = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parent = nn.ModuleList([vectors]).train()
    assert fid(FeatureSpace("maps", vectors), [pictures], [pictures[:8], pictures[8:]]) < 1e-9
    assert vectors.num_features == 4
    assert not any(each.training for each in parent[0].representation.network.modules())
    eight = ((pictures + 1) * 127.5).round()
    expected = vectors.representation(eight / 127.5 - 1).mean(dim=(2, 3))
    assert torch.allclose(vectors(eight.to(torch.uint8)), expected, atol=1e-6)


def test_samples_and_reconstructions_of_a_pass(world, space, monkeypatch):
    """Reconstructions that are exact are at distance zero, samples that know nothing are not."""
    interpreter = world.interpreter(world.identity, world.Gaussian([[0.0] * 3] * 3, [0.0] * 3))
    for _ in range(2):
        found = look(interpreter, world.Pictures(50), [FID(space, key="fifty")], Sampling(2))["fid"]
        assert found["features"] == "colour"
        assert found["pictures"] == 50
        assert found["reconstructions"] == pytest.approx(0, abs=1e-6)
        assert found["samples"] == pytest.approx(float(world.Pictures(50).colours.var(dim=0).sum()), rel=0.1)


def test_moments_kept_for_other_pictures_are_not_taken(world, space):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0] * 3))
    for key, seed in (("a", 0), ("b", 1)):
        found = look(interpreter, world.Pictures(50, seed), [FID(space, key=key)], Sampling(1))["fid"]
        assert found["reconstructions"] == pytest.approx(0, abs=1e-6)


def test_damaged_moments_are_measured_anew(world, space, tmp_path):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0] * 3))
    measure = FID(space, key="a")
    measure.kept.parent.mkdir(parents=True)
    measure.kept.write_bytes(b"no tensors")
    found = look(interpreter, world.Pictures(50), [FID(space, key="a")], Sampling(1))["fid"]
    assert found["reconstructions"] == pytest.approx(0, abs=1e-6)


def test_repeats_have_a_mean_and_a_deviation(world, space):
    interpreter = world.interpreter(world.identity, world.Gaussian([[0.0] * 3] * 3, [0.3] * 3))
    measure = FID(space, key="repeats")
    found = look(interpreter, world.Pictures(60), [measure], Sampling(5))["fid"]
    real = measure.known
    apart = [frechet(real, each.gaussian()) for each in measure.samples_of]
    assert (found["repeats"], len(set(apart))) == (3, 3)
    assert found["samples"] == pytest.approx(sum(apart) / 3)
    assert found["samples_deviation"] == pytest.approx(torch.tensor(apart).std().item())
    one = look(interpreter, world.Pictures(60), [FID(space)], Sampling(1))["fid"]
    assert (one["samples"], one["samples_deviation"]) == (pytest.approx(apart[0], rel=1e-6), None)
    for size in (1, 7):
        again = look(interpreter, world.Pictures(60), [FID(space)], Sampling(5, batch_size=size))["fid"]
        assert again["samples"] == pytest.approx(found["samples"], rel=1e-6)


def test_fewer_pictures_than_dimensions_are_warned_of(world, space, capsys):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0] * 3))
    found = look(interpreter, world.Pictures(2), [FID(space)], Sampling(1))["fid"]
    assert "2 pictures in 3 dimensions" in found["warning"]
    assert "compare it only with an FID of the same 2 pictures" in capsys.readouterr().err
    assert "warning" not in look(interpreter, world.Pictures(3), [FID(space)], Sampling(1))["fid"]


@pytest.mark.slow
def test_folders_are_as_far_apart_as_torch_fidelity_says(tmp_path, monkeypatch):
    """By Inception with weights of our own, since the published ones are no part of this project."""
    fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from PIL import Image
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    from invariances.data.images import from_uint8

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    place = tmp_path / "torch" / "hub" / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    place.parent.mkdir(parents=True)
    loaded = torch.nn.Module.load_state_dict
    with monkeypatch.context() as patch:
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {}
        )
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state, *a, **k: None)
        torch.manual_seed(0)
        torch.save(FeatureExtractorInceptionV3("inception", ["2048"]).state_dict(), place)
    assert torch.nn.Module.load_state_dict is loaded
    sides = []
    for name, dark in (("real", 0), ("other", 60)):
        (tmp_path / name).mkdir()
        generator = torch.Generator().manual_seed(dark)
        pictures = torch.randint(dark, 256, (12, 64, 64, 3), dtype=torch.uint8, generator=generator)
        for k, each in enumerate(pictures):
            Image.fromarray(each.numpy()).save(tmp_path / name / f"{k}.png")
        sides.append(from_uint8(pictures).split(5))
    truth = fidelity.calculate_metrics(
        input1=str(tmp_path / "other"),
        input2=str(tmp_path / "real"),
        fid=True,
        cuda=False,
        verbose=False,
        cache=False,
    )["frechet_inception_distance"]
    assert truth > 0
    assert fid(FeatureSpace("inception", 2048), *sides) == pytest.approx(truth, rel=1e-3)


def test_one_picture_has_no_distance_but_a_reason(world, space):
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.0] * 3))
    found = look(interpreter, world.Pictures(1), [FID(space)], Sampling(1))["fid"]
    assert found["samples"] is None
    assert "two pictures" in found["samples_reason"]


def test_fewer_than_two_pictures_have_no_distance(space):
    assert fid(space, [colours(1, 0)], [colours(5, 0)]) is None


def test_without_inception_the_network_itself_is_named(monkeypatch, world, tmp_path, capsys):
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    subject = Representation(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "0"
    )
    found = feature_space("auto", subject)
    assert found.name.endswith(":2")
    assert "no Inception" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"cannot be had \(offline, and .* is not there, which is from https://"
    ):
        feature_space("inception", subject)
    with pytest.raises(UserError, match="names no feature space"):
        feature_space("somewhere", subject)
