import pytest
import torch
from torch import nn

from invariances.data.attributes import Attribute
from invariances.evaluation.attributes import AttributeReader, KeptAttributes
from invariances.evaluation.classes import classes_of
from invariances.evaluation.faithfulness import Faithfulness
from invariances.evaluation.fid import FID, FeatureSpace
from invariances.evaluation.looking import Accumulator, Eye, Sampling, look
from invariances.evaluation.numbers import evaluate
from invariances.evaluation.predictions import PredictionKL
from invariances.evaluation.ranking import Ranking
from invariances.evaluation.spread import Map, Spread, in_pixels
from invariances.representation.representation import Representation
from invariances.system.errors import UserError


@pytest.fixture
def interpreter(world):
    return world.interpreter(world.identity, world.Gaussian(world.identity, [0.1, 0.2, 0.3]))


class Mean(nn.Module):
    """Features of 8-bit pictures, which counts them."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, pictures):
        self.seen += len(pictures)
        return pictures.float().mean(dim=(2, 3))


class Everything(Accumulator):
    """Keeps what it is shown."""

    def __init__(self):
        self.first, self.drawn, self.pairs = {}, {}, {}

    def pictures(self, batch):
        self.first |= {int(k): image for k, image in zip(batch.indices, batch.pictures.images)}

    def samples(self, batch, drawn):
        for k, latent in zip(batch.indices, drawn.latents):
            self.drawn[int(k), drawn.column] = latent

    def others(self, pair):
        for k, one, other in zip(pair.indices, pair.one[0].images, pair.other[0].images):
            assert int(k) not in self.pairs
            self.pairs[int(k)] = one, other


def counted(monkeypatch, interpreter):
    calls = {"network": 0, "encode": 0, "decode": 0}
    network, code = interpreter.representation.network, interpreter.autoencoder
    classes_of(interpreter.representation)
    interpreter.representation.with_logits(torch.zeros(1, 3, 8, 8))
    cuts = interpreter.representation._cuts
    run, encode, decode = cuts.run, code.encode, code.decode

    def count(name, call):
        def wrapped(batch, *more):
            calls[name] += len(batch)
            return call(batch, *more)

        return wrapped

    assert network is cuts.network
    monkeypatch.setattr(cuts, "run", count("network", run))
    monkeypatch.setattr(code, "encode", count("encode", encode))
    monkeypatch.setattr(code, "decode", count("decode", decode))
    return calls


def test_every_part_runs_once_per_picture_or_sample(monkeypatch, world, interpreter):
    calls = counted(monkeypatch, interpreter)
    eye = Mean()
    pictures = world.Pictures(8)
    measures = [
        Faithfulness(8, 2, classes_of(interpreter.representation)),
        FID(FeatureSpace("mean", eye)),
    ]
    found = look(interpreter, pictures, measures, Sampling(2, batch_size=3))
    assert calls == {"network": 8 + 8 + 16, "encode": 8, "decode": 8 + 16}
    assert eye.seen == 8 + 8 + 2 * 8
    assert {"faithfulness_cosine", "fid", "top1_agreement"} <= set(found)


def test_all_numbers_together_cost_no_more(monkeypatch, world, interpreter):
    calls = counted(monkeypatch, interpreter)
    pictures = world.Pictures(8)
    evaluate(interpreter, pictures, world.features(pictures), sampling=Sampling(2), fid="none")
    assert calls == {"network": 8 + 8 + 16, "encode": 8, "decode": 8 + 16}


def test_the_network_of_fid_sees_known_pictures_no_more(interpreter, world):
    for real in (8, 0):
        eye = Mean()
        look(interpreter, world.Pictures(8), [FID(FeatureSpace("mean", eye), key="eight")], Sampling(1))
        assert eye.seen == real + 8 + 8


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_do_not_depend_on_batches_or_threads(world, interpreter, threads):
    pictures = world.Pictures(20)
    before = torch.get_num_threads()

    def numbers(size, count):
        torch.set_num_threads(count)
        try:
            sampling = Sampling(3, batch_size=size)
            return evaluate(interpreter, pictures, world.features(pictures), sampling=sampling, fid="auto")
        finally:
            torch.set_num_threads(before)

    def close(one, other):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, dict):
                close(value, other[name])
            elif isinstance(value, (float, list)):
                assert other[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
            else:
                assert other[name] == value, name

    close(numbers(20, 1), numbers(7, threads))


def test_a_sample_is_a_function_of_seed_picture_and_number(world, interpreter):
    def drawn(n, **more):
        keep = Everything()
        look(interpreter, world.Pictures(5), [keep], Sampling(n, **more))
        return keep.drawn

    few, many, other = drawn(2, batch_size=2), drawn(40, batch_size=5), drawn(2, seed=1)
    assert set(few) == {(k, column) for k in range(5) for column in range(2)}
    for key, latent in few.items():
        assert torch.allclose(many[key], latent, atol=1e-6)
        assert not torch.allclose(other[key], latent, atol=1e-3)


def test_the_temperature_is_the_deviation_of_the_noise(world, interpreter):
    def deviation(temperature):
        keep = Everything()
        look(interpreter, world.Pictures(2), [keep], Sampling(400, temperature=temperature))
        return torch.stack([keep.drawn[0, column] for column in range(400)]).std(dim=0)

    assert torch.allclose(deviation(0.5), torch.tensor([0.05, 0.1, 0.15]), rtol=0.1)
    assert float(deviation(0.0).max()) < 1e-6


@pytest.mark.parametrize("size", [1, 3, 40])
def test_the_other_of_a_picture_is_never_a_copy(world, interpreter, size):
    pictures = world.Pictures(40)
    pictures.colours = pictures.colours[torch.arange(40) // 4]
    pictures.colours[:20] = pictures.colours[0]
    keep = Everything()
    look(interpreter, pictures, [keep], Sampling(1, batch_size=size))
    assert set(keep.pairs) == set(range(40))
    for k, (one, other) in keep.pairs.items():
        assert torch.equal(one, keep.first[k])
        assert not torch.equal(one, other)


def test_others_are_as_good_as_drawn_at_random(world, interpreter):
    """Of pictures in order of class most others are of another class, though neighbours are of the same."""
    pictures = world.Pictures(400)
    order = pictures.colours[:, 0].argsort()
    pictures.colours = pictures.colours[order]
    keep = Everything()
    look(interpreter, pictures, [keep], Sampling(1, batch_size=64))
    one, other = (torch.stack([pair[k][:, 0, 0] for pair in keep.pairs.values()])[:, 0] for k in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.15


def test_further_layers_are_measured_in_the_same_pass():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    network.preprocessing = {"size": 8, "mean": 0.5, "std": 0.5}
    cut = Representation(network, "1")
    images = torch.rand(40, 3, 8, 8) * 2 - 1
    seen = Eye(cut, ["4", "1"])(images)
    assert set(seen.layers) == {"1", "4"}
    assert torch.allclose(seen.z, cut(images))
    assert torch.allclose(seen.layers["4"], cut.at("4")(images), atol=1e-6)
    assert torch.allclose(seen.logits, cut.logits(images), atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_samples(world, interpreter):
    truth = {"red": Attribute(torch.randn(12, generator=torch.Generator().manual_seed(0)).double())}

    def held(n):
        classes = classes_of(interpreter.representation)
        measures = [
            Faithfulness(12, n, classes),
            Ranking(12, n),
            PredictionKL(12, n, classes),
            Spread("pixels", in_pixels, 12),
            Map([0], n),
            KeptAttributes(AttributeReader((3,), truth).eval(), 12, n),
        ]
        look(interpreter, world.Pictures(12), measures, Sampling(n, batch_size=32))
        return sum(tensors(vars(each)) for each in measures)

    def tensors(value):
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size()
        if isinstance(value, dict):
            return sum(map(tensors, value.values()))
        return sum(map(tensors, value)) if isinstance(value, (list, tuple)) else 0

    assert held(4) == held(60) > 0


def test_impossible_sampling_is_refused():
    for wrong in (
        {"n": 0},
        {"temperature": -1.0},
        {"seed": -1},
        {"batch_size": 0},
        {"temperature": float("nan")},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Sampling(**wrong)
