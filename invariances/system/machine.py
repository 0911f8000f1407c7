"""What this machine has."""

from __future__ import annotations

import os

import torch


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bfloat16() -> bool:
    """Whether the processor computes in bfloat16, at about twice the speed of float32."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # older versions of torch cannot tell
    return bool(supported())
