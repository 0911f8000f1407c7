import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from torchvision.models import resnet50

import invariances.recipes.quickstart
from invariances.cli.main import main
from invariances.data.identity import Identity
from invariances.data.images import to_uint8
from invariances.data.shapes import FACTORS, Shapes
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.recipes import worlds
from invariances.recipes.budget import FEWEST, MOST, Work, affordable_steps, halved
from invariances.recipes.quickstart import Effort, quickstart
from invariances.recipes.worlds import MOST_CROPS, crops_of_each
from invariances.training.config import LearningConfig
from invariances.training.run_folder import KEPT_OUT

TINY = Effort(
    minutes=None,
    pictures=48,
    flow=FlowConfig(blocks=2, width=16, depth=1, embedder=EmbedderConfig("regression", width=4)),
    learning=replace(LearningConfig.minutes(), steps=3, batch_size=16),
    held_out=12,
    samples=2,
    processes=1,
    classifier_steps=2,
)
PLAIN = {"nll_bits_per_dim", "faithfulness_cosine", "top1_agreement", "variance_remaining"}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(invariances.recipes.quickstart, "Effort", lambda: TINY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photos(folder: Path, classes: list[str]) -> Path:
    from PIL import Image

    for index, image in enumerate(to_uint8(Shapes(24).images(range(24))).numpy()):
        place = folder / classes[index % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    return folder


def test_without_arguments_the_drawn_world(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(invariances.recipes.quickstart, "Effort", lambda: replace(TINY, processes=2))
    assert main(["quickstart", "--output", str(tmp_path / "q")]) == 0
    summary = json.loads((tmp_path / "q" / "summary.json").read_text())
    assert summary["seconds"] > 0
    assert len(summary["layers"]) >= 4
    for numbers in summary["layers"].values():
        assert set(numbers) >= PLAIN
        assert set(numbers["factors"]) == set(numbers["probe"]) == set(FACTORS)
        assert isinstance(numbers["nll_bits_per_dim"], float)
    cue = summary["cue"]
    assert set(cue["conflict"]) == {"shape", "texture", "neither"}
    assert (
        set(cue["layers"]["stage3"]["factors"])
        == set(cue["layers"]["stage3"]["probe"])
        == {"shape", "texture"}
    )
    assert set(cue["layers"]["logits"]) == {"probe"}
    page = (tmp_path / "q" / "index.html").read_text()
    assert page.count("data:image") >= len(summary["layers"]) + 2
    assert not any(word in page for word in ("http:", "https:", 'src="/', "<script", "<link"))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].endswith("index.html")
    assert len([line for line in lines if line.strip().startswith("invariances ")]) == 3


def test_crops_of_few_photos_make_as_many_pictures_as_wanted() -> None:
    assert crops_of_each(719, 18_000, None) == 25
    assert crops_of_each(20, 18_000, None) == MOST_CROPS
    assert crops_of_each(17_000, 18_000, None) == crops_of_each(40_000, 18_000, None) == 1
    assert crops_of_each(719, 18_000, "shapes_shape") == 25
    assert 1 <= crops_of_each(719, 18_000, resnet50()) < 5


def test_own_photos_in_class_folders(tmp_path, capsys) -> None:
    folder = photos(tmp_path / "photos", ["left", "right"])
    assert main(["quickstart", "--images", str(folder), "--output", str(tmp_path / "q")]) == 0
    captured = capsys.readouterr()
    assert "2 random crops of each" in captured.err
    summary = json.loads((tmp_path / "q" / "summary.json").read_text())
    assert len(summary["layers"]) >= 4
    assert all("factors" not in numbers for numbers in summary["layers"].values())
    assert "left" not in summary["layers"]
    assert (tmp_path / "q" / "index.html").exists()
    classifier = tmp_path / "q" / "photos_classifier.safetensors"
    assert main(["layers", str(classifier)]) == 0
    assert "stage3" in capsys.readouterr().out
    (evaluate,) = (shlex.split(line) for line in captured.out.splitlines() if "invariances evaluate" in line)
    assert evaluate[-2:] == ["--images", str(folder)]
    assert main([*evaluate[1:], "--n", "2"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["network"] == "photos_classifier"
    kept_out = Identity.load(Path(evaluate[2]) / KEPT_OUT)
    assert found["pictures"] == len(kept_out) < 24
    assert f"{24 - len(kept_out)} of 24 pictures were trained on and are left out" in captured.err
    assert main(["layers", str(tmp_path / "none.safetensors")]) == 2
    assert "there is no classifier at" in capsys.readouterr().err


@pytest.mark.parametrize("network", [[], ["--network", "shapes_texture"]])
def test_a_layer_that_is_none_is_refused_before_anything_is_trained(tmp_path, capsys, network) -> None:
    folder = photos(tmp_path / "photos", ["left", "right"])
    words = ["--images", str(folder), "--layers", "stage1", "nope", "--output", str(tmp_path / "q")]
    assert main(["quickstart", *words, *network]) == 2
    assert "there is no layer 'nope' in shapes_" in capsys.readouterr().err
    assert not list((tmp_path / "q").glob("*"))


def test_a_flat_folder_asks_for_a_network(tmp_path, capsys) -> None:
    folder = photos(tmp_path / "photos", ["."])
    assert main(["quickstart", "--images", str(folder), "--output", str(tmp_path / "q")]) == 2
    assert "--network" in capsys.readouterr().err


def test_layers_are_given_as_words(tmp_path) -> None:
    words = ["--layers", "stage4", "logits", "--output", str(tmp_path / "q")]
    assert main(["quickstart", *words]) == 0
    summary = json.loads((tmp_path / "q" / "summary.json").read_text())
    assert list(summary["layers"]) == ["stage4", "logits"]


def test_continuous_flows(tmp_path) -> None:
    effort = replace(TINY, flow=replace(TINY.flow, transform="continuous"))
    summary = quickstart(tmp_path / "q", layers=["pool"], effort=effort, progress=False)
    assert set(summary["layers"]["pool"]) >= PLAIN
    (run,) = (tmp_path / "q" / "runs").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["flow"]["transform"] == "continuous"


@pytest.mark.parametrize("processes", [1, 2])
def test_steps_follow_from_the_time_that_is_given(processes) -> None:
    works = [Work(TINY.flow, (64,), shape) for shape in ((16, 8, 8), (32,))]
    learning = replace(TINY.learning, batch_size=8)
    steps = [affordable_steps(works, learning, seconds, processes) for seconds in (0.0, 4.0, 1e9)]
    assert steps[0] == FEWEST
    assert FEWEST < steps[1] < MOST == steps[2]


def test_few_sizes_so_that_caches_serve_again() -> None:
    assert [halved(320, affordable) for affordable in (1e9, 320, 319.9, 81, 79, 0)] == [
        320,
        320,
        160,
        80,
        40,
        40,
    ]


def test_a_slow_machine_draws_fewer_pictures_and_says_so(monkeypatch, capsys) -> None:
    cuts = [("shapes_shape", "pool")]
    monkeypatch.setattr(worlds, "seconds_per_picture", lambda *_: 1e-6)
    world = worlds.drawn_world(cuts, Effort(), 0)
    assert (len(world.training), len(world.held_out)) == (18_000, 320)
    assert "short" not in capsys.readouterr().err
    monkeypatch.setattr(worlds, "seconds_per_picture", lambda *_: 0.01)
    world = worlds.drawn_world(cuts, Effort(), 0)
    assert (len(world.training), len(world.held_out)) == (4500, 320)
    assert "4,500 pictures" in capsys.readouterr().err
    given = worlds.drawn_world(cuts, Effort(pictures=7, held_out=5), 0)
    assert (len(given.training), len(given.held_out)) == (7, 5)
    assert len(worlds.drawn_world(cuts, Effort(minutes=None), 0).training) == 18_000


def test_errors_and_help(tmp_path, capsys) -> None:
    for option, value in (("--steps", "0"), ("--held_out", "1"), ("--minutes", "-1")):
        assert main(["quickstart", option, value, "--output", str(tmp_path / "q")]) == 2
        assert option.lstrip("-") in capsys.readouterr().err
    assert main(["quickstart", "--layers", "stage9", "--output", str(tmp_path / "q")]) == 2
    assert "stage9" in capsys.readouterr().err
    assert main(["quickstart", "--help"]) == 0
    assert "invariances quickstart --images photos/" in capsys.readouterr().out
