"""What a run can be told: a name, a start from another flow, a debug run, a series of checkpoints, evaluations."""

import csv
import json
import math
import shutil

import pytest
import torch

from invariances.interpreter import Interpreter
from invariances.training.checkpoints import checkpoint_of, load_checkpoint, weights_in
from invariances.training.run_folder import read_config
from invariances.training.schedule import due
from invariances.zoo.runs import flow_of


@pytest.fixture(scope="module")
def series(tmp_path_factory, words, cache_home):
    """A run of six steps with a series of checkpoints and evaluations."""
    from invariances.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        patch.setenv("INVARIANCES_OFFLINE", "1")
        folder = tmp_path_factory.mktemp("runs") / "series"
        more = ["--run.keep_checkpoints=2", "--run.checkpoint_every=1", "--learning.ema=0.5"]
        more += ["--run.evaluate_every=2", "--learning.keep=last", "--learning.learning_rate=0.01"]
        assert main(words(f"--output={folder}", *more, steps=6)) == 0
    return folder


def test_when_to_look():
    assert [step for step in range(2200) if due(step, 1000)] == [
        *(0, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        *(1000, 2000),
    ]
    assert [step for step in range(30) if due(step, 10)] == [0, 2, 4, 8, 10, 20]
    assert all(due(step, 1) for step in range(10))


def test_the_newest_few_checkpoints_stay_and_the_best(series):
    place = series / "checkpoints"
    assert sorted(each.name for each in place.iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "step_0000005.ckpt",
        "step_0000006.ckpt",
    ]
    assert load_checkpoint(place / "last.ckpt")["global_step"] == 6
    assert load_checkpoint(place / "step_0000005.ckpt")["global_step"] == 5
    with (series / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = {int(row["step"]): float(row["held_out_nll"]) for row in rows}
    assert len(losses) == 6
    assert load_checkpoint(place / "best.ckpt")["global_step"] == min(losses, key=losses.__getitem__)


def test_the_last_of_a_series_is_the_result(series):
    flow = flow_of(series)
    for name, value in weights_in(load_checkpoint(checkpoint_of(series, "6"))).items():
        assert torch.equal(flow.state_dict()[name], value), name


def test_each_row_has_the_parts_of_the_loss(series):
    with (series / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        for key in ("half_square", "log_det", "held_out_half_square", "held_out_log_det", "noise"):
            assert row[key]
        assert 0.2 < float(row["noise"]) < 1
        assert float(row["images_per_second"]) > 0


def test_evaluations_come_after_so_many_epochs_and_after_the_last_step(series):
    names = sorted(each.name for each in (series / "evaluations").glob("*.json"))
    assert names == [
        "step_0000004.json",
        "step_0000006.json",
    ]  # epochs of two steps
    found = json.loads((series / "evaluations" / "step_0000006.json").read_text())
    assert found["samples_per_picture"] == 3
    assert found["fid"]["repeats"] == 3
    assert found["fid"]["samples_deviation"] >= 0
    assert (series / "evaluations" / "step_0000006.png").stat().st_size > 1000


def test_a_checkpoint_of_choice_is_evaluated_also_of_a_run_that_is_not_finished(run, series, tmp_path):
    folder = tmp_path / "unfinished"
    shutil.copytree(series, folder)
    (folder / "interpreter.safetensors").unlink()
    status, _, err = run("evaluate", folder, "--fid", "none", "--n", "2")
    assert status == 2
    assert "no finished run" in err
    found = {}
    for which in ("5", "6", "best", "last", str(folder / "checkpoints" / "step_0000005.ckpt")):
        status, out, err = run("evaluate", folder, "--checkpoint", which, "--fid", "none", "--n", "2")
        assert status == 0, err
        found[which] = json.loads(out)["nll_bits_per_dim"]
    assert found["6"] == found["last"] != found["5"]
    assert list(found.values())[-1] == found["5"]
    status, _, err = run("evaluate", folder, "--checkpoint", "4")
    assert status == 2
    assert "'4' does not exist" in err
    assert "step_0000005.ckpt" in err
    whole = json.loads(run("evaluate", series, "--fid", "none", "--n", "2")[1])
    assert whole["nll_bits_per_dim"] == found["6"]


def test_a_checkpoint_of_another_run_is_not_evaluated_as_this_ones(run, words, series, photos, tmp_path):
    """Its numbers would be of another layer, or of pictures that it was trained on."""
    status, _, err = run(*words(f"--output={tmp_path / 'other'}", "--data.split_seed=1", steps=1))
    assert status == 0, err
    other = tmp_path / "other" / "checkpoints" / "last.ckpt"
    status, _, err = run("evaluate", series, "--checkpoint", other, "--fid", "none", "--n", "1")
    assert status == 2
    assert "is of another run than" in err


def test_evaluate_reads_yaml_and_needs_no_training_data(run, series, photos, tmp_path):
    (tmp_path / "a.yaml").write_text(f"run: {series}\nn: 5\nfid: none\n")
    (tmp_path / "b.yaml").write_text("n: 1\n")
    status, out, err = run("evaluate", "-c", tmp_path / "a.yaml", "-c", tmp_path / "b.yaml", "--seed", "3")
    assert status == 0, err
    found = json.loads(out)
    assert (found["samples_per_picture"], found["seed"], found["run"]) == (1, 3, str(series))
    status, _, err = run("evaluate", "--n", "2")
    assert status == 2
    assert "name the folder" in err
    assert "nearest" in run("evaluate", "-c", tmp_path / "a.yaml", "--lmit", "2")[2]


def test_a_flow_that_has_a_name_is_evaluated_on_given_pictures(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("evaluate", "shapes_shape", "--layer", "logits")
    assert status == 2
    assert "--images" in err
    words = ["--layer", "logits", "--images", photos, "--limit", "3", "--n", "1", "--fid", "none"]
    status, out, err = run("evaluate", "shapes_shape", *words)
    assert status == 0, err
    assert json.loads(out)["pictures"] == 24
    assert (tmp_path / "evaluations" / "shapes_shape_logits" / "evaluation.png").exists()


def test_a_run_starts_from_another_runs_flow_at_step_0(run, words, series, tmp_path):
    still = "--learning.learning_rate=1e-12"
    status, _, err = run(*words(f"--output={tmp_path / 'a'}", f"--init={series}", still, steps=1))
    assert status == 0, err
    theirs, ours = flow_of(series).state_dict(), flow_of(tmp_path / "a").state_dict()
    assert all(torch.allclose(value.float(), ours[key].float(), atol=1e-6) for key, value in theirs.items())
    with (tmp_path / "a" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    parts = float(row["half_square"]) - float(row["log_det"]) + 0.5 * math.log(2 * math.pi)
    assert parts == pytest.approx(float(row["nll"]), abs=1e-5)
    config = read_config(tmp_path / "a")
    assert (config.init, config.flow.width) == (str(series), 8)
    status, _, err = run("fit", "-c", tmp_path / "a" / "config.yaml", "--resume", "--steps", "3")
    assert status == 0, err
    assert load_checkpoint(tmp_path / "a" / "checkpoints/last.ckpt")["global_step"] == 3
    status, _, err = run(*words(f"--output={tmp_path / 'b'}", f"--init={series}", layer="layer1"))
    assert status == 2
    assert "for representations of shape" in err
    status, _, err = run(*words(f"--output={tmp_path / 'c'}", "--init=nowhere"))
    assert status == 2
    assert "'nowhere'" in err


def test_a_run_starts_from_a_shipped_flow(run, photos, tmp_path):
    words = ["--network=shapes_shape", "--layer=logits", "--autoencoder=shapes_vae", f"--images={photos}"]
    words += ["--init=shapes_shape", "--steps=1", "--batch_size=4", "--learning.learning_rate=1e-12"]
    status, _, err = run("fit", *words, "--device=cpu", "--run.samples_every=0", f"--output={tmp_path / 'a'}")
    assert status == 0, err
    theirs, ours = flow_of("shapes_shape", "logits"), flow_of(tmp_path / "a")
    assert theirs.config == ours.config
    for key, value in theirs.state_dict().items():
        assert torch.allclose(value.float(), ours.state_dict()[key].float(), atol=1e-5), key


def test_a_debug_run_is_ten_steps_and_never_in_the_way(run, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = words("--debug_run", "--name=try", "--run.wandb=nowhere", steps=1000)
    for _ in range(2):
        status, _, err = run(*given)
        assert status == 0, err
    place = tmp_path / "runs" / "debug_runs"
    assert sorted(each.name for each in place.iterdir()) == ["try", "try_2"]
    with (place / "try" / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 11))
    assert Interpreter.load(place / "try").sample(torch.zeros(1, 3, 32, 32), 1).isfinite().all()


def test_a_missing_wandb_is_told_before_any_picture_is_read(run, words, tmp_path, monkeypatch):
    monkeypatch.setattr("invariances.system.extras.find_spec", lambda name: None)
    status, _, err = run(
        *words("--run.wandb=tests", f"--output={tmp_path / 'run'}", images=tmp_path / "none")
    )
    assert status == 2
    assert "pip install 'invariances[wandb]'" in err


def test_runs_have_names(run, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*words("--name=my_{layer}", steps=1))
    assert status == 0, err
    assert (tmp_path / "runs" / "my_layer2" / "config.yaml").exists()
    status, _, err = run(*words(steps=1))
    assert status == 0, err
    assert (tmp_path / "runs" / "test_resnet_layer2" / "config.yaml").exists()
