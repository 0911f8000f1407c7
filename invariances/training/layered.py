"""The loop that trains a flow for several layers on the CPU for hours: it stops and goes on at any moment."""

from __future__ import annotations

import csv
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from invariances.flow.layered import LayeredFlow
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.system.seeds import seeded
from invariances.training.checkpoints import load_checkpoint
from invariances.training.stages import check_same
from invariances.training.stopping import Stopped

RATE, BETAS, DECAY, CLIP, AVERAGE, WARMUP, CONSTANT = 6e-4, (0.9, 0.99), 0.02, 1.0, 0.998, 100, 0.6
"""Of AdamW; of gradients; of the moving average; steps up; share of the steps before the rate falls to zero."""
CHECKPOINT, METRICS = "last.pt", "metrics.csv"
_HELD_OUT_BATCHES = 4

Batch = tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]


class Batches(Protocol):
    """Gives the batch of a step, always the same."""

    def batch(self, step: int, per_layer: int) -> Batch:
        """(latents, layer -> (places, representations))."""


@dataclass(frozen=True)
class LayeredRun:
    """How long to train, and where to.

    Args:
        folder: Of checkpoint, metrics and result; a run in it goes on.
        steps: In all, those of earlier sittings counted.
        per_layer: Pictures of each layer at a step.
        checkpoint_minutes: Between two checkpoints.
        metrics_every: Steps between two rows of metrics.
        seed: Of the noise.
        about: What a checkpoint must be of, to be gone on with.
        progress: A bar on stderr.
    """

    folder: Path
    steps: int
    per_layer: int = 10
    checkpoint_minutes: float = 3
    metrics_every: int = 100
    seed: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True


def rate_at(step: int, steps: int) -> float:
    """The learning rate's factor: up over 100 steps, constant, down to zero over the last 40 %."""
    falling = CONSTANT * steps
    down = 1.0 if step < falling else max(0.0, (steps - step) / (steps - falling))
    return min(1.0, (step + 1) / WARMUP) * down


def train_layered(flow: LayeredFlow, data: Batches, held_out: Batches, run: LayeredRun) -> LayeredFlow:
    """The moving average of the flow, trained; Ctrl-C and SIGTERM leave a checkpoint to go on from.

    Args:
        flow: Its normalisations are set already.
        data: To learn from.
        held_out: To measure on.
        run: How long, and where to.
    """
    sitting = _Sitting(flow, run)
    sitting.resume()
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
            if sitting.step % run.metrics_every == 0:
                sitting.report(held_out)
            if time.monotonic() - saved > 60 * run.checkpoint_minutes:
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
        learning = [each for each in flow.parameters() if each.requires_grad]
        self.learning = learning
        self.optimizer = torch.optim.AdamW(learning, lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True)
        self.losses: list[float] = []

    def learn(self, batch: Batch) -> float:
        """One step; its loss."""
        latents, told = batch
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

    @torch.no_grad()
    def report(self, held_out: Batches) -> None:
        """A row of metrics: the mean loss since the last, and the average's on photos kept out."""
        losses: dict[str, list[float]] = {}
        for number in range(_HELD_OUT_BATCHES):
            latents, told = held_out.batch(number, self.run.per_layer)
            loss = self.average.loss(latents, told, seeded("layered held out", number))
            for layer, (places, _) in told.items():
                losses.setdefault(layer, []).append(float(loss[places].mean()))
        row = {"step": self.step, "loss": _mean(self.losses)}
        row |= {f"held_out_{layer}": _mean(each) for layer, each in losses.items()}
        self.losses = []
        _append(self.run.folder / METRICS, row)

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

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one."""
        path = self.run.folder / CHECKPOINT
        if path.is_file():
            state = load_checkpoint(path)
            check_same(state["invariances"], self.run.about)
            self.flow.load_state_dict(state["flow"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]


def _mean(values: list[float]) -> float:
    return round(sum(values) / max(1, len(values)), 5)


def _append(path: Path, row: Mapping[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
