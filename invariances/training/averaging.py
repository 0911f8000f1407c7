"""Weights that are kept beside those that learn: their moving average, and the best that were measured."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Averaging(Callback):
    """An exponential moving average of what a stage teaches, θ̄ ← d θ̄ + (1 − d) θ after every step.

    Lightning's own callback swaps the two in place around a validation loop; grids and held-out losses are made in the
    middle of an epoch here, with the average at hand all the time.

    Args:
        module: What learns.
        decay: d.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.model = AveragedModel(module, multi_avg_fn=average)
        self.model.requires_grad_(False).eval()

    @property
    def average(self) -> nn.Module:
        """The averaged module."""
        return self.model.module

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Go where the module is."""
        self.model.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One more step."""
        self.model.update_parameters(pl_module.learner)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(self.model.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.model.load_state_dict(state_dict)


class BestWeights(Callback):
    """The lowest held-out loss that was measured, its step, and a copy of the weights that reached it.

    Kept in memory: a checkpoint of Lightning's at every improvement would cost more than the steps between two.

    Args:
        module: What learns.
        copy: Whether weights are kept; else only what was measured.
    """

    def __init__(self, module: nn.Module, copy: bool) -> None:
        self.best = deepcopy(module).requires_grad_(False).eval() if copy else None
        self.step, self.lowest = 0, math.inf

    def judge(self, step: int, held_out: float, module: nn.Module) -> None:
        """Note the loss of `module` (nats per dimension), and its weights if it is the lowest."""
        if held_out < self.lowest:
            self.step, self.lowest = step, held_out
            if self.best is not None:
                self.best.load_state_dict(module.state_dict())

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Go where the module is."""
        if self.best is not None:
            self.best.to(pl_module.device)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        weights: dict[str, Tensor] = {} if self.best is None else dict(self.best.state_dict())
        return {"step": self.step, "lowest": self.lowest, "weights": weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.step, self.lowest = state_dict["step"], state_dict["lowest"]
        if self.best is not None:
            self.best.load_state_dict(state_dict["weights"])
