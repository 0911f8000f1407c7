"""`last.ckpt` and the series beside it, and what SIGINT and SIGTERM do: save between two steps, then stop."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from invariances.system.errors import Terminated
from invariances.training.averaging import BestWeights
from invariances.training.checkpoints import BEST, also_as, series_name


class Stopped(Exception):
    """Training was asked to stop by a signal, and saved itself.

    Attributes:
        checkpoint: The file to go on from; None where the run keeps no folder.
        step: Steps kept; None where nothing says.
        signum: The signal.
    """

    def __init__(self, checkpoint: Path | None, step: int | None, signum: int) -> None:
        kept = f"; kept in {checkpoint}" if checkpoint else ""
        super().__init__(f"stopped{'' if step is None else f' after step {step}'}{kept}")
        self.checkpoint, self.step, self.signum = checkpoint, step, signum


class LastCheckpoint(Checkpoint):
    """One checkpoint: every so many steps, at the end, and when SIGINT or SIGTERM asks to stop.

    A series of them is kept as `step_*.ckpt` beside it, the newest few, and as `best.ckpt` the one of these whose
    held-out loss was the lowest. They are the same files under more names, so a series costs no more writing.

    Signals are looked at between steps, on all ranks together; a second Ctrl-C stops at once, without saving.

    Args:
        path: The file; None keeps none.
        every: Steps between savings; 0 for the end alone.
        keep: How many of a series stay; 0 for none.
        best: Says which is the best.
    """

    def __init__(self, path: Path | None, every: int, keep: int = 0, best: BestWeights | None = None) -> None:
        super().__init__()
        self.path, self.every, self.keep, self.best = path, every, keep, best
        self.signum = self.saved = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Listen to signals."""
        self.saved = pl_module.done
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._handlers[signum] = signal.signal(signum, self._asked)

    def _asked(self, signum: int, frame: Any) -> None:
        if self.signum and signum == signal.SIGINT:
            raise Stopped(self.path, self.saved, signum)
        self.signum = signum
        print("\nstopping after this step …", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; stop where it was asked for.

        Raises:
            Stopped: After saving.
        """
        stop = bool(self.signum)
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        step = pl_module.done
        due = stop or step == pl_module.steps or (self.every > 0 and step % self.every == 0)
        if due and self.path is not None:
            trainer.save_checkpoint(self.path)
            if self.keep and trainer.is_global_zero:
                self._keep(self.path, pl_module.step)
            self.saved = step
        if stop:
            raise Stopped(self.path, step, self.signum or signal.SIGTERM)

    def _keep(self, path: Path, step: int) -> None:
        also_as(path, path.with_name(series_name(step)))
        if self.best is not None and self.best.step == step:
            also_as(path, path.with_name(BEST))
        for old in sorted(path.parent.glob(series_name("*")))[: -self.keep]:
            old.unlink(missing_ok=True)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop listening."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Stop listening."""
        self._release()

    def _release(self) -> None:
        """Leave signals to whom they belonged; before the trainer does the same with its own handlers."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}


def run(trainer: Trainer, module: Any, data: Any = None, checkpoint: Path | None = None) -> None:
    """Trains; whenever a signal stops it, that is a KeyboardInterrupt, and signals belong to their owners again.

    Raises:
        KeyboardInterrupt: From `Stopped` where the training had begun.
    """
    former = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint)
    except Stopped as stop:
        raise KeyboardInterrupt(str(stop)) from stop
    except SystemExit as end:  # how Lightning ends on Ctrl-C, after it made the process deaf to the next
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, former)
        raise end.__context__ from end.__context__.__cause__


def stopped_in(interrupt: KeyboardInterrupt, checkpoint: Path) -> Stopped:
    """Which run an interrupt stopped, also where it came before the training began to listen."""
    if isinstance(interrupt.__cause__, Stopped):
        return interrupt.__cause__
    return Stopped(checkpoint, None, signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
