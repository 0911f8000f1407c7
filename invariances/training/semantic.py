"""Training of the second invertible network: first it learns to read what pictures share, then to write it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from invariances.flow.semantic import SemanticFlow, covariances, unlikeness
from invariances.system.seeds import seeded
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor

WARMUP, WEIGHT_DECAY, LEARNING_RATE, MOST_GRADIENT = 0.025, 0.05, 8e-3, 10.0
READING_NOISE, WRITING_NOISE = 0.3, 0.1
"""Standard deviations, in those of the latents, of what is added to them; writing adds as much to the factors."""
_SCALE = 0.01


def train_semantic(
    flow: SemanticFlow,
    latents: Tensor,
    shared: Tensor,
    steps: int,
    batch: int = 256,
    correlation: float = 0.95,
    progress: bool = True,
) -> SemanticFlow:
    """`flow`, taught in place by Muon: r by Σ_k `unlikeness` of families' pictures, then m by E‖z̄ − m(s)‖².

    Args:
        flow: Learns in place.
        latents: (families, members, D); the first tenth says how well r reads, `whiten`.
        shared: (families, members, K) numbers, in the order of `sizes`, equal where pictures share a factor.
        steps: Of each.
        batch: Families of a step.
        correlation: σ of `unlikeness`.
        progress: A bar on stderr.
    """
    generator = seeded("factors")
    apart = max(1, len(latents) // 10)
    held_out, same_held_out = latents[:apart].flatten(0, 1), shared[:apart].flatten(0, 1)
    latents, shared = latents[apart:], shared[apart:]
    flow.train()
    flat = latents.flatten(0, 1)
    flow.mean.copy_(flat.mean(0))
    flow.deviation.copy_(flat.std(0))

    def drawn() -> tuple[Tensor, Tensor]:
        family = torch.randint(len(latents), (min(batch, len(latents)),), generator=generator)
        x = (latents[family].flatten(0, 1) - flow.mean) / flow.deviation
        return x, shared[family].flatten(0, 1)

    def of_reading() -> Tensor:
        x, same = drawn()
        loss = x.new_zeros(())
        noise = READING_NOISE * torch.randn(x.shape, generator=generator)
        for k, each in enumerate(flow.groups(flow.read(x + noise))):
            loss = loss + unlikeness(each, same[:, k], correlation)
            loss = loss + _SCALE * each.var(dim=0).log().square().sum()
        return loss

    def of_writing() -> Tensor:
        x = drawn()[0]
        x = x + WRITING_NOISE * torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            factors = flow.read(x)
        noise = WRITING_NOISE * torch.randn(factors.shape, generator=generator)
        error: Tensor = flow.writing(factors + noise) - x
        return error.square().mean()

    learn(flow.reading, of_reading, steps, "reading factors" if progress else None)
    whiten(flow, held_out, same_held_out)
    learn(flow.writing, of_writing, steps, "writing factors" if progress else None)
    return flow.requires_grad_(False).eval()


def learn(network: nn.Module, loss_of: Callable[[], Tensor], steps: int, words: str | None) -> None:
    """Steps of Muon, the rate falling to zero, and a bar on stderr with `words`, unless they are None."""
    matrices = [each for each in network.parameters() if each.dim() == 2]
    optimizer = MuonAdam(network.parameters(), matrices, weight_decay=WEIGHT_DECAY, lr=LEARNING_RATE)
    schedule = LambdaLR(optimizer, rate_factor("cosine", max(1.0, WARMUP * steps), steps))
    bar = tqdm(range(steps), desc=words, unit="step", disable=words is None)
    for step in bar:
        loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(network.parameters(), MOST_GRADIENT)
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            bar.set_postfix(loss=f"{loss.item():.3f}")


@torch.no_grad()
def whiten(flow: SemanticFlow, latents: Tensor, shared: Tensor) -> None:
    """Turns each factor's code to uncorrelated directions with mean 0 and variance ρ²: what they tell of the factor.

    ρ is a direction's correlation between pictures that share the factor. Of a factor that cannot be read, r gives
    whatever else there is; its ρ is 0, and so nothing of that goes by the factor's name. (Not quite 0 where pictures
    that share the factor share others oftener than by chance, as they do where they share it only within families.)

    Args:
        flow: With r taught.
        latents: (N, D), not of the families that taught it.
        shared: (N, K).
    """
    parts = torch.split((latents - flow.mean) / flow.deviation, 4096)
    factors = torch.cat([flow.read(part) for part in parts]).double()
    blocks = []
    for k, each in enumerate(flow.groups(factors)):
        within, total = covariances(each, shared[:, k])
        spread, axes = torch.linalg.eigh(total)
        white = axes / spread.clamp(min=1e-8).sqrt()
        unlike, directions = torch.linalg.eigh(white.T @ within @ white)
        blocks.append(white @ directions * (1 - unlike).clamp(0, 1))
    flow.centre.copy_(factors.mean(dim=0))
    flow.whiten.copy_(torch.block_diag(*blocks))  # type: ignore[no-untyped-call]
