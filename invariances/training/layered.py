"""The loop that trains a flow for several layers for hours: it stops and goes on at any moment."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from tqdm import tqdm

from invariances.flow.layered import LayeredFlow
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.system.seeds import seeded
from invariances.training.checkpoints import load_checkpoint
from invariances.training.metrics_file import MetricsFile
from invariances.training.schedule import due
from invariances.training.stages import check_same
from invariances.training.stopping import Stopped

RATE, BETAS, DECAY, CLIP, AVERAGE, WARMUP, CONSTANT = 1e-3, (0.9, 0.99), 0.02, 1.0, 0.998, 100, 0.6
"""Of AdamW; of gradients; of the moving average; steps up; share of the steps before the rate falls to zero."""
CHECKPOINT = "checkpoints/last.pt"
_SAVED = 180.0
_FIRST, _HELD_OUT_BATCHES, _FIRST_LOOK = 2_048, 4, 128

Batch = tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]


class Batches(Protocol):
    """Gives the batch of a step, always the same.

    Attributes:
        count: Pictures of an epoch.
    """

    @property
    def count(self) -> int:
        """As above."""

    def batch(self, step: int, per_layer: int) -> Batch:
        """(latents, layer -> (places, representations))."""


@dataclass(frozen=True)
class LayeredRun:
    """How long to train, and where to.

    Args:
        folder: Of checkpoint, metrics and result; a run in it goes on.
        steps: In all, those of earlier sittings counted.
        per_layer: Pictures of each layer at a step.
        checkpoint_every: Steps between two checkpoints; one is written every three minutes besides.
        metrics_every: Steps between two rows of metrics, after those of steps 2, 4, 8, … 512.
        loggers: Where they go.
        look: Called with the step and the average where grids are due.
        look_every: Steps between two, after those of steps 128, 256 and 512; 0 for the last step alone.
        seed: Of the noise.
        about: What a checkpoint must be of, to be gone on with.
        progress: A bar on stderr.
    """

    folder: Path
    steps: int
    per_layer: int = 10
    checkpoint_every: int = 0
    metrics_every: int = 100
    loggers: Sequence[Logger] = ()
    look: Callable[[int, LayeredFlow], None] | None = None
    look_every: int = 0
    seed: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True


def columns(layers: Iterable[str]) -> list[str]:
    """Of metrics.csv, after step and epoch: losses are squared errors of the velocity per dimension."""
    return ["loss", *(f"held_out_{layer}" for layer in layers), "learning_rate", "images_per_second"]


def rate_at(step: int, steps: int) -> float:
    """The learning rate's factor: up over 100 steps or a tenth, constant, down to zero over the last 40 %."""
    falling = CONSTANT * steps
    down = 1.0 if step < falling else max(0.0, (steps - step) / (steps - falling))
    return min(1.0, (step + 1) / min(WARMUP, max(1, steps // 10))) * down


@torch.no_grad()
def _normalise(flow: LayeredFlow, data: Batches, seed: int) -> None:
    """Sets the normalisations by many pictures, not by the few of a step."""
    batch = moved(data.batch(0, max(1, _FIRST // len(flow.layers))), next(flow.parameters()).device)
    flow.train().loss(*batch, seeded("first", seed))


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    latents, told = batch
    return latents.to(device), {layer: (own.to(device), z.to(device)) for layer, (own, z) in told.items()}


def train_layered(
    flow: LayeredFlow,
    data: Batches,
    held_out: Batches,
    run: LayeredRun,
    checkpoint: Mapping[str, Any] | None = None,
) -> LayeredFlow:
    """The moving average of the flow, trained; Ctrl-C and SIGTERM leave a checkpoint to go on from.

    Args:
        flow: Not trained yet; a run without a checkpoint begins by setting its normalisations.
        data: To learn from.
        held_out: To measure on.
        run: How long, and where to.
        checkpoint: Of the run's folder, where it was read already.
    """
    path = run.folder / CHECKPOINT
    if checkpoint is None and path.is_file():
        checkpoint = load_checkpoint(path)
    if checkpoint is None:
        _normalise(flow, data, run.seed)
    sitting = _Sitting(flow, run)
    sitting.start(checkpoint)
    del checkpoint
    bar = tqdm(
        initial=sitting.step,
        total=run.steps,
        desc=f"flow for {len(flow.layers)} layers",
        unit="step",
        file=sys.stderr,
        dynamic_ncols=True,
        disable=not run.progress,
    )
    saved = time.monotonic()
    with _stoppable() as stop:
        while sitting.step < run.steps and not stop:
            loss = sitting.learn(data.batch(sitting.step, run.per_layer))
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if due(sitting.step, run.metrics_every) or sitting.step == run.steps:
                sitting.report(data, held_out)
            if run.look is not None and sitting.looks():
                run.look(sitting.step, sitting.average)
            every = run.checkpoint_every
            if time.monotonic() - saved > _SAVED or (every and sitting.step % every == 0):
                sitting.save()
                saved = time.monotonic()
    bar.close()
    sitting.save()
    if stop:
        raise KeyboardInterrupt from Stopped(run.folder / CHECKPOINT, sitting.step, stop[0])
    return sitting.average


@contextmanager
def _stoppable() -> Iterator[list[int]]:
    """A list that is no longer empty once SIGINT or SIGTERM came."""
    came: list[int] = []
    former = {each: signal.signal(each, lambda number, _: came.append(number)) for each in _SIGNALS}
    try:
        yield came
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Sitting:
    """Flow, average, optimiser and step of a run."""

    def __init__(self, flow: LayeredFlow, run: LayeredRun) -> None:
        self.flow, self.run, self.step = flow.train(), run, 0
        self.average = deepcopy(flow).eval().requires_grad_(False)
        self.learning = [each for each in flow.parameters() if each.requires_grad]
        self.device = self.learning[0].device
        self.optimizer = torch.optim.AdamW(
            self.learning, lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True
        )
        self.losses: list[float] = []
        self.since = 0, time.monotonic()

    def learn(self, batch: Batch) -> float:
        """One step; its loss."""
        latents, told = moved(batch, self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * rate_at(self.step, self.run.steps)
        loss = self.flow.loss(latents, told, seeded("layered", self.run.seed, self.step)).mean()
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is no longer finite at step {self.step + 1}, so training stops and the last checkpoint "
                "stays; --resume goes on from there"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learning, CLIP)
        self.optimizer.step()
        self.step += 1
        decay = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            theirs = [each.detach() for each in self.flow.parameters()]
            torch._foreach_lerp_(list(self.average.parameters()), theirs, 1 - decay)
        self.losses.append(loss.item())
        return self.losses[-1]

    def looks(self) -> bool:
        """Whether grids are due: a sample takes as long as many steps, so not at the first ones."""
        if self.step == self.run.steps:
            return True
        return self.run.look_every > 0 and self.step >= _FIRST_LOOK and due(self.step, self.run.look_every)

    @torch.no_grad()
    def report(self, data: Batches, held_out: Batches) -> None:
        """A row of metrics: the mean loss since the last, and the average's on photos kept out."""
        losses: dict[str, list[float]] = {}
        for number in range(_HELD_OUT_BATCHES):
            latents, told = moved(held_out.batch(number, self.run.per_layer), self.device)
            loss = self.average.loss(latents, told, seeded("layered held out", number))
            for layer, (places, _) in told.items():
                losses.setdefault(layer, []).append(float(loss[places].mean()))
        pictures = self.run.per_layer * len(self.flow.layers)
        (before, then), now = self.since, time.monotonic()
        self.since = self.step, now
        row = {
            "epoch": float(self.step * pictures // data.count),
            "loss": _mean(self.losses),
            **{f"held_out_{layer}": _mean(each) for layer, each in losses.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round((self.step - before) * pictures / max(now - then, 1e-9), 2),
        }
        self.losses = []
        for logger in self.run.loggers:
            logger.log_metrics(row, self.step)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "flow": self.flow.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "invariances": dict(self.run.about),
        }
        with atomic(self.run.folder / CHECKPOINT) as draft:
            torch.save(state, draft)

    def start(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a checkpoint, where there is one."""
        if state is not None:
            check_same(state["invariances"], self.run.about)
            self.flow.load_state_dict(state["flow"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        self.since = self.step, time.monotonic()
        for logger in self.run.loggers:
            if isinstance(logger, MetricsFile):
                logger.start(self.step)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / max(1, len(values)), 5)
