from pathlib import Path

import torch

from invariances.autoencoder import load_autoencoder
from invariances.classifier import load_classifier
from invariances.evaluation.factors import load_readers
from invariances.recipes import shapes


def test_every_model_is_made_and_can_be_loaded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shapes, "TEST", 50)
    monkeypatch.setattr(shapes, "PROBES", ((("stage4",), 4, 100), (("logits",), 4, 100)))
    reached = shapes.build(tmp_path, precision="32-true", shortened=0.0005)
    for name in shapes.CLASSIFIERS:
        network = load_classifier(tmp_path / f"{name}.safetensors")
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 8)
        assert 0 <= reached[name] <= 1
    assert load_autoencoder(tmp_path / "shapes_vae.safetensors").latent_dim == 64
    readers = load_readers(tmp_path / "shapes_reader.safetensors")
    assert set(readers) == {"reader", "shapes_shape/stage4", "shapes_shape/logits"}
    assert set(reached["probe"]) == {"stage4", "logits"}
