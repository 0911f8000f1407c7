from pathlib import Path

import torch
from safetensors.torch import load_file

from invariances.recipes import shapes_models as shapes
from invariances.zoo.factor_reader import load_readers
from invariances.zoo.loading import load_autoencoder
from invariances.zoo.small_resnet import load_classifier


def test_every_model_is_made_and_can_be_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shapes, "TEST", 50)
    probes = (("shapes_shape", ("stage4",), 4, 100), ("shapes_cue", ("logits",), 4, 100))
    monkeypatch.setattr(shapes, "PROBES", probes)
    reached = shapes.build(tmp_path, precision="32-true", shortened=0.0005)
    for name in shapes.CLASSIFIERS:
        network = load_classifier(tmp_path / f"{name}.safetensors")
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 8)
        assert 0 <= reached[name] <= 1
    assert load_autoencoder(tmp_path / "shapes_vae.safetensors").latent_dim == 64
    readers = load_readers(tmp_path / "shapes_reader.safetensors")
    assert set(readers) == {"reader", "shapes_shape/stage4", "shapes_cue/logits"}
    assert {name: set(table) for name, table in reached["probe"].items()} == {
        "shapes_shape": {"stage4"},
        "shapes_cue": {"logits"},
    }
    before = {file.stem: load_file(file) for file in tmp_path.glob("*.safetensors")}
    monkeypatch.setattr(shapes, "PROBES", (*probes, ("shapes_shape", ("logits",), 4, 100)))
    (tmp_path / "shapes_colour.safetensors").unlink()
    again = shapes.build(tmp_path, precision="32-true", shortened=0.0005)
    assert set(again["probe"]["shapes_shape"]) == {"stage4", "logits"}
    assert again["reader"] == reached["reader"]
    assert again["probe"]["shapes_shape"]["stage4"] == reached["probe"]["shapes_shape"]["stage4"]
    after = {file.stem: load_file(file) for file in tmp_path.glob("*.safetensors")}
    assert set(after) == set(before)
    assert set(after["shapes_reader"]) > set(before["shapes_reader"])
    for name, tensors in before.items():
        assert all(torch.equal(after[name][key], tensor) for key, tensor in tensors.items()), name
