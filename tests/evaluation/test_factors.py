import math

import pytest
import torch
from torch import Tensor

from invariances.data.shapes import FACTORS, Shapes
from invariances.evaluation.factors import KeptFactors, kept_by_probe, kept_by_samples, reading_quality
from invariances.evaluation.looking import Sampling, look
from invariances.system.errors import UserError
from invariances.training.readers import fit_readers
from invariances.zoo.factor_reader import (
    OUTPUTS,
    SLICES,
    FactorReader,
    load_readers,
    loss,
    save_readers,
    targets,
    values,
)

N = 4000


def factors(seed: int, n: int = N) -> dict[str, Tensor]:
    return Shapes(n, seed=seed).factors(range(n))


def repeated(known: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:, None].expand(-1, n) for name, value in known.items()}


def perfect(known: dict[str, Tensor], certainty: float = 30.0) -> Tensor:
    out = targets(known)
    for name, factor in FACTORS.items():
        if factor.discrete:
            out[:, SLICES[name]] = certainty * torch.nn.functional.one_hot(known[name], 8).float()
    return out


def test_perfect_copies_keep_all() -> None:
    truth = factors(0)
    assert kept_by_samples(repeated(truth, 3), truth, truth) == pytest.approx(dict.fromkeys(FACTORS, 1.0))
    assert kept_by_probe(perfect(truth), truth) == pytest.approx(dict.fromkeys(FACTORS, 1.0), abs=1e-5)


def test_random_pictures_keep_nothing() -> None:
    truth, other = factors(0), factors(1, 4 * N)
    samples = {name: value.view(N, 4) for name, value in other.items()}
    assert kept_by_samples(samples, truth, truth) == pytest.approx(dict.fromkeys(FACTORS, 0.0), abs=0.03)
    uninformed = torch.zeros(N, OUTPUTS)
    assert kept_by_probe(uninformed, truth) == pytest.approx(dict.fromkeys(FACTORS, 0.0), abs=0.01)


@pytest.mark.parametrize("known", [0.25, 0.5, 0.9])
def test_half_known_gaussian_meets_the_probe(known: float) -> None:
    """A layer that knows f = √k·a + √(1 − k)·b through a alone: samples redraw b, the probe predicts √k·a."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50_000, generator=generator)
    truth = {"x": math.sqrt(known) * a + math.sqrt(1 - known) * b}
    fresh = torch.randn(50_000, 2, generator=generator)
    samples = {"x": math.sqrt(known) * a[:, None] + math.sqrt(1 - known) * fresh}
    assert kept_by_samples(samples, truth, truth)["x"] == pytest.approx(known, abs=0.01)
    spread = float(truth["x"].var())
    assert 1 - float((math.sqrt(known) * a - truth["x"]).square().mean()) / spread == pytest.approx(
        known, abs=0.01
    )


@pytest.mark.parametrize("width", [0.02, 0.25, 0.5, 1.0])
def test_hues_known_up_to_an_arc(width: float) -> None:
    """Hue known to lie on an arc of `width` turns: both numbers are sinc²(width), with no seam at 0 = 1."""
    generator = torch.Generator().manual_seed(1)
    middle = torch.rand(40_000, generator=generator)
    hue = (middle + width * (torch.rand(40_000, generator=generator) - 0.5)) % 1
    drawn = (middle[:, None] + width * (torch.rand(40_000, 2, generator=generator) - 0.5)) % 1
    expected = float(torch.sinc(torch.tensor(width))) ** 2
    truth = {"foreground_hue": hue}
    assert kept_by_samples({"foreground_hue": drawn}, truth, truth)["foreground_hue"] == pytest.approx(
        expected, abs=0.02
    )
    every = factors(2, 40_000) | {"foreground_hue": middle}
    outputs = targets(every)
    outputs[:, SLICES["foreground_hue"]] *= float(torch.sinc(torch.tensor(width)))
    assert kept_by_probe(outputs, truth)["foreground_hue"] == pytest.approx(expected, abs=0.02)


def test_discrete_known_with_a_probability() -> None:
    """A layer that tells the kind in 60 % of pictures and nothing in the others keeps 0.6 of it."""
    truth = factors(3, 20_000)["shape"]
    generator = torch.Generator().manual_seed(2)
    told = torch.rand(20_000, generator=generator) < 0.6
    guess = torch.randint(8, (20_000, 3), generator=generator)
    samples = torch.where(told[:, None], truth[:, None], guess)
    assert kept_by_samples({"shape": samples}, {"shape": truth}, {"shape": truth})["shape"] == pytest.approx(
        0.6, abs=0.01
    )
    outputs = torch.zeros(20_000, OUTPUTS)
    outputs[:, SLICES["shape"]] = 30.0 * told[:, None] * torch.nn.functional.one_hot(truth, 8)
    assert kept_by_probe(outputs, {"shape": truth})["shape"] == pytest.approx(0.6, abs=0.01)


def test_the_readers_errors_are_taken_out() -> None:
    truth = factors(4, 20_000)["texture"]
    generator = torch.Generator().manual_seed(3)

    def misread(value: Tensor) -> Tensor:
        wrong = torch.rand(value.shape, generator=generator) < 0.2
        return torch.where(wrong, torch.randint(8, value.shape, generator=generator), value)

    samples = {"texture": misread(truth[:, None].expand(-1, 4).contiguous())}
    kept = kept_by_samples(samples, {"texture": truth}, {"texture": misread(truth)})
    assert kept["texture"] == pytest.approx(1.0, abs=0.02)


def test_values_undo_targets() -> None:
    truth = factors(5, 200)
    read = values(perfect(truth))
    assert reading_quality(read, truth) == pytest.approx(dict.fromkeys(FACTORS, 1.0), abs=1e-6)
    for name, factor in FACTORS.items():
        assert torch.allclose(
            read[name].float(), truth[name].float(), atol=1e-4 * (factor.high - factor.low)
        ), name
    assert float(loss(perfect(truth), truth)) == pytest.approx(0.0, abs=1e-4)


def test_what_cannot_be_measured_is_refused() -> None:
    still = {"x": torch.full((10,), 0.1)}
    with pytest.raises(ValueError, match="x does not vary"):
        kept_by_samples({"x": torch.zeros(10, 2)}, still, still)
    with pytest.raises(ValueError, match="samples"):
        kept_by_samples({"x": torch.zeros(10)}, {"x": torch.randn(10)}, {"x": torch.randn(10)})
    with pytest.raises(UserError, match=r"\(C, H, W\)"):
        FactorReader((3, 4))


@pytest.mark.parametrize("shape", [(3, 64, 64), (16, 32, 32), (128, 4, 4), (8, 7, 7), (256,), (256, 1, 1)])
def test_readers_take_every_shape(shape: tuple[int, ...]) -> None:
    assert FactorReader(shape, width=4).eval()(torch.randn(2, *shape)).shape == (2, OUTPUTS)


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adam", 3e-3), ("muon", 0.02)])
def test_a_reader_learns_what_its_input_tells_and_is_calibrated(tmp_path, optimizer, learning_rate) -> None:
    """The input holds x, the shape, and noise in place of all else: the reader finds just these."""
    source = Shapes(6000, seed=6)
    generator = torch.Generator().manual_seed(4)

    def inputs(indices: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        factors = source.factors(indices)
        noise = torch.randn(len(indices), 4, generator=generator)
        kind = torch.nn.functional.one_hot(factors["shape"], 8).float()
        return {"z": torch.cat([4 * factors["x"][:, None], kind, noise], 1)}, factors

    torch.manual_seed(0)
    readers = {"z": FactorReader((13,), width=4)}
    fit_readers(
        readers, inputs, 4000, steps=250, optimizer=optimizer, learning_rate=learning_rate, progress=False
    )
    z, truth = inputs(torch.arange(4000, 5000))
    readers["z"].calibrate(z["z"], truth)
    z, truth = inputs(torch.arange(5000, 6000))
    kept = kept_by_probe(readers["z"](z["z"]), truth)
    assert kept["x"] > 0.9
    assert kept["shape"] > 0.9
    for name in set(FACTORS) - {"x", "shape"}:
        assert kept[name] == pytest.approx(0.0, abs=0.03), name
    save_readers(readers, tmp_path / "r.safetensors", dtype=torch.float32)
    again = load_readers(tmp_path / "r.safetensors")["z"]
    assert torch.equal(again(z["z"]), readers["z"](z["z"]))
    with pytest.raises(UserError, match="models build shapes"):
        load_readers(tmp_path / "none.safetensors")


class RedReader:
    """Reads a picture's red as its x, and whether it is above zero as its shape."""

    def read(self, images: Tensor) -> dict[str, Tensor]:
        red = 4 * images[:, 0].mean(dim=(1, 2))
        return {"x": red, "shape": (red > 0).long()}


def test_factors_in_a_pass_are_those_of_the_samples_with_intervals(world) -> None:
    """A sampler with half of red's variance left open keeps half of it."""
    flow = world.Gaussian([[0.5, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], [0.4 * math.sqrt(0.75), 0.0, 0.0])
    pictures = world.Pictures(600)
    pictures.colours[:, 0] = pictures.colours[:, 0].clamp(-0.9, 0.9)
    red = pictures.colours[:, 0]
    truth = {"x": red, "shape": (red > 0).long()}
    interpreter = world.interpreter(world.identity, flow)
    found = look(interpreter, pictures, [KeptFactors(RedReader(), truth, 3)], Sampling(3))
    assert found["factors"]["x"] == pytest.approx(0.5, abs=0.06)
    for name in truth:
        low, high = found["factors_interval"][name]
        assert low < found["factors"][name] < high < low + 0.3
