"""Training readers of attributes: of the autoencoder's code, and of a layer (probes)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from invariances.data.attributes import Attribute
from invariances.evaluation.attributes import AttributeReader
from invariances.system.seeds import seeded

STEPS, BATCH, RATE, DECAY = 1000, 128, 3e-3, 0.02
CALIBRATING = 0.1
"""Share of the training pictures that a reader is calibrated on, and does not learn from."""


def fit_attribute_reader(
    inputs: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    attributes: Mapping[str, Attribute],
    seed: int = 0,
    *,
    probabilities: bool = False,
    device: str | torch.device = "cpu",
    description: str = "reader",
    progress: bool = True,
) -> AttributeReader:
    """A reader that learned from nine tenths of the training pictures and was calibrated on the others; in eval mode.

    Args:
        inputs: Gives those of some pictures (B,), (B, *shape).
        shape: Of an input.
        attributes: Of the training pictures.
        seed: Of weights and batches.
        probabilities: As of `AttributeReader`.
        device: Where it learns.
        description: The bar's words.
        progress: Whether there is a bar.
    """
    count = len(next(iter(attributes.values())).values)
    generator = seeded("attributes", seed, count)
    order = torch.randperm(count, generator=generator)
    kept = max(2, min(2000, round(CALIBRATING * count)))
    calibrating, learning = order[:kept], order[kept:] if count > 2 * kept else order
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = AttributeReader(shape, attributes, probabilities=probabilities).to(device).train()
    learner = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=DECAY, fused=True)
    steps = min(STEPS, max(100, 40 * len(learning) // BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(learner, RATE, total_steps=steps, pct_start=0.2)
    bar = tqdm(range(steps), desc=description, unit="step", disable=not progress, file=sys.stderr)
    for _ in bar:
        chosen = learning[torch.randint(len(learning), (BATCH,), generator=generator)]
        outputs = reader(inputs(chosen).to(device)).float()
        loss = reader.loss(outputs, {name: each.at(chosen) for name, each in attributes.items()})
        learner.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.step()
        schedule.step()
    reader.eval().requires_grad_(False)
    parts = [reader(inputs(part).to(device)).cpu() for part in torch.split(calibrating, 256)]
    reader.calibrate(torch.cat(parts), {name: each.at(calibrating) for name, each in attributes.items()})
    return reader
