"""What a pass through a network costs, as a function of nothing but the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def flops(function: Callable[..., Any], *inputs: Tensor) -> int:
    """Multiplications and additions of `function(*inputs)` in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counted:
        function(*inputs)
    return int(counted.get_total_flops())
