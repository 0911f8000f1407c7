"""Weights & Biases, with the real package, offline."""

import glob
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from invariances.training.config import FitConfig
from invariances.training.trainer import loggers_of

wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'invariances[wandb]'")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb home"))


BLOCK, HEADER, BEFORE_RECORDS = 32768, 7, 7
WHOLE, LAST = 1, 4


def messages(data):
    """The messages of a .wandb file, which is a log of LevelDB's: blocks of (checksum 4, length 2, kind 1, bytes)."""
    place, parts = BEFORE_RECORDS, []
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if kind == 0 or place + HEADER + length > len(data):
            return
        parts.append(data[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []


def whole_file(path):
    """All records of a file, which wandb's own process writes: the last one may come after the run has ended."""
    from wandb.proto import wandb_internal_pb2

    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = [wandb_internal_pb2.Record.FromString(data) for data in messages(Path(path).read_bytes())]
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def records(folder):
    """What offline runs would send: their ids, and the rows with their keys."""
    files = sorted(glob.glob(str(folder / "wandb" / "offline-run-*" / "*.wandb")))
    found = [record for path in files for record in whole_file(path)]
    ids = [each.run.run_id for each in found if each.WhichOneof("record_type") == "run"]
    rows = [
        {item.key or ".".join(item.nested_key): item.value_json for item in each.history.item}
        for each in found
        if each.WhichOneof("record_type") == "history"
    ]
    return ids, rows


def test_rows_and_pictures_go_there_too_and_a_resumed_run_keeps_its_id(setup, world, train, tmp_path):
    folder = tmp_path / "run"
    learning = replace(world.learning, steps=4)
    train(setup, folder, learning=learning, wandb="tests", samples_every=2)
    train(setup, folder, learning=replace(learning, steps=6), wandb="tests", samples_every=2, resume=True)
    ids, rows = records(folder)
    assert len(set(ids)) == 1
    steps = [int(row["trainer/global_step"]) for row in rows if "nll" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    in_csv = [float(row["nll"]) for row in world.rows(folder)]
    assert [float(row["nll"]) for row in rows if "nll" in row] == pytest.approx(in_csv)
    pictures = {
        int(row["trainer/global_step"]) for row in rows if any("samples/held_out" in key for key in row)
    }
    assert pictures == {0, 2, 4, 6}
    assert list((folder / "wandb").rglob("*.png"))


def test_two_runs_of_one_process_do_not_share_a_chart(setup, world, train, tmp_path):
    learning = replace(world.learning, steps=1)
    for name in ("a", "b"):
        train(setup, tmp_path / name, learning=learning, wandb="tests")
    (one, _), (other, _) = (records(tmp_path / name) for name in ("a", "b"))
    assert set(one) != set(other)
    assert one
    assert other


def test_the_whole_configuration_is_kept_with_it(tmp_path):
    config = FitConfig(network="resnet50")
    config = replace(config, run=replace(config.run, wandb="tests"))
    (logger,) = [
        each for each in loggers_of(tmp_path, None, config, []) if type(each).__name__ == "WandbLogger"
    ]
    kept = dict(logger.experiment.config)
    logger.experiment.finish()
    assert kept["network"] == "resnet50"
    assert kept["run"]["wandb"] == "tests"
