import json
import math

import pytest
import torch

from invariances.evaluation.likelihood import bits_per_dim
from invariances.evaluation.looking import Sampling
from invariances.evaluation.numbers import evaluate, finite, lines


def test_every_mean_has_an_interval_that_holds_it(world):
    flow = world.Gaussian(world.identity, [0.1, 0.2, 0.3])
    pictures = world.Pictures(40)
    features = world.features(pictures)
    found = evaluate(world.interpreter(world.identity, flow), pictures, features, sampling=Sampling(2))
    assert json.loads(json.dumps(finite(found))) == finite(found)
    assert found["nll_bits_per_dim"] == pytest.approx(bits_per_dim(flow, features))
    means = ["nll_bits_per_dim", "variance_remaining", "variance_unpredicted", "faithfulness_cosine"]
    means += ["faithfulness_relative_l2", "top1_agreement", "top1_agreement_others", "autoencoder_mae"]
    for name in means:
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high, name
    for group in ("cosine", "relative_l2"):
        for name in ("samples", "reconstructions", "others"):
            low, high = found[group][f"{name}_interval"]
            assert low <= found[group][name] <= high, name
    entropy = math.log2(math.sqrt(2 * math.pi)) + sum(map(math.log2, (0.1, 0.2, 0.3))) / 3
    assert found["nll_bits_per_dim"] == pytest.approx(entropy, abs=1e-5)
    spread = float(pictures.colours.var(dim=0).sum())
    assert found["variance_remaining"] == pytest.approx((0.01 + 0.04 + 0.09) / spread, rel=0.1)


def test_a_limit_spreads_over_the_set(world):
    pictures = world.Pictures(40)
    pictures.colours = pictures.colours[0].repeat(40, 1)
    pictures.colours[-1] = -pictures.colours[0]
    interpreter = world.interpreter(world.identity, world.Gaussian(world.identity, [0.1, 0.2, 0.3]))
    found = evaluate(
        interpreter, pictures, world.features(pictures), sampling=Sampling(1), fid="none", limit=5
    )
    assert found["pictures"] == 40
    assert found["pictures_sampled"] == 5
    assert found["cosine"]["others"] < 1, "the last picture of the set is among the five"
    assert found["fid"] is None


def test_lines_tell_value_interval_and_reason():
    result = {
        "bits": 1.23456,
        "bits_interval": [1.0, float("nan")],
        "cosine": {"samples": 0.5, "samples_interval": [0.4, 0.6]},
        "top1": None,
        "top1_reason": "it has no classes",
        "fid": None,
        "factors": {"x": 0.7, "y": 0.2},
        "factors_interval": {"x": [0.6, 0.8], "y": None},
        "layer": "fc",
    }
    found = {line.name: line for line in lines(result)}
    assert list(found) == ["bits", "cosine.samples", "top1", "factors.x", "factors.y", "layer"]
    assert found["cosine.samples"].text() == "0.5000  [0.4000, 0.6000]"
    assert found["top1"].text() == "none: it has no classes"
    assert found["factors.x"].interval == [0.6, 0.8]
    assert found["factors.y"].text() == "0.2000"


def test_json_has_no_nan():
    assert finite({"a": [math.nan, 1.0], "b": {"c": math.inf}}) == {"a": [None, 1.0], "b": {"c": None}}
    assert torch.tensor(finite([1.0, 2.0])).tolist() == [1.0, 2.0]
