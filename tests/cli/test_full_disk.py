"""A disk that fills up while training: one sentence, the last checkpoint stays whole, and the run goes on from it."""

import csv
import os
import subprocess
import sys

import pytest

from invariances.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow
MOST_KB = 12_000


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, and a function that makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", f"size={MOST_KB}k", "tmpfs", place]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone")
    grow = ["mount", "-o", "remount,size=100m", place]
    yield place, lambda: subprocess.run(grow, check=True)
    subprocess.run(["umount", place], check=True)


def fit(arguments):
    return subprocess.run(
        [sys.executable, "-m", "invariances", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["nll"]) for row in csv.DictReader(file)]


def test_a_full_disk_loses_nothing_that_a_checkpoint_held(words, small_disk, tmp_path):
    place, grow = small_disk
    more = ["--run.checkpoint_every=1", "--run.keep_checkpoints=1000"]
    stopped = fit(words(f"--output={place / 'run'}", *more, steps=1000))
    last = place / "run" / "checkpoints" / "last.ckpt"
    assert stopped.returncode == 2, stopped.stderr
    (sentence,) = [line for line in stopped.stderr.splitlines() if line.startswith("invariances: ")]
    assert "disk" in sentence
    assert "full" in sentence
    assert "Traceback" not in stopped.stderr
    done = load_checkpoint(last)["global_step"]
    assert done > 1
    grow()
    again = fit(words(f"--output={place / 'run'}", *more, "--resume", steps=done + 3))
    assert again.returncode == 0, again.stderr
    whole = fit(words(f"--output={tmp_path / 'whole'}", steps=done + 3))
    assert whole.returncode == 0, whole.stderr
    assert losses(place / "run") == losses(tmp_path / "whole")
