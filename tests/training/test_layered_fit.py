"""`fit` over maps: one flow for several layers, in one run's folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from invariances import UserError
from invariances.autoencoder.spatial import SpatialAutoencoder
from invariances.cli.main import main
from invariances.data.shapes import Shapes
from invariances.flow.config import FlowConfig
from invariances.interpreter import Interpreter
from invariances.training.config import CacheConfig, DataConfig, FitConfig, LearningConfig, RunConfig
from invariances.training.fit import fit_layers
from invariances.training.layered_fit import LayeredFeatures, check_layered

LAYERS = ["2", "4"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def code():
    torch.manual_seed(1)
    return SpatialAutoencoder(64, 4)


def settings(folder, **learning):
    return FitConfig(
        flow=FlowConfig("maps", 1, 8),
        data=DataConfig(held_out=0.25),
        learning=LearningConfig(**{"steps": 6, "batch_size": 8, **learning}),
        cache=CacheConfig(folder=str(folder / "features")),
        run=RunConfig(str(folder / "run"), device="cpu", log_every=2, progress=False),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layered")
    return folder, fit_layers(network(), LAYERS, code(), Shapes(24), config=settings(folder))


def test_one_folder_has_all_layers(run):
    folder, found = run
    assert list(found) == LAYERS
    kept = Interpreter.load(folder / "run", network=network())
    assert kept.layers == LAYERS
    images = Shapes(2, seed=5).images(range(2))
    for layer in LAYERS:
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        own = found[layer].sample(images, 2, generator=generators[0])
        assert torch.equal(own, kept.sample(images, 2, generator=generators[1], layer=layer))
        assert (folder / "run" / "samples" / f"{layer}_0000006.png").is_file()
    assert Interpreter.load(folder / "run", network=network(), layer="4").representation.layer == "4"
    with pytest.raises(UserError, match="no flow for layer '1'"):
        kept.sample(images, layer="1")


def test_its_numbers_and_pictures_go_where_those_of_other_flows_go(run):
    place = run[0] / "run"
    rows = (place / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,epoch,loss,held_out_2,held_out_4,learning_rate,images_per_second"
    assert [row.split(",")[0] for row in rows[1:]] == ["2", "4", "6"]
    assert list((place / "tensorboard").glob("events*"))
    assert (place / "checkpoints" / "last.pt").is_file()


def test_every_layer_has_its_own_pictures_of_a_step(run):
    folder, _ = run
    from invariances.representation.representation import Representation
    from invariances.training.data import FeatureData

    cuts = Representation.many(network(), LAYERS)
    data = FeatureData(
        Shapes(24), None, DataConfig(held_out=0.25), CacheConfig(folder=str(folder / "features"))
    )
    data.prepare(list(cuts), code())
    batches = LayeredFeatures({layer: data.features(layer) for layer in LAYERS}, 0)
    latents, told = batches.batch(0, 4)
    assert latents.shape == (8, 4, 8, 8)
    assert torch.cat([places for places, _ in told.values()]).tolist() == list(range(8))
    again = batches.batch(0, 4)
    assert torch.equal(latents, again[0])
    assert not torch.equal(latents, batches.batch(1, 4)[0])


def test_settings_that_this_loop_does_not_have_are_refused(tmp_path):
    with pytest.raises(UserError, match="steps and batch_size"):
        fit_layers(network(), LAYERS, code(), Shapes(8), config=settings(tmp_path, optimizer="muon"))


def test_the_command_takes_several_layers_and_goes_on(tmp_path, capsys):
    from invariances.autoencoder.storage import save_autoencoder

    save_autoencoder(code(), tmp_path / "ae.safetensors")
    words = ["fit", "--network", "shapes_shape", "--autoencoder", str(tmp_path / "ae.safetensors")]
    photos = tmp_path / "photos"
    photos.mkdir()
    from PIL import Image

    for number, picture in enumerate(((Shapes(12).images(range(12)) + 1) * 127.5).byte().permute(0, 2, 3, 1)):
        Image.fromarray(picture.numpy()).save(photos / f"{number}.png")
    words += ["--images", str(photos), "--preset", "maps", "--flow.blocks", "1", "--flow.width", "8"]
    words += ["--steps", "2", "--batch_size", "4", "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*words, "--layers", "stage2", "pool"]) == 0
    assert Interpreter.load(tmp_path / "run").layers == ["stage2", "pool"]
    config = tmp_path / "run" / "config.yaml"
    assert main(["fit", "-c", str(config), "--resume", "--steps", "4"]) == 0
    assert (
        main(
            [
                "sample",
                str(tmp_path / "run"),
                str(photos / "1.png"),
                "--layer",
                "pool",
                "--output",
                str(tmp_path / "s.png"),
            ]
        )
        == 0
    )
    looking = ["evaluate", str(tmp_path / "run"), "--fid", "none", "--n", "1", "--device", "cpu"]
    for more, layer in ((["--layer", "pool"], "pool"), ([], "stage2")):
        capsys.readouterr()
        assert main([*looking, *more]) == 0
        assert json.loads(capsys.readouterr().out)["layer"] == layer
    assert main([*words, "--layer", "stage2", "--output", str(tmp_path / "one")]) == 0
    assert Interpreter.load(tmp_path / "one").layers == ["stage2"]


def test_a_resumed_run_reads_its_checkpoint_once_and_keeps_its_normalisations(tmp_path, monkeypatch):
    given = settings(tmp_path)
    fit_layers(network(), LAYERS, code(), Shapes(24), config=given)
    read, steps, load, batch = [], [], torch.load, LayeredFeatures.batch

    def loading(path, *args, **options):
        read.append(Path(path).name)
        return load(path, *args, **options)

    def drawing(self, step, per_layer):
        steps.append((step, per_layer))
        return batch(self, step, per_layer)

    monkeypatch.setattr(torch, "load", loading)
    monkeypatch.setattr(LayeredFeatures, "batch", drawing)
    more = replace(given, learning=replace(given.learning, steps=7), run=replace(given.run, resume=True))
    fit_layers(network(), LAYERS, code(), Shapes(24), config=more)
    assert read == ["last.pt"]
    assert steps[0] == (6, 4)


@pytest.mark.parametrize(
    ("settings_of_the_run", "said"),
    [
        ({"devices": 2}, "in one process"),
        ({"num_nodes": 2}, "in one process"),
        ({"keep_checkpoints": 3}, "last checkpoint alone"),
        ({"evaluate_every": 1}, "evaluated by hand"),
    ],
)
def test_settings_of_a_run_that_it_does_not_have_are_refused_before_any_picture_is_read(
    tmp_path, settings_of_the_run, said
):
    config = settings(tmp_path)
    with pytest.raises(UserError, match=said):
        check_layered(replace(config, run=replace(config.run, **settings_of_the_run)), code())
    with pytest.raises(UserError, match="latents that are maps"):
        fit_layers(network(), LAYERS, "shapes_vae", Shapes(8), config=config)
    assert not (tmp_path / "features").exists()
