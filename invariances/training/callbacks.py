"""What happens around training steps: metrics and the progress bar."""

from __future__ import annotations

import sys
import time
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer
from torch import nn
from tqdm import tqdm

from invariances.training.averaging import Averaging, BestWeights
from invariances.training.metrics_file import MetricsFile
from invariances.training.schedule import due

PARTS = ("half_square", "log_det")
COLUMNS = (
    "stage",
    "nll",
    "held_out_nll",
    "learning_rate",
    "matching",
    *PARTS,
    *(f"held_out_{name}" for name in PARTS),
    "noise",
    "images_per_second",
)
"""Of metrics.csv, after step and epoch."""
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
    """Rows of metrics, when they are `due`; at each epoch's end the held-out pictures' too.

    `nll` is the mean loss since the last row, `held_out_nll` that of all pictures held out, both in nats per
    dimension (of the Gaussian that an embedder regresses, in its stage); `learning_rate` is the step's. A continuous
    flow learns by another loss, `matching`, and `nll` stays blank then. `half_square` and `log_det` are the parts of
    a flow's likelihood for the step's batch, `held_out_…` for as many pictures held out: ½‖v‖² / D and log |det| / D;
    nll = half_square − log_det + ½ log 2π. `noise` is ½‖ε‖² / D of as much Gaussian noise, what half_square should
    come to. `images_per_second` counts everything that happened since the last row.

    Args:
        series: Steps between checkpoints of a series, each of which the held-out pictures judge; 0 for none.
    """

    def __init__(self, series: int = 0) -> None:
        self.latest: dict[str, Any] = {}
        self.series = series
        self._since = (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin, or go on with, the file of metrics."""
        self._since = (pl_module.step, time.monotonic())
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.start(pl_module.step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and report where it is due."""
        step = trainer.global_step
        last = batch_idx + 1 == trainer.num_training_batches or step == trainer.max_steps
        last = last or (self.series > 0 and step % self.series == 0)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not due(step, every) and not last:
            return
        pl_module.check_finite()
        row: dict[str, Any] = {
            "epoch": float(trainer.current_epoch),
            pl_module.loss_name: pl_module.take_loss(),
            "learning_rate": max(group["lr"] for group in trainer.optimizers[0].param_groups),
        }
        if step == trainer.max_steps or due(step, every):
            row |= pl_module.parts(batch)
        if last:
            learner = current(trainer, pl_module)
            row["held_out_nll"] = pl_module.held_out_nll(learner)
            best = among(trainer, BestWeights)
            if best is not None:
                best.judge(pl_module.step, row["held_out_nll"], learner)
        row["images_per_second"] = self._speed(trainer, pl_module, len(batch[0]))
        self.latest.update(row)
        for logger in trainer.loggers:
            stage = {"stage": pl_module.name} if isinstance(logger, MetricsFile) else {}
            logger.log_metrics({**row, **stage}, pl_module.step)

    def _speed(self, trainer: Trainer, stage: Any, batch: int) -> float:
        (before, then), now = self._since, time.monotonic()
        self._since = (stage.step, now)
        pictures: int = (stage.step - before) * batch * trainer.world_size
        return round(pictures / max(now - then, 1e-9), 2)


class Progress(Callback):
    """A bar on stderr: what learns, steps, time left, its loss and the held-out one in nats per dimension.

    Args:
        told: What a flow is told, in words that follow its name; none for what is no flow.
    """

    def __init__(self, told: str = "") -> None:
        self.told = told
        self.bar: tqdm[Any] | None = None

    def _title(self, stage: Any) -> str:
        return f"{stage.name} {self.told}".rstrip()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the bar."""
        if trainer.is_global_zero:
            self.bar = tqdm(
                total=pl_module.steps,
                initial=pl_module.done,
                desc=self._title(pl_module),
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
                f"{self._title(pl_module)}: the held-out loss was lowest at step {best.step} ({best.lowest:.3f} nats "
                f"per dimension; {remains} weights are kept) and has risen to {last:.3f} since; more pictures, random "
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
