"""Training factor readers: all layers of a network in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from invariances.training.muon import MuonAdam
from invariances.zoo.factor_reader import FactorReader, Factors, loss


def fit_readers(
    readers: Mapping[str, FactorReader],
    batch: Callable[[Tensor], tuple[Mapping[str, Tensor], Factors]],
    n: int,
    *,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.02,
    optimizer: Literal["adam", "muon"] = "adam",
    seed: int = 0,
    half: bool = False,
    progress: bool = True,
    description: str = "reader",
) -> None:
    """Train readers side by side on the same pictures (all layers of a network in one pass), ending in eval mode.

    Args:
        readers: by name.
        batch: indices (B,) to ({name: inputs (B, *shape)}, factors of these pictures).
        n: indices are drawn below this.
        steps: optimiser steps.
        batch_size: pictures per step.
        learning_rate: the highest, reached after a fifth of the steps.
        weight_decay: decoupled.
        optimizer: "adam", or "muon" for the weight matrices.
        seed: decides the batches.
        half: compute in bfloat16 (twice as fast on processors that have it).
        progress: show a bar on stderr.
        description: the bar's words.
    """
    parameters = [p for reader in readers.values() for p in reader.parameters()]
    matrices = [p for p in parameters if p.dim() > 1] if optimizer == "muon" else []
    learner = MuonAdam(parameters, matrices, lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(learner, learning_rate, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    for reader in readers.values():
        reader.train()
    bar = tqdm(range(steps), desc=description, unit="step", disable=not progress)
    for step in bar:
        inputs, factors = batch(torch.randint(n, (batch_size,), generator=generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = {name: reader(inputs[name]) for name, reader in readers.items()}
        total = torch.stack([loss(each.float(), factors) for each in outputs.values()]).sum()
        learner.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        learner.step()
        schedule.step()
        if step % 20 == 19:
            bar.set_postfix(loss=f"{total.item() / len(readers):.3f}")
    for reader in readers.values():
        reader.eval()
