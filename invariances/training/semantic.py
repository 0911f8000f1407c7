"""Training of the second invertible network, from pairs of latents that share factors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from invariances.flow.semantic import SemanticFlow
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor

Pairs = Callable[[int], tuple[Tensor, Tensor, Tensor]]
"""Of a step: latents (B, D) and (B, D), and which factors each pair shares (B, K)."""

WARMUP, WEIGHT_DECAY, EMA, MOST_GRADIENT = 0.025, 0.05, 0.99, 1.0


def train_semantic(
    flow: SemanticFlow,
    pairs: Pairs,
    steps: int,
    correlation: float = 0.9,
    learning_rate: float = 8e-3,
    progress: bool = True,
) -> SemanticFlow:
    """The flow's moving average after so many steps of `SemanticFlow.loss` by Muon, the rate falling to zero.

    Args:
        flow: Learns in place; ActNorm starts at the first pairs.
        pairs: Of a step.
        steps: Training steps.
        correlation: σ of a factor that a pair shares.
        learning_rate: The highest.
        progress: A bar on stderr.
    """
    flow.train()
    with torch.no_grad():
        flow(torch.cat(pairs(0)[:2]))
    average = AveragedModel(flow, multi_avg_fn=get_ema_multi_avg_fn(EMA))  # type: ignore[no-untyped-call]
    matrices = [each for each in flow.parameters() if each.dim() == 2]
    optimizer = MuonAdam(flow.parameters(), matrices, weight_decay=WEIGHT_DECAY, lr=learning_rate)
    warmup = max(1.0, WARMUP * steps)
    schedule = LambdaLR(optimizer, rate_factor("cosine", warmup, steps))
    bar = tqdm(range(steps), desc="factors", unit="step", disable=not progress)
    for step in bar:
        a, b, shared = pairs(step)
        loss = flow.loss(a, b, shared, correlation).mean() / a.shape[1]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(flow.parameters(), MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        average.update_parameters(flow)
        if step % 20 == 19:
            bar.set_postfix(nats_per_dim=f"{loss.item() / 2:.3f}")
    trained = average.module
    assert isinstance(trained, SemanticFlow)
    return trained.requires_grad_(False).eval()
