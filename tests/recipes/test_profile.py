"""Profiles of a small world, and their comparison."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.cli.main import main
from invariances.data.shapes import Shapes
from invariances.evaluation.looking import Sampling
from invariances.evaluation.profiling import profile_layer
from invariances.evaluation.tables import load_tables
from invariances.flow.config import FlowConfig
from invariances.interpreter import Interpreter, autoencoder_of
from invariances.recipes.compare import compare, paired
from invariances.recipes.profile import PAGE, PROFILE, ProfileConfig, profile
from invariances.recipes.profile_store import begin
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.training.config import PRESETS, DataConfig, LearningConfig
from invariances.training.data import FeatureData
from invariances.training.run_folder import alone

LAYERS = ["layer1", "layer4"]
CONFIG = ProfileConfig(n=3, limit=12, shown=2, device="cpu", progress=False)


def small():
    """A classifier of two layers."""
    layers = {
        "layer1": nn.Sequential(nn.Conv2d(3, 6, 5, 4), nn.ReLU()),
        "layer4": nn.Sequential(nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        "fc": nn.Linear(32, 5),
    }
    network = nn.Sequential()
    for name, each in layers.items():
        network.add_module(name, each)
    network.preprocessing = {"size": 64, "mean": 0.5, "std": 0.25}
    return network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def made(place):
    """Two profiles of one random network, and one of another, all of two layers."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    patch.setenv("INVARIANCES_OFFLINE", "1")
    patch.setattr("invariances.training.attributes.STEPS", 20)
    learning = replace(LearningConfig.minutes(), steps=4, batch_size=8)
    patch.setitem(PRESETS, "minutes", lambda: (replace(FlowConfig.minutes(), width=8, blocks=1), learning))
    torch.manual_seed(0)
    code = place / "autoencoder.safetensors"
    save_autoencoder(VAE(64, latent_dim=4, width=4, max_width=4, blocks=0), code)
    found = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(seed)
        network = Representation(small(), "layer1")
        sets = Shapes(40, seed=5), Shapes(16, seed=6)
        arguments = (network, LAYERS, code, sets[0], place / name)
        found[name] = profile(*arguments, held_out=sets[1], config=CONFIG)
    yield found, arguments, sets[1]
    patch.undo()


def test_every_layer_has_all_numbers_with_intervals(place, made):
    found = made[0]["one"]
    assert list(found["layers"]) == LAYERS
    for layer in LAYERS:
        numbers = found["layers"][layer]
        for name in (
            "information",
            "variance_remaining",
            "variance_in_pixels",
            "source_rank",
            "prediction_kl",
        ):
            low, high = numbers[f"{name}_interval"]
            assert low <= numbers[name] <= high, name
        assert len(numbers["factors"]) >= 8
        assert {"shape", "x", "background_hue"} <= set(numbers["probe"])
        assert set(LAYERS) <= set(found["matrix"][layer])
    told = json.loads((place / "one" / PROFILE).read_text())
    assert told["layers"].keys() == found["layers"].keys()


def test_the_page_stands_alone_and_is_small(place, made):
    path = place / "one" / PAGE
    text = path.read_text()
    assert path.stat().st_size < 5_000_000
    assert "http" not in text
    assert text.count("<details") == CONFIG.shown
    for heading in ("The layers in numbers", "What is kept of each factor", "Where agreement ends"):
        assert heading in text
    assert "data:image/jpeg" in text


def test_a_profile_goes_on_where_it_stopped(place, made, monkeypatch):
    found, arguments, held_out = made
    (place / "other" / "tables" / "layer4.safetensors").unlink()
    monkeypatch.setattr("invariances.recipes.profile.fit_layers", None)
    monkeypatch.setattr("invariances.training.untold.Fitting.trained", None)
    calls = []
    real = __import__("invariances.recipes.profile", fromlist=["profile_layer"]).profile_layer

    def counted(interpreter, *rest):
        calls.append(interpreter.representation.layer)
        return real(interpreter, *rest)

    monkeypatch.setattr("invariances.recipes.profile.profile_layer", counted)
    again = profile(*arguments, held_out=held_out, config=CONFIG)
    assert calls == ["layer4"]
    assert again["layers"] == found["other"]["layers"], "what is measured anew is the same to the bit"


def test_a_network_and_itself_compare_as_equal(place, made):
    found = compare(place / "one", place / "again", place / "same")
    for layer in LAYERS:
        for name, each in found["layers"][layer].items():
            assert each["difference"] in (0.0, None), name
            assert not each["sure"], name


def test_networks_that_differ_are_told_apart(place, made):
    found = compare(place / "one", place / "other", place / "apart")
    text = (place / "apart" / "index.html").read_text()
    assert "most different first" in text
    assert any(one["difference"] for each in found["layers"].values() for one in each.values())
    for each in found["layers"].values():
        for name, one in each.items():
            if one["difference"] is not None:
                assert one["difference"] == pytest.approx(one["other"] - one["one"], abs=1e-9), name
                assert one["one_interval"][0] <= one["one"] <= one["one_interval"][1], name


def test_a_layer_that_only_one_has_is_named(place, made, capsys):
    shutil.copytree(place / "other", place / "fewer")
    told = json.loads((place / "fewer" / PROFILE).read_text())
    told["layers_measured"].remove("layer4")
    (place / "fewer" / PROFILE).write_text(json.dumps(told))
    apart = place / "not all"
    assert main(["compare", str(place / "one"), str(place / "fewer"), "--output", str(apart)]) == 0
    assert "not compared, since only one has them: layer4 (one)" in capsys.readouterr().err
    assert json.loads((apart / "comparison.json").read_text())["layers_of_one_alone"] == ["layer4 (one)"]
    assert "not compared: layer4 (one)" in (apart / "index.html").read_text()


def test_the_command_compares(place, made, capsys):
    status = main(
        ["compare", str(place / "one"), str(place / "other"), "--output", str(place / "by_command")]
    )
    assert status == 0
    assert "sure difference" in capsys.readouterr().out


def test_the_command_says_that_equal_profiles_are_equal(place, made, capsys):
    assert main(["compare", str(place / "one"), str(place / "again"), "--output", str(place / "equal")]) == 0
    assert capsys.readouterr().out == "no difference is sure\n"


def test_two_commands_do_not_work_in_one_folder(place, made, tmp_path):
    _, arguments, held_out = made
    with alone(place / "other"), pytest.raises(UserError, match=r"another process works in .*other"):
        profile(*arguments, held_out=held_out, config=CONFIG)
    (tmp_path / "c").mkdir()
    with alone(tmp_path / "c"), pytest.raises(UserError, match="another process works in"):
        compare(place / "one", place / "other", tmp_path / "c")


def test_no_page_of_another_kind_is_written_over(place, made):
    _, (*parts, _), held_out = made
    page = (place / "one" / PAGE).read_bytes()
    with pytest.raises(UserError, match="one' holds a profile; choose another --output"):
        compare(place / "one", place / "other", place / "one")
    assert (place / "one" / PAGE).read_bytes() == page
    compare(place / "one", place / "other", place / "compared")
    with pytest.raises(UserError, match="compared' holds a comparison; choose another --output"):
        profile(*parts, place / "compared", held_out=held_out, config=CONFIG)


def test_labels_that_cannot_be_read_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("invariances.recipes.profile.fit_layers", None)
    for k in range(8):
        Image.new("RGB", (64, 64), (k, k, k)).save(tmp_path / f"{k}.png")
    (tmp_path / "labels.csv").write_text("picture;age\n0.png;3\n", encoding="utf-8")
    code = tmp_path / "autoencoder.safetensors"
    save_autoencoder(VAE(64, latent_dim=4, width=4, max_width=4, blocks=0), code)
    network = Representation(small(), "layer1")
    with pytest.raises(UserError, match="separated by commas"):
        profile(network, LAYERS, code, tmp_path, tmp_path / "profile", config=CONFIG)


def test_a_profile_of_other_pictures_is_not_gone_on_with(tmp_path):
    begin(tmp_path, {"network": "a", "pictures": "b", "seed": "0"})
    with pytest.raises(UserError, match="a profile that differs in pictures, seed; choose"):
        begin(tmp_path, {"network": "a", "pictures": "c", "seed": "1"})


def test_no_likelihood_is_taken_where_there_is_no_information(place, made, monkeypatch):
    _, (network, _, code, *_), held_out = made
    monkeypatch.setattr("invariances.evaluation.profiling.log_probs", None)
    interpreter = Interpreter.load(
        place / "other" / "runs" / "layer4", network=network, autoencoder=autoencoder_of(code)
    )
    data = FeatureData(held_out, held_out, DataConfig(held_out=None), progress=False)
    data.prepare([interpreter.representation], interpreter.autoencoder, training=False)
    told = profile_layer(
        interpreter, held_out, data.held_out_features("layer4"), ["layer4"], sampling=Sampling(2)
    )
    assert "information" not in told.tables
    assert "variance_remaining" in told.tables


def test_what_does_not_compare_is_refused(place, made, tmp_path):
    with pytest.raises(UserError, match="holds no profile"):
        compare(tmp_path, place / "one", tmp_path / "x")
    shutil.copytree(place / "one", tmp_path / "changed")
    told = json.loads((tmp_path / "changed" / PROFILE).read_text())
    (tmp_path / "changed" / PROFILE).write_text(json.dumps({**told, "same": "no"}))
    with pytest.raises(UserError, match="other pictures"):
        compare(tmp_path / "changed", place / "one", tmp_path / "x")
    (tmp_path / "changed" / PROFILE).write_text("[1]")
    with pytest.raises(UserError, match="damaged"):
        compare(tmp_path / "changed", place / "one", tmp_path / "x")
    assert load_tables(place / "one" / "tables" / "layer1.safetensors")


def test_layers_are_paired_by_name_or_by_order():
    assert paired(["a", "b", "c"], ["c", "b"]) == [("b", "b"), ("c", "c")]
    assert paired(["a", "b"], ["x", "y"]) == [("a", "x"), ("b", "y")]
    with pytest.raises(UserError, match="share no layer"):
        paired(["a"], ["x", "y"])


def test_impossible_settings_are_refused():
    for wrong in ({"n": 1}, {"limit": 1}, {"preset": "weeks"}, {"second": "resnet50"}, {"shown": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            ProfileConfig(**wrong)
