"""The one place that makes a `Trainer`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger, WandbLogger

from invariances.data.datasets import tell
from invariances.system.machine import accelerator, emulates_bfloat16
from invariances.training.checkpoints import AtomicCheckpoints
from invariances.training.config import FitConfig, RunConfig
from invariances.training.metrics_file import MetricsFile


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


def settled(run: RunConfig) -> RunConfig:
    """The run with float32 in place of a bfloat16 that its device would emulate, at a third of float32's speed."""
    if run.precision == "32-true" or not emulates_bfloat16(accelerator(run.device)):
        return run
    if run.progress:
        tell("this device does not compute in bfloat16, so run.precision is 32-true")
    return replace(run, precision="32-true")


def make_trainer(
    run: RunConfig, steps: int, callbacks: Sequence[Callback], loggers: Sequence[Logger], **more: Any
) -> Trainer:
    """A trainer for so many steps, on the run's device, in its precision.

    Args:
        run: Device, devices, nodes, precision, rows.
        steps: When to stop.
        callbacks: All that it has.
        loggers: Where metrics go.
        more: Further arguments of Lightning's.
    """
    device = accelerator(run.device)
    devices: Any = run.devices
    if device.index is not None and run.devices == 1:
        devices = [device.index]
    return Trainer(
        max_steps=steps,
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=devices,
        num_nodes=run.num_nodes,
        precision=run.precision,
        log_every_n_steps=run.log_every,
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        plugins=[AtomicCheckpoints()],
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        **more,
    )


def loggers_of(
    folder: Path | None, metrics: MetricsFile | None, config: FitConfig, given: Sequence[Logger]
) -> list[Logger]:
    """metrics.csv, TensorBoard, Weights & Biases where it is asked for, and those given besides.

    Args:
        folder: Of the run; None keeps no files.
        metrics: The file of metrics.
        config: Says whether to log to Weights & Biases, which keeps all of it.
        given: The caller's own.

    Raises:
        UserError: wandb is not installed.
    """
    loggers: list[Logger] = []
    if folder is not None and metrics is not None:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers = [metrics, TensorBoardLogger(folder, name="", version="tensorboard")]
    if config.run.wandb is not None:
        from invariances.training.wandb_logger import wandb_logger

        loggers.append(wandb_logger(config.run.wandb, folder, config.as_dict()))
    return [*loggers, *given]


def finish(loggers: Sequence[Logger]) -> None:
    """Ends the runs of Weights & Biases among the loggers, so that the next one is another."""
    for each in loggers:
        if isinstance(each, WandbLogger):
            each.experiment.finish()
