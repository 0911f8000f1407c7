"""Several calls of one function at once, each in a process of its own: small networks use one core well, not many."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from tqdm import tqdm

from invariances.system.errors import UserError

_ERROR = "error.txt"


def in_processes(
    function: Callable[..., Mapping[str, torch.Tensor]], jobs: Sequence[Mapping[str, Any]], processes: int
) -> list[dict[str, torch.Tensor]]:
    """[function(**job) for job in jobs], `processes` of them at a time.

    New processes are begun, which import the main module: a script needs `if __name__ == "__main__"`. They share this
    one's threads, and each draws its progress bars on a line of its own. Ctrl-C reaches every process, which saves what
    it does.

    Args:
        function: Of a module, by its name; returns tensors by name.
        jobs: Arguments of each call; begun in this order.
        processes: How many at once.

    Returns:
        What each call returned, in the order of the jobs.

    Raises:
        UserError: A call raised one, the others were stopped; or something given cannot be sent to a process.
        KeyboardInterrupt: Stopped by a signal.
    """
    try:
        work = pickle.dumps((function, list(jobs)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"what was given cannot be sent to another process ({error}); use processes=1"
        ) from None
    context = get_context("spawn")
    taken, lock = context.Value("i", 0), context.RLock()
    with tempfile.TemporaryDirectory() as folder:
        workers = spawn(  # type: ignore[no-untyped-call]
            _work,
            (work, taken, lock, Path(folder), max(1, torch.get_num_threads() // processes)),
            nprocs=processes,
            join=False,
        )
        try:
            while not workers.join():
                pass
        except ProcessExitedException:
            if (Path(folder) / _ERROR).exists():
                raise UserError((Path(folder) / _ERROR).read_text(encoding="utf-8")) from None
            raise
        except KeyboardInterrupt:
            _stop(workers.processes)
            raise
        results = [Path(folder) / f"{index}.pt" for index in range(len(jobs))]
        if not all(each.exists() for each in results):
            raise KeyboardInterrupt("a process was stopped by a signal")
        return [torch.load(each, weights_only=True) for each in results]


def _stop(processes: Sequence[Any]) -> None:
    """Asks those to save themselves that a terminal has not asked already, and waits."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join()


def _work(rank: int, work: bytes, taken: Any, lock: Any, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    tqdm.set_lock(lock)
    tqdm.__init__ = partialmethod(tqdm.__init__, position=rank)  # type: ignore[assignment]
    function, jobs = pickle.loads(work)
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(jobs):
            return
        try:
            result = function(**jobs[index])
        except UserError as error:
            (folder / _ERROR).write_text(str(error), encoding="utf-8")
            raise SystemExit(1) from None
        torch.save({name: tensor.cpu() for name, tensor in result.items()}, folder / f"{index}.pt")
