"""A network's checkpoints, profiled one after the other on the same pictures."""

import json
from dataclasses import replace

import pytest
import torch
from torchvision.models import squeezenet1_1

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.cli.main import main
from invariances.data.shapes import SHAPES, Shapes
from invariances.flow.config import FlowConfig
from invariances.recipes.profile_training import checkpoints_of
from invariances.recipes.shapes_training import build_checkpoints
from invariances.report.marks import curves
from invariances.system.errors import UserError
from invariances.training.config import PRESETS, LearningConfig
from invariances.zoo.small_resnet import SmallResNet, load_classifier, save_classifier


def test_checkpoints_are_profiled_in_order_and_drawn_as_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    learning = replace(LearningConfig.minutes(), steps=2, batch_size=8)
    monkeypatch.setitem(
        PRESETS, "minutes", lambda: (replace(FlowConfig.minutes(), width=8, blocks=1), learning)
    )
    monkeypatch.setattr("invariances.training.attributes.STEPS", 2)
    monkeypatch.setattr(
        "invariances.recipes.profile_training.drawn_pictures",
        lambda seed: (Shapes(40, seed=5), Shapes(12, seed=6)),
    )
    torch.manual_seed(0)
    code = tmp_path / "autoencoder.safetensors"
    save_autoencoder(VAE(64, latent_dim=4, width=4, max_width=4, blocks=0), code)
    for step in (100, 20):
        save_classifier(SmallResNet(SHAPES, 2), tmp_path / f"step_{step}.safetensors")
    words = ["--checkpoints", str(tmp_path / "step_*.safetensors"), "--layers", "logits", "--n", "2"]
    more = ["--limit", "5", "--autoencoder", str(code), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["profile", "shapes_shape", *words, *more]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "training.json").read_text())
    assert found["checkpoints"] == ["step_20", "step_100"]
    one, other = (found["layers"]["logits"][name] for name in found["checkpoints"])
    assert one["information"] != other["information"]
    assert one["factors"].keys() == other["factors"].keys()
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.index("step_20") < text.index("step_100")
    assert "What samples keep of each factor" in text
    assert capsys.readouterr().err.count("one flow more is trained") == 1, "of both networks"
    assert main(["profile", "shapes_shape", *words, *more, "--weights", "x"]) == 2
    monkeypatch.setattr("invariances.recipes.profile_training.profile", None)
    (tmp_path / "step_300.safetensors").write_bytes((tmp_path / "step_20.safetensors").read_bytes()[:-100])
    capsys.readouterr()
    assert main(["profile", "shapes_shape", *words, *more]) == 2, "said before any is profiled again"
    assert "step_300.safetensors" in capsys.readouterr().err


def test_all_layers_of_all_checkpoints_are_looked_at_before_anything_is_trained(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("invariances.recipes.profile_training.profile", None)
    state = squeezenet1_1(weights=None).state_dict()
    torch.save({f"module.{name}": each for name, each in state.items()}, tmp_path / "1.pt")
    torch.save({"model": {name: each for name, each in state.items() if name[0] == "f"}}, tmp_path / "2.ckpt")
    words = ["squeezenet1_1", "--checkpoints", str(tmp_path / "[12].*"), "--output", str(tmp_path / "out")]
    assert main(["profile", *words, "--layers", "features.3", "classifier.1", "--device", "cpu"]) == 2
    assert "layer 'classifier.1' of squeezenet1_1 needs 'classifier.1.weight'" in capsys.readouterr().err


def test_checkpoints_come_in_order_of_their_numbers(tmp_path):
    for name in ("s2.pt", "s10.pt", "s1.pt"):
        (tmp_path / name).touch()
    assert [each.name for each in checkpoints_of(str(tmp_path / "*.pt"))] == ["s1.pt", "s2.pt", "s10.pt"]
    (tmp_path / "s100.pt").mkdir()
    with pytest.raises(UserError, match="names one file alone"):
        checkpoints_of(str(tmp_path / "s10*"))
    with pytest.raises(UserError, match="names no file"):
        checkpoints_of(str(tmp_path / "nothing*"))
    (tmp_path / "s1.ckpt").touch()
    with pytest.raises(UserError, match="several files of one name"):
        checkpoints_of(str(tmp_path / "s1.*"))


def test_a_classifier_is_kept_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("invariances.recipes.shapes_training.TEST", 8)
    found = build_checkpoints(tmp_path, (0, 1, 2))
    assert [path.name for path in found] == ["step_0.safetensors", "step_1.safetensors", "step_2.safetensors"]
    first, last = (load_classifier(path).state_dict() for path in (found[0], found[2]))
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_curves_have_a_dot_per_value_and_a_colour_per_line():
    values = {"a": [0.1, None, 0.3], "<b>": [0.2, 0.2, 0.2]}
    none = {key: [None] * 3 for key in values}
    text = curves(["x", "y", "z"], values, none | {"a": [[0.0, 0.2], None, None]})
    assert text.count("<circle") == 5
    assert text.count("<polyline") == 2
    assert "a, x: 0.100 [0.000, 0.200]" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
