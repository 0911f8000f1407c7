"""Several processes train what one trains with a batch as large as all of theirs."""

import csv
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from invariances.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow


def curve(folder):
    """Of metrics.csv, all numbers but for what the clock says."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {
            key: float(value)
            for key, value in row.items()
            if value and key not in ("stage", "images_per_second")
        }
        for row in rows
    ]


def assert_same_curve(one, other):
    ours, theirs = curve(one), curve(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def both(fit, words, tmp_path_factory, cache_home):
    """One process with 8 pictures a step, and two with 4 each."""
    folder = tmp_path_factory.mktemp("processes")
    more = ["--learning.ema=0.9", "--run.evaluate_every=2", "--learning.learning_rate=0.003"]
    home = {"XDG_CACHE_HOME": str(cache_home), "INVARIANCES_OFFLINE": "1"}
    for name, devices in (("one", 1), ("two", 2)):
        size = [f"--batch_size={8 // devices}", f"--run.devices={devices}"]
        done = fit(words(f"--output={folder / name}", *more, *size, steps=8), home)
        assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_give_the_curve_of_one(both):
    assert len(curve(both / "one")) == 8
    assert_same_curve(both / "one", both / "two")


def test_likelihood_and_fid_agree(both):
    one, two = (
        json.loads((both / name / "evaluations" / "step_0000008.json").read_text()) for name in ("one", "two")
    )
    assert two["nll_bits_per_dim"] == pytest.approx(one["nll_bits_per_dim"], rel=1e-4)
    for name in ("samples", "reconstructions"):
        assert two["fid"][name] == pytest.approx(one["fid"][name], rel=1e-3, abs=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(fit, both, words, home):
    more = ["--resume", "--learning.ema=0.9", "--run.evaluate_every=2", "--learning.learning_rate=0.003"]
    for name, devices in (("one", 2), ("two", 1)):
        size = [f"--batch_size={8 // devices}", f"--run.devices={devices}"]
        done = fit(words(f"--output={both / name}", *more, *size, steps=12))
        assert done.returncode == 0, done.stderr
        assert load_checkpoint(both / name / "checkpoints/last.ckpt")["global_step"] == 12
    assert len(curve(both / "one")) == 12
    assert_same_curve(both / "one", both / "two")
    done = fit(words(f"--output={both / 'one'}", *more, "--batch_size=4", steps=13))
    assert done.returncode == 2
    assert "another learning" in done.stderr


def children_of(process):
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                if int((place / "stat").read_text().rsplit(")", 1)[1].split()[1]) == process.pid:
                    found.append(int(place.name))
    return found


def is_gone(pid):
    """Soon: a process closes its pipes some moments before it ends."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("who", ["the first", "another"])
def test_a_process_that_dies_ends_the_run_with_a_sentence(fit, started, words, home, tmp_path, who):
    folder = tmp_path / "run"
    more = ["--run.devices=2", "--run.checkpoint_every=1", "--batch_size=4"]
    process = started(words(f"--output={folder}", *more, steps=1_000_000))
    last = folder / "checkpoints" / "last.ckpt"
    for _ in range(4800):
        if last.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert last.exists(), process.communicate()
    (child,) = children_of(process)
    os.kill(child if who == "another" else process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)  # until both have closed their end of the pipe
    if who == "another":
        assert process.returncode in (2, 75), err
        assert "process 2 of 2 ended with signal SIGKILL" in err
        assert "--resume" in err
    else:
        assert "the first process of this run died" in err or "cannot be reached any more" in err
    assert "a fault of ours" not in err
    assert "Traceback" not in err
    assert is_gone(child)
    done = load_checkpoint(last)["global_step"]
    again = fit(words(f"--output={folder}", *more, "--resume", steps=done + 2))
    assert again.returncode == 0, again.stderr


MANY = ("--data.crop=random", "--data.views=10", "--cache.batch_size=2", "--batch_size=4")
"""24 photos become some 200 pictures to cache, so that filling takes seconds."""


def cached(home):
    """All files of a cache but for its locks, with their bytes."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in (home / "invariances" / "features").glob("*/*")
    }


def claimants(home):
    """The processes that have claims on rows of a cache."""
    inodes = {str(path.stat().st_ino) for path in home.glob("invariances/features/*.lock")}
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return {int(each[4]) for each in locks if each[5].rsplit(":", 1)[-1] in inodes and each[6] != "0"}


def filling(process, home):
    """The first process halts once it has claims, until the other, which began later, has some too."""
    for _ in range(9600):
        assert process.poll() is None, process.communicate()
        found = claimants(home)
        if found == {process.pid}:
            os.kill(process.pid, signal.SIGSTOP)
        elif process.pid in found:
            os.kill(process.pid, signal.SIGCONT)
            assert found == {process.pid, *children_of(process)}
            return
        time.sleep(0.02)
    raise AssertionError("two processes never filled the cache together")


@pytest.fixture(scope="module")
def filled_by_one(fit, words, tmp_path_factory):
    """The cache that one process fills."""
    home = tmp_path_factory.mktemp("one")
    done = fit(words(*MANY, f"--output={home / 'run'}", steps=1), {"XDG_CACHE_HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return cached(home)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="locks are told by Linux")
@pytest.mark.parametrize("dies", [None, "the first", "another"])
def test_two_processes_fill_the_cache_and_one_that_dies_ends_the_run(
    fit, started, words, filled_by_one, tmp_path, dies
):
    place = {"XDG_CACHE_HOME": str(tmp_path)}
    arguments = words(*MANY, f"--output={tmp_path / 'run'}", "--run.devices=2", steps=1)
    process = started(arguments, place)
    filling(process, tmp_path)
    if dies:
        (child,) = children_of(process)
        os.kill(child if dies == "another" else process.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert is_gone(child)
        assert "Traceback" not in err
        if dies == "another":
            assert process.returncode in (2, 75), err
            assert "process 2 of 2 ended with signal SIGKILL" in err
            assert (
                "--resume, or repeat the command as it was where the run's folder has no config.yaml" in err
            )
        else:
            assert "the first process of this run died" in err
        begun = (
            ["--resume"] if (tmp_path / "run" / "config.yaml").exists() else []
        )  # the other filled the rest
        more = [f"--output={tmp_path / 'run'}", "--run.devices=3", *begun]
        again = fit(words(*MANY, *more, steps=1), place)
        assert again.returncode == 0, again.stderr
    else:
        _, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
    assert cached(tmp_path) == filled_by_one
