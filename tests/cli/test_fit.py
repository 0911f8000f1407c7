import json
import pickle
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from invariances.data.identity import Identity
from invariances.interpreter import Interpreter
from invariances.training.checkpoints import load_checkpoint
from invariances.training.run_folder import KEPT_OUT, TRAINED_ON


@pytest.fixture(scope="module")
def trained(tmp_path_factory, words, cache_home):
    from invariances.cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        folder = tmp_path_factory.mktemp("runs") / "first"
        assert main(words(f"--output={folder}", "--run.samples_every=2")) == 0
    return folder


def test_a_run_explains_itself(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "interpreter.safetensors",
        "autoencoder.safetensors",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "pictures/trained_on.json.gz",
        "pictures/kept_out.json.gz",
        "samples/held_out_0000000.png",
        "samples/held_out_0000002.png",
        "samples/training_0000004.png",
    } <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert (
        (trained / "metrics.csv")
        .read_text()
        .startswith("step,epoch,stage,nll,held_out_nll,learning_rate,matching,half_square,log_det,")
    )


def test_its_config_trains_the_same_again(run, trained, tmp_path):
    status, _, err = run("fit", "-c", trained / "config.yaml", "--output", tmp_path / "again")
    assert status == 0, err
    one, other = (
        [line.rsplit(",", 1)[0] for line in (folder / "metrics.csv").read_text().splitlines()]
        for folder in (tmp_path / "again", trained)
    )
    assert one == other
    assert len(one) == 5


def test_several_configs_and_words_override_in_order(run, words, tmp_path):
    (tmp_path / "a.yaml").write_text("learning: {steps: 7, warmup: 0.3}\nflow: {width: 12}\n")
    (tmp_path / "b.yaml").write_text("flow: {width: 16}\n")
    config = ["-c", tmp_path / "a.yaml", "-c", tmp_path / "b.yaml"]
    options = [each for each in words(steps=None)[1:] if "width" not in each]
    status, out, _ = run("fit", *config, *options, "--learning.ema=0.9", "--print_config")
    found = yaml.safe_load(out)
    assert status == 0
    learning = found["learning"]
    assert (found["flow"]["width"], learning["steps"], learning["warmup"], learning["ema"]) == (
        16,
        7,
        0.3,
        0.9,
    )


def test_a_preset_sets_flow_and_learning_and_words_come_on_top(run, words, tmp_path):
    options = [each for each in words(steps=None)[1:] if not each.startswith(("--flow", "--batch"))]
    status, out, _ = run("fit", *options, "--preset", "minutes", "--flow.blocks", "3", "--print_config")
    found = yaml.safe_load(out)
    assert status == 0
    assert (found["flow"]["blocks"], found["flow"]["embedder"]["kind"]) == (3, "regression")
    assert found["learning"]["optimizer"] == "muon"


def test_evaluate_and_sample_on_the_run(run, trained, photos, tmp_path):
    status, out, err = run("evaluate", trained, "--n", "2", "--unconditional")
    assert status == 0, err
    found = json.loads(out)
    assert found == json.loads((trained / "evaluation.json").read_text())
    assert found["fid"]["features"].startswith("test_resnet:")
    assert found["pictures"] == len(Identity.load(trained / KEPT_OUT))
    for key in (
        "nll_bits_per_dim",
        "unconditional_nll_bits_per_dim",
        "variance_remaining",
        "autoencoder_mae",
    ):
        assert isinstance(found[key], float)
    assert (trained / "evaluation.png").stat().st_size > 1000
    assert "data:image/png" in (trained / "evaluation.html").read_text()
    other = run("evaluate", trained, "--n", "1", "--images", photos, "--fid", "none")
    assert json.loads(other[1])["pictures"] == found["pictures"]
    left = len(Identity.load(trained / TRAINED_ON))
    assert f"{left} of 24 pictures were trained on and are left out" in other[2]
    status, out, err = run(
        "sample", trained, photos / "0.png", photos / "1.png", "--output", tmp_path / "s.png"
    )
    assert status == 0, err
    assert out.split() == [str(tmp_path / "s.png"), str(tmp_path / "s.json")]


def test_the_folder_is_enough_elsewhere(trained, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    (moved / "config.yaml").unlink()
    images = torch.zeros(1, 3, 32, 32)
    assert torch.equal(Interpreter.load(moved).encode(images), Interpreter.load(trained).encode(images))


def test_a_second_run_does_not_overwrite_the_first(run, words, trained):
    status, _, err = run(*words(f"--output={trained}"))
    assert status == 2
    assert "holds a run already" in err
    assert "--resume" in err


BAD = [
    (["--data.imagse", "x"], "'data.images'"),
    (["--flow.widht=3"], "'flow.width'"),
    (["--cache.max_gb", "much"], "cache.max_gb must be a number"),
    (["--held_out", "2.5"], "between 0 and 1"),
    (["--held_out", "1.0"], "between 0 and 1"),
    (["--batch_size", "0"], "batch_size"),
    (["--steps", "many"], "learning.steps must be a whole number"),
    (["--preset", "weeks"], "published"),
    (["--run.precision", "16-true"], "bf16-mixed"),
    (["--device", "tpu9"], "tpu9"),
    (["--seed", "-1"], "seed"),
    (["--output", "x" * 300], "shorten it"),
    (["--layer", "layer9"], "'layer1'"),
    (["--network", "resnet5O"], "resnet50"),
    (["--network", ""], "network"),
    (["--autoencoder", "nowhere/vae.safetensors"], "nowhere/vae.safetensors"),
    (["--learning.ema", "1.5"], "ema"),
    (["--flow.blocks", "1000000"], "flow.blocks"),
    (["--images", "nowhere"], "'nowhere' does not exist"),
    (["--images", "AnimalfacesSharedTrian"], "the data set's name is 'AnimalFacesSharedTrain'"),
    (["--images", ""], "images"),
    (["--resume"], "no run to go on with"),
    (["-c", "nowhere.yaml"], "nowhere.yaml"),
    (["stray"], "'stray'"),
]


@pytest.mark.parametrize(("more", "expected"), BAD, ids=[" ".join(more) for more, _ in BAD])
def test_bad_words_get_a_sentence(run, words, tmp_path, more, expected):
    status, out, err = run(*words(f"--output={tmp_path / 'run'}", *more))
    assert status == 2, err
    assert out == ""
    assert expected in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("invariances: ")]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {imagse: x}", "'data.images'"),
        ("dta: {images: x}", "'data.images'"),
        ("learning: {steps: many}", "learning.steps must be a whole number"),
        ("data: [", "not valid YAML"),
        ("data: [1, 2]", "data is [1, 2], and holds no settings"),
        ("flow: {embedder: 3}", "flow.embedder is 3, and holds no settings"),
        ("data: {views: 1}\ndata: {crop: random}\n", "sets 'data' a second time"),
        ("", "holds no settings"),
        ("- layer", "holds no settings"),
    ],
)
def test_bad_configs_get_a_sentence(run, words, tmp_path, text, expected):
    (tmp_path / "bad.yaml").write_text(text)
    status, _, err = run(*words(f"--output={tmp_path / 'run'}", "-c", tmp_path / "bad.yaml"))
    assert status == 2
    assert expected in err


def test_bad_folders_of_pictures_get_a_sentence(run, words, photos, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    output = f"--output={tmp_path / 'run'}"
    assert "no pictures" in run(*words(output, images=folder))[2]
    (folder / "notes.txt").write_text("hello")
    assert ".txt" in run(*words(output, images=folder))[2]
    shutil.copy(photos / "0.png", folder)
    status, _, err = run(*words(output, images=folder))
    assert status == 2
    assert "only picture" in err


@pytest.mark.parametrize("existing", [False, True])
def test_a_run_that_cannot_begin_leaves_nothing(run, words, tmp_path, existing):
    folder = tmp_path / "runs" / "one"
    if existing:
        folder.mkdir(parents=True)
    status, _, err = run(*words(f"--output={folder}", images=tmp_path / "nowhere"))
    assert status == 2
    assert "nowhere' does not exist" in err
    assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")] == [
        "runs",
        "runs/one",
    ] * existing


def test_a_flow_to_start_from_is_looked_at_before_pictures_are(run, words, trained, tmp_path):
    options = [f"--output={tmp_path / 'run'}", f"--init={trained}"]
    status, _, err = run(*words(*options, layer="layer1", images=tmp_path / "nowhere"))
    assert status == 2
    assert "is for representations of shape" in err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_evaluated_at_a_layer_that_it_has_no_flow_for(run, trained):
    status, _, err = run("evaluate", trained, "--layer", "layer1", "--fid", "none")
    assert status == 2
    assert "no flow for layer 'layer1' here; there is 'layer2'" in err


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        (
            ["resnet/animalfaces/base", "resnet/animalfaces/train/layer4", "project"],
            "resnet101_animalfaces_shared, bigae_animalfaces, AnimalFacesSharedTrain and AnimalFacesSharedTest",
        ),
        (
            ["alexnet/base_train", "alexnet/train/fc6"],
            "alexnet, bigae_animals, ImageNetAnimalsTrain and ImageNetAnimalsValidation",
        ),
        (["texturebias/stylized"], "resnet50_trained_on_SIN, biggan_256 and dequant_vae"),
    ],
)
def test_a_published_run_names_all_that_is_missing(run, tmp_path, monkeypatch, files, needed):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("invariances.training.fit.check_wandb", lambda: None)
    status, _, err = run("fit", *[word for each in files for word in ("-c", CONFIGS / f"{each}.yaml")])
    assert status == 2
    assert err.startswith(f"invariances: {needed} are needed and not here (INVARIANCES_OFFLINE is set); ")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_broken_pictures_are_named_counted_and_skipped_when_told(run, words, photos, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(photos, folder)
    (folder / "text.jpg").write_text("no picture")
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    status, _, err = run(*words(f"--output={tmp_path / 'a'}", images=folder))
    assert status == 2
    assert "2 of 25" in err
    assert "text.jpg" in err
    assert "0.png" in err
    assert "--data.skip_broken true" in err
    status, _, err = run(*words(f"--output={tmp_path / 'a'}", "--data.skip_broken", "true", images=folder))
    assert status == 0, err
    assert "text.jpg" in err


def test_an_output_that_cannot_be_written_is_told_at_once(run, words, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(*words(f"--output={tmp_path / 'file' / 'run'}"))
    assert status == 2
    assert "cannot be written" in err


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_bad_checkpoints_get_a_sentence_and_run_no_code(run, words, trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    whole, bad = (trained / "checkpoints" / "last.ckpt").read_bytes(), folder / "checkpoints" / "last.ckpt"
    fit = words(f"--output={folder}", "--resume", "--steps=6")
    bad.write_bytes(whole[: len(whole) // 2])
    status, _, err = run(*fit)
    assert status == 2
    assert "truncated" in err
    bad.write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    assert run(*fit)[0] == 2
    torch.save({"invariances": Trap(tmp_path / "trap")}, bad)
    status, _, err = run(*fit)
    assert status == 2
    assert "could run code" in err
    assert not (tmp_path / "trap").exists()
    torch.save({"weights": torch.zeros(2)}, bad)
    assert "not written by" in run(*fit)[2]
    bad.write_bytes(whole)
    status, _, err = run(*fit, "--flow.width=9")
    assert status == 2
    assert "another flow.width (8) than this run's (9)" in err


def test_a_refused_resume_leaves_the_run_as_it_was(run, words, trained, photos, tmp_path):
    """Else the next evaluation would take other pictures for those that were kept out."""
    folder, more = tmp_path / "run", tmp_path / "more"
    shutil.copytree(trained, folder)
    shutil.copytree(photos, more)
    shutil.copy(photos / "0.png", more / "copy of 0.png")
    names = ("config.yaml", TRAINED_ON, KEPT_OUT)
    before = [(folder / each).read_bytes() for each in names]
    status, _, err = run(*words(f"--output={folder}", "--resume", "--steps=6", images=more))
    assert status == 2
    assert "the checkpoint was trained on other pictures" in err
    assert [(folder / each).read_bytes() for each in names] == before


def test_pictures_trained_on_and_held_out_are_counted(run, words, photos, tmp_path):
    status, _, err = run(*words(f"--output={tmp_path / 'run'}", f"--held_out={photos}", "--steps=1"))
    assert status == 0, err
    assert "24 of 24 pictures held out are also trained on" in err


@pytest.mark.parametrize("output", ["r\udcfcn", "\udcc3\udcbc/run"])
def test_an_output_of_other_bytes_than_utf_8_gets_a_sentence(run, words, output):
    status, _, err = run(*words(f"--output={output}"))
    assert status == 2
    assert "no UTF-8 here" in err


def wait_for(path, process, seconds=120):
    for _ in range(seconds * 20):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert path.exists(), process.communicate()[1]


def test_ctrl_c_saves_and_says_how_to_go_on_and_sigkill_leaves_the_checkpoint_whole(started, words, tmp_path):
    folder = tmp_path / "a run"
    last = folder / "checkpoints" / "last.ckpt"
    process = started(words(f"--output={folder}", "--run.checkpoint_every=1", steps=1_000_000))
    wait_for(last, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    step = int(re.search(r"stopped after step (\d+)", err).group(1))
    assert load_checkpoint(last)["global_step"] == step
    command = shlex.split(err.strip().splitlines()[-1])
    assert command[:2] == ["invariances", "fit"]
    before = last.stat().st_mtime_ns
    process = started(command[1:])
    for _ in range(2400):
        if last.stat().st_mtime_ns != before or process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    checkpoint = load_checkpoint(last)
    assert checkpoint["global_step"] > step


REGRESSED = ["--flow.embedder.kind=regression", "--flow.embedder.width=2", "--learning.regression=0.5"]


@pytest.mark.parametrize(
    "embedder",
    [[], REGRESSED, [*REGRESSED, "--flow.transform=continuous"]],
    ids=["published", "regression", "continuous"],
)
def test_two_processes_train_one_flow(started, words, tmp_path, embedder):
    ddp = ["--run.devices=2", "--learning.ema=0.9"]
    process = started(words(f"--output={tmp_path / 'run'}", *ddp, *embedder, steps=5))
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4", "5"]
    assert Interpreter.load(tmp_path / "run").sample(torch.zeros(1, 3, 32, 32), 2).isfinite().all()
