import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from invariances.recipes.processes import in_processes
from invariances.system.errors import UserError
from invariances.training.run_folder import METRICS
from invariances.zoo.runs import LAST

# A module of its own on sys.path, so that other processes can import what they are to call.
JOBS = """
import os
import sys
import torch
from torch import nn
from invariances.autoencoder import VAE
from invariances.data.shapes import Shapes
from invariances.flow.config import FlowConfig
from invariances.recipes.processes import in_processes
from invariances.system.errors import UserError
from invariances.training.config import CacheConfig, LearningConfig, RunConfig
from invariances.training.fit import fit


def square(x):
    if x < 0:
        raise UserError(f"{x} is below zero")
    if x > 100:
        raise ValueError("beyond belief")
    return {"square": torch.tensor(x * x), "pid": torch.tensor(os.getpid())}


def fit_one(layer, folder, steps=6):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    network.preprocessing = {"size": 64}
    interpreter = fit(
        network,
        layer,
        VAE(64, latent_dim=4, width=4, max_width=4, blocks=0).eval(),
        Shapes(40),
        flow=FlowConfig(blocks=2, width=8, depth=1),
        learning=LearningConfig(steps=steps, batch_size=8),
        cache=CacheConfig(folder=f"{folder}/features"),
        run=RunConfig(f"{folder}/{layer}", device="cpu", log_every=1),
    )
    return interpreter.flow.state_dict()


if __name__ == "__main__":
    in_processes(fit_one, [{"layer": each, "folder": sys.argv[1], "steps": 1_000_000} for each in "04"], 2)
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "jobs_of_a_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jobs_of_a_test", raising=False)
    return importlib.import_module("jobs_of_a_test")


def test_results_come_in_the_order_of_the_jobs_from_other_processes(jobs):
    found = in_processes(jobs.square, [{"x": x} for x in range(5)], 2)
    assert [int(each["square"]) for each in found] == [0, 1, 4, 9, 16]
    assert os.getpid() not in {int(each["pid"]) for each in found}


def test_what_the_user_can_mend_is_said_as_if_there_were_one_process(jobs):
    with pytest.raises(UserError, match="-1 is below zero"):
        in_processes(jobs.square, [{"x": 1}, {"x": -1}], 2)


def test_a_fault_of_ours_is_no_users_error(jobs):
    with pytest.raises(Exception, match="beyond belief") as fault:
        in_processes(jobs.square, [{"x": 101}, {"x": 1}], 2)
    assert not isinstance(fault.value, UserError)


def test_what_cannot_be_sent_is_told_before_any_process_begins(jobs):
    with pytest.raises(UserError, match="processes=1"):
        in_processes(jobs.square, [{"x": lambda: 1}], 2)


def test_two_flows_at_once_are_those_trained_one_after_the_other_to_the_bit(jobs, tmp_path):
    at_once = in_processes(jobs.fit_one, [{"layer": each, "folder": f"{tmp_path}/a"} for each in "04"], 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        in_turn = [jobs.fit_one(each, f"{tmp_path}/b") for each in "04"]
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(at_once, in_turn, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert (tmp_path / "a" / "0" / "interpreter.safetensors").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_first_process_alone_saves_every_flow(jobs, tmp_path, signum):
    process = subprocess.Popen(
        [sys.executable, jobs.__file__, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )

    def wait_for(name, lines=0):
        files, until = [tmp_path / layer / name for layer in ("0", "4")], time.monotonic() + 300
        while not all(file.exists() and file.read_bytes().count(b"\n") >= lines for file in files):
            assert time.monotonic() < until, process.stderr.read()
            time.sleep(0.1)

    wait_for(METRICS, lines=2)  # a heading and a row: both have taken steps
    process.send_signal(signum)
    assert process.wait(300) != 0
    wait_for(LAST)
