"""Muon beside Adam: weight matrices move by the orthogonal factor of their momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invariances.system.machine import bfloat16

_ITERATIONS, _QUINTIC = 5, (3.4445, -4.7750, 2.0315)
_ROOT_MEAN_SQUARE = 0.2


def orthogonal_factor(matrices: Tensor) -> Tensor:
    """U Vᵀ of M = U Σ Vᵀ, nearly: five Newton-Schulz steps bring all but the faintest singular values into 0.7 to 1.2.

    In bfloat16 where the device computes in it.

    Args:
        matrices: (…, O, I), each by itself.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    x = matrices.bfloat16() if matrices.is_cuda or bfloat16() else matrices
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    factor: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return factor


class MuonAdam(torch.optim.AdamW):
    """ΔW = −lr · 0.2 · √max(O, I) · UVᵀ for the matrices, UΣVᵀ their momentum with a look ahead; Adam for the others.

    Every direction of a matrix moves as much as every other, however small its gradient is beside theirs. The factor
    makes a matrix' step as large as Adam's usually is, so that one learning rate serves both. Weights of
    convolutions (O, …) count as matrices (O, I).

    Args:
        parameters: all that learns, or groups of it with options of their own, {"params": …, "lr": …}.
        matrices: those of them with two dimensions or more to be moved so.
        momentum: decay of the matrices' momentum.
        adam: as of `torch.optim.AdamW`; `weight_decay` (0 by default) shrinks matrices too.

    Every group becomes two: its matrices, then its others. Sources: Jordan et al. 2024; the step's size from Liu et al.
    2025, "Muon is scalable for LLM training".
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Sequence[Mapping[str, Any]],
        matrices: Iterable[Tensor],
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        **adam: Any,
    ) -> None:
        given = list(parameters)
        known = {id(each) for each in matrices}
        groups: list[dict[str, Any]] = []
        for group in [{"params": given}] if given and isinstance(given[0], Tensor) else given:
            options = dict(group)
            members = list(options.pop("params"))
            moved = [each for each in members if id(each) in known]
            others = [each for each in members if id(each) not in known]
            groups += [
                {**options, "params": moved, "muon": momentum},
                {**options, "params": others, "muon": None},
            ]
        super().__init__(groups, weight_decay=weight_decay, **adam)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all; a matrix' gradient is gone after it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"] is not None:
                self._move(group)
        super().step()
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """A step of the group's matrices, those of one shape together."""
        alike: dict[torch.Size, list[Tensor]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                alike.setdefault(weight.shape, []).append(weight)
        for shape, weights in alike.items():
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros(())  # Adam looks for it when a state is loaded
                    state["momentum"] = torch.zeros_like(weight)
                state["step"] += 1
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            momenta = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_mul_(momenta, group["muon"])
            torch._foreach_add_(momenta, gradients)
            ahead = torch.stack(torch._foreach_add(gradients, momenta, alpha=group["muon"])).flatten(2)
            size = group["lr"] * _ROOT_MEAN_SQUARE * max(ahead.shape[1:]) ** 0.5
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            factors = orthogonal_factor(ahead).view(-1, *shape)
            torch._foreach_add_(weights, list(factors.unbind()), alpha=-size)
            for weight in weights:
                weight.grad = None  # leaves Adam nothing to do
