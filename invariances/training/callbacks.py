"""What happens around training steps: metrics, sample grids and the progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from tqdm import tqdm

from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.report.grids import save_grid
from invariances.system.seeds import seeded
from invariances.training.averaging import Averaging, BestWeights
from invariances.training.metrics_file import MetricsFile

COLUMNS = ("stage", "nll", "held_out_nll", "learning_rate", "matching")
"""Of metrics.csv, after step and epoch."""
PICTURES, SAMPLES = 6, 6
_BY_HEART = 0.05
"""Nats per dimension that the held-out loss may lie above its lowest before the end of a run says so."""
_Kind = TypeVar("_Kind")


def among(trainer: Trainer, kind: type[_Kind]) -> _Kind | None:
    """The trainer's callback of a class, if it has one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((each for each in callbacks if isinstance(each, kind)), None)


def current(trainer: Trainer, stage: Any) -> nn.Module:
    """What to evaluate as training goes on: the average where there is one."""
    averaging = among(trainer, Averaging)
    found: nn.Module = stage.learner if averaging is None else averaging.average
    return found


class Measure(Callback):
    """Rows of metrics: every `log_every_n_steps` steps, and at each epoch's end the held-out pictures' too.

    `nll` is the mean loss since the last row, `held_out_nll` that of the pictures held out, both in nats per
    dimension (of the Gaussian that an embedder regresses, in its stage); `learning_rate` is the step's. A continuous
    flow learns by another loss, `matching`, and `nll` stays blank then.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin, or go on with, the file of metrics."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.start(pl_module.step)

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
        row: dict[str, Any] = {
            "epoch": float(trainer.current_epoch),
            pl_module.loss_name: pl_module.take_loss(),
            "learning_rate": max(group["lr"] for group in trainer.optimizers[0].param_groups),
        }
        if last:
            learner = current(trainer, pl_module)
            row["held_out_nll"] = pl_module.held_out_nll(learner)
            best = among(trainer, BestWeights)
            if best is not None:
                best.judge(pl_module.step, row["held_out_nll"], learner)
        self.latest.update(row)
        for logger in trainer.loggers:
            stage = {"stage": pl_module.name} if isinstance(logger, MetricsFile) else {}
            logger.log_metrics({**row, **stage}, pl_module.step)


class SampleGrids(Callback):
    """`samples/step_*.png`: held-out pictures, their reconstructions and samples, every so many steps.

    Args:
        folder: Where they go.
        every: Steps between two; 0 for the last step alone.
        interpreter: Of a flow.
        images: Held-out pictures (N, 3, S, S) in [-1, 1].
        seed: Of the samples.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        interpreter: Callable[[ConditionalFlow], Interpreter],
        images: Tensor,
        seed: int,
    ) -> None:
        self.folder, self.every, self.interpreter = folder, every, interpreter
        self.images, self.seed = images, seed

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw where it is due."""
        step = trainer.global_step
        if step != trainer.max_steps and (self.every == 0 or step % self.every):
            return
        flow: Any = current(trainer, pl_module)
        flow.eval()
        interpreter, images = self.interpreter(flow), self.images
        samples = interpreter.sample(images, SAMPLES, generator=seeded("samples", self.seed)).cpu()
        rows = torch.stack([images, interpreter.reconstruct(images).cpu(), *samples.unbind(1)], dim=1)
        pl_module.train()
        names = ["picture", "autoencoder", *["sample"] * SAMPLES]
        save_grid(rows, self.folder / f"step_{pl_module.step:07d}.png", column_labels=names)


class Progress(Callback):
    """A bar on stderr: what learns, steps, time left, its loss and the held-out one in nats per dimension.

    Args:
        layer: What a flow is of; none for what is no flow.
    """

    def __init__(self, layer: str = "") -> None:
        self.layer = layer
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the bar."""
        if trainer.is_global_zero:
            self.bar = tqdm(
                total=pl_module.steps,
                initial=pl_module.done,
                desc=f"{pl_module.name} for {self.layer}" if self.layer else pl_module.name,
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
        if pl_module.done % 10 == 0:
            shown = pl_module.shown(outputs)
            measure = among(trainer, Measure)
            if measure is not None and "held_out_nll" in measure.latest:
                shown["held out"] = measure.latest["held_out_nll"]
            self.bar.set_postfix({key: f"{value:.3f}" for key, value in shown.items()}, refresh=False)
        self.bar.update(pl_module.done - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Say so where what learns has begun to learn its pictures by heart."""
        best, measure = among(trainer, BestWeights), among(trainer, Measure)
        if self.bar is None or best is None or measure is None:
            return
        last = measure.latest.get("held_out_nll", best.lowest)
        if last > best.lowest + _BY_HEART:
            remains = "these" if best.best is not None else "the last"
            self.bar.write(
                f"{self.layer}: the held-out loss was lowest at step {best.step} ({best.lowest:.3f} nats per "
                f"dimension; {remains} weights are kept) and has risen to {last:.3f} since; more pictures, random "
                "crops or weight decay help",
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
