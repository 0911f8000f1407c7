"""The processes of a run on several devices: who is who, who starts them, and what happens when one dies.

torchrun and SLURM start them all; otherwise the first process of each machine starts its others before anything else,
with the same words and LOCAL_RANK set. The first watches them, and they watch it: where one dies, the rest cannot go on
(they would wait for it for ever), so the run ends with a sentence.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from invariances.system.errors import UserError
from invariances.training.config import RunConfig

LOST = 75
"""Exit status where another process died: try again (EX_TEMPFAIL)."""
_GO_ON = "go on with --resume, or repeat the command as it was where the run's folder has no config.yaml yet"
_STOPPED = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
_LOOK_SECONDS, _GRACE_SECONDS, _LEAVE_SECONDS = 0.5, 5.0, 60.0
_NETWORK = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
_PARENT = "INVARIANCES_FIRST_PROCESS"
_children: list[subprocess.Popen[bytes]] = []


def _slurm() -> bool:
    several = os.environ.get("SLURM_NTASKS", "1") != "1"
    return several and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def local_rank() -> int:
    """Which of this machine's processes this is."""
    return int(os.environ.get("LOCAL_RANK") or (os.environ.get("SLURM_LOCALID", "0") if _slurm() else "0"))


def first_process() -> bool:
    """Whether this process is the one that writes."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if _slurm() and "LOCAL_RANK" not in os.environ:
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return local_rank() == 0 and os.environ.get("NODE_RANK", "0") == "0"


@contextmanager
def all_processes(run: RunConfig) -> Iterator[None]:
    """Starts this machine's other processes, where nobody did, and ends them when this one fails.

    Raises:
        UserError: Another process died, or torchrun started another number of them than the run has devices.
    """
    wanted, there = run.devices * run.num_nodes, os.environ.get("WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" in os.environ and there != str(wanted):
        raise UserError(
            f"torchrun started {there} processes, and the run has {wanted}: --run.devices is as --nproc-per-node, and "
            "--run.num_nodes as --nnodes"
        )
    if run.devices > 1 and "LOCAL_RANK" not in os.environ and not _slurm() and not hasattr(sys, "ps1"):
        _start(run)
    try:
        yield
    except Exception as error:
        lost = _lost(error) if run.devices * run.num_nodes > 1 else None
        for each in _children:
            each.kill()
        if lost is not None:
            raise UserError(lost) from error
        raise


def _start(run: RunConfig) -> None:
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    os.environ.setdefault("NODE_RANK", "0")
    os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"] = "0", str(run.devices * run.num_nodes)
    import __main__

    spec = __main__.__spec__
    words = [os.path.abspath(sys.argv[0])] if spec is None else ["-m", spec.name]
    command = [sys.executable, *words, *sys.argv[1:]]
    told = {**os.environ, _PARENT: str(os.getpid())}
    for rank in range(1, run.devices):
        _children.append(subprocess.Popen(command, env={**told, "LOCAL_RANK": str(rank)}))
    atexit.register(_leave)
    threading.Thread(target=_watch_children, daemon=True).start()


def watch_parent() -> None:
    """Ends this process where the one that started it has died; nothing where nobody of ours did."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        _end("the first process of this run died, so this one ends too")

    threading.Thread(target=watch, args=(int(parent),), daemon=True).start()


def _watch_children() -> None:
    """Ends the run where one of its processes died, unless this one ends by itself soon after."""
    while True:
        time.sleep(_LOOK_SECONDS)
        dead = _dead()
        if dead is not None:
            time.sleep(_GRACE_SECONDS)
            for each in _children:
                each.kill()
            _end(dead)
        if all(each.poll() is not None for each in _children):
            return


def _end(sentence: str) -> None:
    with suppress(OSError, ValueError):
        print(f"\ninvariances: {sentence}", file=sys.stderr, flush=True)
    os._exit(LOST)


def _dead() -> str | None:
    """A sentence for the first process that failed."""
    for rank, each in enumerate(_children, 1):
        status = each.poll()
        if status is not None and status not in _STOPPED:
            how = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
            return f"process {rank + 1} of {len(_children) + 1} ended with {how}, so the run ends; {_GO_ON}"
    return None


def _lost(error: Exception) -> str | None:
    """A sentence where an error comes from another process's death."""
    until = time.monotonic() + 2
    while _children and time.monotonic() < until:
        dead = _dead()
        if dead is not None:
            return dead
        time.sleep(0.1)
    if isinstance(error, RuntimeError) and _NETWORK.search(str(error)):
        return f"another process of this run cannot be reached any more, so the run ends; {_GO_ON}"
    return None


def _leave() -> None:
    """Wait for the others at the end: they finish what this one has finished."""
    until = time.monotonic() + _LEAVE_SECONDS
    for each in _children:
        with suppress(subprocess.TimeoutExpired):
            each.wait(max(0.1, until - time.monotonic()))
        if each.poll() is None:
            each.kill()
