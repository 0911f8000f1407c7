"""SIGKILL at random moments: nothing that a checkpoint held is lost, and the curve is the unbroken one."""

import csv
import multiprocessing
import random
import time

import pytest
import torch

from invariances.cli.main import main
from invariances.training.checkpoints import load_checkpoint
from invariances.zoo.runs import flow_of

pytestmark = pytest.mark.slow
KILLS, STEPS = 20, 120


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in found]


@pytest.fixture
def start():
    """Starts a command in a process that has all modules already."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["invariances.cli.fit", "invariances.training.fit", "tensorboard"])

    def begun(words):
        process = server.Process(target=main, args=([str(word) for word in words],))
        process.start()
        return process

    return begun


def changed(path, before, process, seconds=200):
    """Waits until a file is another than before, or the process is over."""
    for _ in range(seconds * 200):
        if not process.is_alive() or (path.exists() and path.stat().st_ino != before):
            return
        time.sleep(0.005)


def test_killed_at_random_moments_while_saving_often(words, tmp_path, start):
    more = ["--run.checkpoint_every=1", "--run.keep_checkpoints=3", "--learning.ema=0.9"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start(words(f"--output={whole}", *more, steps=STEPS)).join(500)
    assert load_checkpoint(whole / "checkpoints" / "last.ckpt")["global_step"] == STEPS
    moments, last, step, kills = random.Random(0), broken / "checkpoints" / "last.ckpt", 0, 0
    while kills < KILLS:
        resume = ["--resume"] if (broken / "config.yaml").exists() else []
        process = start(words(f"--output={broken}", *more, *resume, steps=STEPS))
        changed(last, last.stat().st_ino if last.exists() else 0, process)
        time.sleep(moments.uniform(0, 0.2))
        if not process.is_alive():
            assert load_checkpoint(last)["global_step"] == STEPS, process.exitcode
            break
        process.kill()
        process.join(60)
        kills += 1
        found = load_checkpoint(last)["global_step"]
        assert found >= step
        step = found
    start(words(f"--output={broken}", *more, "--resume", steps=STEPS)).join(500)
    assert kills >= 10
    assert rows(broken) == rows(whole)
    names = sorted(each.name for each in (whole / "checkpoints").glob("*.ckpt"))
    assert sorted(each.name for each in (broken / "checkpoints").glob("*.ckpt")) == names
    theirs, ours = flow_of(whole).state_dict(), flow_of(broken).state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
