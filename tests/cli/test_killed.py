"""SIGKILL at random moments: nothing that a checkpoint held is lost, and the curve is the unbroken one."""

import csv
import os
import random
import subprocess
import sys
import time

import pytest
import torch

from invariances.interpreter import flow_of
from invariances.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow
KILLS, STEPS = 20, 400


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "invariances", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in found]


def test_killed_at_random_moments_while_saving_often(words, tmp_path):
    more = ["--run.checkpoint_every=1", "--run.keep_checkpoints=3", "--learning.ema=0.9"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(words(f"--output={whole}", *more, steps=STEPS))
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    moments = random.Random(0)
    last, step, kills = broken / "checkpoints" / "last.ckpt", 0, 0
    while kills < KILLS:
        resume = ["--resume"] if (broken / "config.yaml").exists() else []
        process = start(words(f"--output={broken}", *more, *resume, steps=STEPS))
        before = last.stat().st_mtime_ns if last.exists() else 0
        for _ in range(6000):
            if process.poll() is not None or (last.exists() and last.stat().st_mtime_ns != before):
                break
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        ended = process.poll()
        process.kill()
        _, err = process.communicate(timeout=60)
        assert ended in (None, 0), err
        kills += ended is None
        found = load_checkpoint(last)["global_step"]
        assert found >= step
        step = found
        if ended == 0:
            break
    process = start(words(f"--output={broken}", *more, "--resume", steps=STEPS))
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert kills >= 10
    assert rows(broken) == rows(whole)
    names = sorted(each.name for each in (whole / "checkpoints").glob("*.ckpt"))
    assert sorted(each.name for each in (broken / "checkpoints").glob("*.ckpt")) == names
    theirs, ours = flow_of(whole).state_dict(), flow_of(broken).state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
