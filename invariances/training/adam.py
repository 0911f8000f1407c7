"""Adam that moves each weight as soon as its gradient is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamInBackward(torch.optim.AdamW):
    """`torch.optim.AdamW`, fused, whose weights move during the backward pass: the same numbers to the bit.

    A gradient is read while it is still in the processor's cache, and all of them never lie in memory together. On a
    CPU a large flow's step is bound by memory, so that this saves a good part of it. Only `step(closure)` is meant, for
    one process and one batch per step: gradients may not be clipped, scaled, or summed over batches or processes.

    Args:
        parameters: all that learns.
        adam: as of `torch.optim.AdamW`.
    """

    def __init__(self, parameters: Iterable[Tensor], **adam: Any) -> None:
        super().__init__(parameters, fused=True, **adam)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The closure, which calls `backward`; weights move in it."""
        if closure is None:
            raise TypeError("AdamInBackward moves weights inside of the closure's backward pass; give one")
        hooks = [
            weight.register_post_accumulate_grad_hook(partial(self._move, group))
            for group in self.param_groups
            for weight in group["params"]
        ]
        try:
            with torch.enable_grad():
                return closure()
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _move(self, group: dict[str, Any], weight: Tensor) -> None:
        """One step of one weight, whose gradient is gone after it."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        beta1, beta2 = group["betas"]
        adamw(
            [weight],
            [weight.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        weight.grad = None
