"""The loop that trains a small classifier on a CPU in minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from invariances.system.errors import UserError
from invariances.zoo.small_resnet import SmallResNet

if TYPE_CHECKING:
    from invariances.data.shapes import Shapes


@dataclass(frozen=True)
class Lesson:
    """How a small classifier learns: cross-entropy, AdamW, one warm-up and decay of the step size.

    Args:
        steps: optimiser steps.
        batch_size: pictures per step.
        learning_rate: the highest, reached after a fifth of the steps.
        weight_decay: AdamW's.
        flip: mirror half of the pictures (photographs; not `Shapes`, whose rotation it would turn).
        half: compute in bfloat16 (twice as fast on processors that have it).
        seed: decides weights and batches.
        keep: called before the first step and after each with the number of steps made and the network.
    """

    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    flip: bool = False
    half: bool = False
    seed: int = 0
    keep: Callable[[int, SmallResNet], None] | None = None


def train_classifier(
    images: Tensor | Shapes,
    labels: Tensor | None = None,
    classes: Sequence[str] | int | None = None,
    *,
    width: int = 16,
    lesson: Lesson = Lesson(),
    progress: bool = True,
    description: str = "classifier",
) -> SmallResNet:
    """Train a SmallResNet on the CPU; in eval mode.

    Args:
        images: uint8 (N, 3, H, W), or a `Shapes` world, whose pictures are then drawn as they are needed.
        labels: (N,) int64 classes of uint8 images; a world knows its own.
        classes: names (or number) of the classes; from the labels or the world where left out.
        width: of the network.
        lesson: how it learns.
        progress: show a bar on stderr.
        description: the bar's words.

    Raises:
        UserError: images without labels, or labels outside the classes.
    """
    world = None if isinstance(images, Tensor) else images
    if world is None and labels is None:
        raise UserError("train_classifier needs a label for each image")
    if classes is None:
        classes = world.classes if world is not None else _classes_of(labels)
    _check_labels(labels, classes if isinstance(classes, int) else len(classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        network = SmallResNet(classes, width)
    network.to(memory_format=torch.channels_last).train()
    rate = lesson.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=lesson.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=lesson.steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(lesson.seed)
    bar = tqdm(range(lesson.steps), desc=description, unit="step", disable=not progress)
    for step in bar:
        if lesson.keep is not None:
            lesson.keep(step, network)
        x, y = _batch(images, labels, lesson, generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=lesson.half):
            logits = network(x).float()
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            hits = (logits.argmax(1) == y).float().mean()
            bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{hits.item():.3f}")
    network = network.to(memory_format=torch.contiguous_format).eval()
    if lesson.keep is not None:
        lesson.keep(lesson.steps, network)
    return network


def _batch(
    images: Tensor | Shapes, labels: Tensor | None, lesson: Lesson, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [-1, 1], and their labels."""
    indices = torch.randint(len(images), (lesson.batch_size,), generator=generator)
    if isinstance(images, Tensor):
        assert labels is not None
        x, y = images[indices].float() / 127.5 - 1, labels[indices]
    else:
        batch = images.batch(indices)
        x, y = batch["image"], batch["label"]
    if lesson.flip:
        mirrored = torch.rand(lesson.batch_size, generator=generator) < 0.5
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last), y


def _classes_of(labels: Tensor | None) -> int:
    assert labels is not None
    return int(labels.max()) + 1


def _check_labels(labels: Tensor | None, classes: int) -> None:
    if labels is None:
        return
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(f"labels must lie between 0 and {classes - 1} for {classes} classes")


@torch.inference_mode()
def accuracy(network: nn.Module, world: Shapes, n: int = 2000, batch_size: int = 250) -> float:
    """Share of the first `n` pictures of a world whose label the network names."""
    n, hits = min(n, len(world)), 0
    for start in range(0, n, batch_size):
        batch = world.batch(range(start, min(n, start + batch_size)))
        hits += int((network(batch["image"]).argmax(1) == batch["label"]).sum())
    return hits / n
