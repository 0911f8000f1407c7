"""Evaluation while a flow learns: after every so many epochs, and after the last step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from invariances.evaluation.looking import Sampling
from invariances.evaluation.numbers import evaluate, lines, write_numbers
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.report.grids import grid
from invariances.system.files import atomic
from invariances.training.callbacks import current
from invariances.training.data import FeatureData
from invariances.training.metrics_file import MetricsFile
from invariances.training.pictures import NAMES, PICTURES, drawn, log_picture

EVALUATIONS = "evaluations"
SAMPLES_PER_PICTURE = 3
"""As published."""


class EvaluationAfterEpochs(Callback):
    """`evaluations/step_*.json` and `.png`: all numbers of `invariances evaluate`, on the pictures kept out.

    The first process does it; the others wait. Numbers go to TensorBoard and Weights & Biases too.

    Args:
        folder: Of the run.
        every: Epochs between two; the last step is always among them.
        interpreter: Of a flow.
        data: With the pictures kept out.
        seed: Of the samples.
        progress: Bars on stderr.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        interpreter: Callable[[ConditionalFlow], Interpreter],
        data: FeatureData,
        seed: int,
        progress: bool,
    ) -> None:
        self.folder, self.every, self.interpreter = folder / EVALUATIONS, every, interpreter
        self.data, self.seed, self.progress = data, seed, progress

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where it is due."""
        ends = batch_idx + 1 == trainer.num_training_batches
        due = ends and (trainer.current_epoch + 1) % self.every == 0
        if not due and trainer.global_step != trainer.max_steps:
            return
        if trainer.is_global_zero:
            self._evaluate(trainer, pl_module)
        trainer.strategy.barrier("evaluation")

    def _evaluate(self, trainer: Trainer, stage: Any) -> None:
        flow: Any = current(trainer, stage)
        flow.eval()
        interpreter = self.interpreter(flow)
        layer = interpreter.representation.layer
        result = evaluate(
            interpreter,
            self.data.held_out_set,
            self.data.held_out_features(layer),
            sampling=Sampling(SAMPLES_PER_PICTURE, seed=self.seed),
            progress=self.progress,
        )
        place = self.folder / f"step_{stage.step:07d}.json"
        write_numbers(place, result)
        picture = grid(
            drawn(interpreter, *self.data.shown(PICTURES, layer, training=False), self.seed),
            column_labels=NAMES,
        )
        with atomic(place.with_suffix(".png")) as draft:
            picture.save(draft, "PNG")
        numbers = {
            f"evaluation/{each.name}": float(each.value)
            for each in lines(result)
            if isinstance(each.value, (int, float))
        }
        for logger in trainer.loggers:
            if not isinstance(logger, MetricsFile):
                logger.log_metrics(numbers, stage.step)
        log_picture(trainer.loggers, "evaluation", picture, stage.step)
        stage.train()
