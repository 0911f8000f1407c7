"""What this machine has, and on which of its devices things run."""

from __future__ import annotations

import os

import torch

from invariances.system.errors import UserError


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bfloat16() -> bool:
    """Whether the processor computes in bfloat16, at about twice the speed of float32."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # older versions of torch cannot tell
    return bool(supported())


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is at most as fast as float32 there, for want of instructions."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not bfloat16()


def accelerator(device: str) -> torch.device:
    """The device of that name; "auto" is the accelerator where there is one, else the processor.

    Raises:
        UserError: There is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(found.type, False):
        raise UserError(f"device {device!r} is not on this machine; use cpu, or auto for what there is")
    if found.type == "cuda" and found.index is not None and found.index >= torch.cuda.device_count():
        raise UserError(
            f"device {device!r} is not on this machine, which has {torch.cuda.device_count()} of cuda"
        )
    return found
