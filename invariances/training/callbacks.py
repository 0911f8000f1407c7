"""What happens around training steps: metrics, sample grids, checkpoints, signals and the progress bar."""

from __future__ import annotations

import csv
import io
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from invariances.features.stream import negative_log_likelihood
from invariances.interpreter import LAST, Interpreter
from invariances.report.grids import save_grid
from invariances.system.files import atomic
from invariances.system.seeds import seeded
from invariances.training.checkpoints import AtomicCheckpoints
from invariances.training.run_folder import METRICS, SAMPLES, Stopped

_PICTURES, _SAMPLES = 6, 6


_COLUMNS = ("nll", "held_out_nll", "learning_rate", "matching")


_BY_HEART = 0.05
"""Nats per dimension that the held-out loss may lie above its lowest before the end of a run says so."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the trainer's own remarks on hardware and settings; its warnings stay out too."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for each, level in zip(loggers, levels):
            each.setLevel(level)


def parts(folder: Path | None, checkpoint_every: int, samples_every: int, progress: bool) -> dict[str, Any]:
    """The trainer's arguments that make a run: callbacks, loggers and plugins.

    Args:
        folder: The run's folder; None writes nothing.
        checkpoint_every: Steps between checkpoints.
        samples_every: Steps between sample grids.
        progress: Whether to draw a bar.
    """
    callbacks: list[Callback] = [Measure()]
    loggers: list[Logger] = []
    if progress:
        callbacks.append(Progress())
    if folder is not None:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers = [MetricsFile(folder / METRICS), TensorBoardLogger(folder, name="", version="tensorboard")]
        callbacks.append(SampleGrids(folder / SAMPLES, samples_every))
    callbacks.append(LastCheckpoint(folder / LAST if folder else None, checkpoint_every))
    return {"callbacks": callbacks, "logger": loggers or False, "plugins": [AtomicCheckpoints()]}


class Measure(Callback):
    """Rows of metrics: every `log_every_n_steps` steps, and at each epoch's end the held-out pictures' too.

    `nll` is the mean loss since the last row, `held_out_nll` that of the pictures held out, both in nats per
    dimension (of the Gaussian that a residual embedder regresses, as long as it does); `learning_rate` is the step's.
    A continuous flow learns by another loss, `matching`, and `nll` stays blank then.
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin, or go on with, the file of metrics."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.start(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and report where it is due."""
        step = trainer.global_step
        last = batch_idx + 1 == trainer.num_training_batches or step == trainer.max_steps
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every and not last:
            return
        pl_module.check_finite()
        row = {"epoch": float(trainer.current_epoch), **self._loss(pl_module, step)}
        row["learning_rate"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        if last:
            regressed = pl_module.regressing(step - 1)
            row["held_out_nll"] = self._held_out(trainer, pl_module, regressed)
            pl_module.log("held_out_nll", row["held_out_nll"], logger=False)
            if not regressed:
                pl_module.judge(step, row["held_out_nll"])
        self.latest.update(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step)

    @staticmethod
    def _loss(training: Any, step: int) -> dict[str, float]:
        loss = training.take_loss()
        return {"matching": loss} if training.matching(step - 1) else {"nll": training.nats_per_dim(loss)}

    @staticmethod
    def _held_out(trainer: Any, training: Any, gaussian: bool) -> float:
        features = trainer.datamodule.held_out_features(training.layer)
        total = negative_log_likelihood(
            training.current, features, gaussian=gaussian, rank=trainer.global_rank, world=trainer.world_size
        )
        training.train()
        total = trainer.strategy.reduce(total.to(training.device, torch.float32), reduce_op="sum")
        mean: float = float(total[0] / total[1]) / training.flow.latent_dim
        return mean


class SampleGrids(Callback):
    """`samples/step_*.png`: held-out pictures, their reconstructions and samples, every so many steps."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw where it is due."""
        step = trainer.global_step
        if pl_module.regressing(step - 1):
            return  # the flow has not begun to learn
        if step == trainer.max_steps or (self.every > 0 and step % self.every == 0):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self._draw(pl_module, data, step)

    def _draw(self, training: Any, data: Any, step: int) -> None:
        images = data.held_out_images(_PICTURES)
        representation, autoencoder = training.frozen
        interpreter = Interpreter(representation, autoencoder, training.current)
        training.flow.eval()
        interpreter.autoencoder.to(training.device)
        interpreter.representation.to(training.device)
        generator = seeded("samples", training.seed)
        samples = interpreter.sample(images, _SAMPLES, generator=generator).cpu()
        rows = [images, interpreter.reconstruct(images).cpu(), *samples.unbind(1)]
        training.train()
        names = ["picture", "autoencoder", *["sample"] * _SAMPLES]
        save_grid(torch.stack(rows, dim=1), self.folder / f"step_{step:07d}.png", column_labels=names)


class LastCheckpoint(Checkpoint):
    """`checkpoints/last.ckpt`: every so many steps, at the end, and when SIGINT or SIGTERM asks to stop.

    Signals are looked at between steps, on all ranks together; a second Ctrl-C stops at once.
    """

    def __init__(self, path: Path | None, every: int) -> None:
        super().__init__()
        self.path, self.every = path, every
        self.signum = 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Listen to signals."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._handlers[signum] = signal.signal(signum, self._asked)

    def _asked(self, signum: int, frame: Any) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
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
        step = trainer.global_step
        due = stop or step == trainer.max_steps or (self.every > 0 and step % self.every == 0)
        if due and self.path is not None:
            trainer.save_checkpoint(self.path)
        if stop:
            raise Stopped(self.path, step, self.signum or signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save once more where training ends by epochs or time."""
        if self.path is not None and trainer.global_step != trainer.max_steps:
            trainer.save_checkpoint(self.path)
        self.release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Stop listening."""
        self.release()

    def release(self) -> None:
        """Leave signals to whom they belonged; before the trainer does the same with its own handlers."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._handlers = {}


class MetricsFile(Logger):
    """`metrics.csv`: one row per report, blank where a metric was not measured.

    A resumed run drops the rows of steps that it will do again, so the file reads as if nothing had happened.
    """

    def __init__(self, path: Path, columns: Sequence[str] = _COLUMNS) -> None:
        super().__init__()
        self.path, self.columns = path, ("step", "epoch", *columns)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """None is kept."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Settings are in config.yaml."""

    @rank_zero_only
    def start(self, step: int) -> None:
        """Keep the rows up to `step`, and only whole ones."""
        rows = []
        if step and self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(self.columns)][1:]
            rows = [row for row in rows if int(row[0]) <= step]
        with atomic(self.path) as draft, draft.open("w", newline="") as file:
            csv.writer(file).writerows([self.columns, *rows])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        values = {"step": step, **metrics, "epoch": int(metrics.get("epoch", 0))}
        line = io.StringIO()
        csv.writer(line).writerow([values.get(column, "") for column in self.columns])
        with self.path.open("a", newline="") as file:
            file.write(line.getvalue())


def _measure(trainer: Trainer) -> Measure:
    """The trainer's `Measure`."""
    found: Measure = next(each for each in trainer.callbacks if isinstance(each, Measure))  # type: ignore[attr-defined]
    return found


class Progress(Callback):
    """A bar on stderr: what learns, steps, time left, its loss and the held-out one in nats per dimension."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the bar."""
        if trainer.is_global_zero:
            total = trainer.estimated_stepping_batches
            self.bar = tqdm(
                total=int(total) if total != float("inf") else None,
                initial=trainer.global_step,
                desc=self._learning(pl_module),
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        if self.bar is None:
            return
        if trainer.global_step % 10 == 0:
            self.bar.set_description(self._learning(pl_module), refresh=False)
            value = float(outputs["value"])
            matching = pl_module.matching(trainer.global_step - 1)
            shown = {"matching": value} if matching else {"nats/dim": pl_module.nats_per_dim(value)}
            latest = _measure(trainer).latest
            if "held_out_nll" in latest:
                shown["held out"] = latest["held_out_nll"]
            self.bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()}, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    @staticmethod
    def _learning(training: Any) -> str:
        return f"{'embedder' if training.regressing() else 'flow'} for {training.layer}"

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Say so where the flow has begun to learn its pictures by heart."""
        if self.bar is None:
            return
        step, lowest = pl_module.lowest
        last = _measure(trainer).latest.get("held_out_nll", lowest)
        if last > lowest + _BY_HEART:
            remains = "these weights are kept" if pl_module.best is not None else "the last weights are kept"
            self.bar.write(
                f"{pl_module.layer}: the held-out loss was lowest at step {step} ({lowest:.3f} nats per dimension; "
                f"{remains}) and has risen to {last:.3f} since; more pictures, random crops or weight decay help",
                file=sys.stderr,
            )

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Close the bar before anything else is said."""
        self.teardown(trainer, pl_module, "fit")
