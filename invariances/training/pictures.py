"""What a flow makes of a few pictures while it learns, and where these grids go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.report.grids import grid
from invariances.system.files import atomic
from invariances.system.seeds import seeded
from invariances.training.callbacks import current
from invariances.training.schedule import due

PICTURES, SAMPLES = 6, 6
NAMES = ("picture", "round trip", "autoencoder", "v swapped", *["sample"] * SAMPLES)
"""Columns: x; D(t⁻¹(t(z̄ | z) | z)); D(z̄); D of the v of the row from the other end with each own z; fresh v."""


class SampleGrids(Callback):
    """`samples/held_out_*.png` and `training_*.png` when they are `due` and at the last step; see `NAMES`.

    Args:
        folder: Where they go; TensorBoard and Weights & Biases get them too.
        every: Steps between two, once steps 0, 2, 4, 8, … 512 are past; 0 for the last step alone.
        interpreter: Of a flow.
        shown: By the grid's name pictures (N, 3, S, S) in [-1, 1] and their latents (N, *latent_shape).
        seed: Of the samples.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        interpreter: Callable[[ConditionalFlow], Interpreter],
        shown: Mapping[str, tuple[Tensor, Tensor]],
        seed: int,
    ) -> None:
        self.folder, self.every, self.interpreter = folder, every, interpreter
        self.shown, self.seed = shown, seed

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw what an untrained flow makes of them."""
        if self.every and not pl_module.done:
            self._draw(trainer, pl_module)

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw where it is due."""
        step = trainer.global_step
        if step == trainer.max_steps or (self.every and due(step, self.every)):
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, stage: Any) -> None:
        flow: Any = current(trainer, stage)
        flow.eval()
        for name, (images, latents) in self.shown.items():
            rows = drawn(self.interpreter(flow), images, latents, self.seed)
            picture = grid(rows, column_labels=NAMES)
            keep_picture(picture, self.folder, name, stage.step, trainer.loggers)
        stage.train()


@torch.no_grad()
def drawn(interpreter: Interpreter, images: Tensor, latents: Tensor, seed: int) -> Tensor:
    """The rows of a grid, (N, len(NAMES), 3, S, S) on the CPU."""
    flow, z = interpreter.flow, interpreter.represent(images)
    told, latents = flow.embed(z), latents.to(interpreter.device)
    v = flow(latents, embedding=told)[0]
    made = [flow.inverse(v, embedding=told), latents, flow.inverse(v.flip(0), embedding=told)]
    samples = flow.sample(z, SAMPLES, generator=seeded("samples", seed))
    columns = [interpreter.resized(images), *map(interpreter.decode, made)]
    return torch.stack([*columns, *interpreter.decode(samples).unbind(1)], dim=1).cpu()


def keep_picture(picture: Image.Image, folder: Path, name: str, step: int, loggers: Sequence[Logger]) -> None:
    """Writes `NAME_STEP.png`, and sends the picture to the loggers as `samples/NAME`."""
    with atomic(folder / f"{name}_{step:07d}.png") as draft:
        picture.save(draft, "PNG")
    log_picture(loggers, f"samples/{name}", picture, step)


def log_picture(loggers: Sequence[Logger], name: str, picture: Image.Image, step: int) -> None:
    """Sends a picture to the loggers that take pictures."""
    for each in loggers:
        if isinstance(each, TensorBoardLogger):
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            each.experiment.add_image(name, pixels, step)
        elif isinstance(each, WandbLogger):
            each.log_image(name, [picture], step=step)
