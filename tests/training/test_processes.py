import pytest

from invariances.system.errors import UserError
from invariances.training.config import RunConfig
from invariances.training.processes import all_processes, first_process, local_rank

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_NAME")


@pytest.mark.parametrize(
    ("told", "first", "local"),
    [
        ({}, True, 0),
        ({"LOCAL_RANK": "1"}, False, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False, 0),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False, 0),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, 0),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "x"}, False, 1),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "x"}, True, 0),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_NAME": "bash"}, True, 0),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "x"}, True, 0),
    ],
)
def test_who_is_who(monkeypatch, told, first, local):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (first_process(), local_rank()) == (first, local)


def test_an_error_of_ones_own_stays_what_it_is(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="gloo"), all_processes(RunConfig()):
        raise RuntimeError("gloo: nothing to do with it")


def test_torchrun_and_the_run_agree_on_the_number_of_processes(monkeypatch):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    for devices, nodes in ((2, 1), (1, 2)):
        with all_processes(RunConfig(devices=devices, num_nodes=nodes)):
            pass
    sentence = r"torchrun started 2 processes, and the run has 1: --run\.devices"
    with pytest.raises(UserError, match=sentence), all_processes(RunConfig()):
        pass
