"""Packages that come with extras."""

from __future__ import annotations

from importlib.util import find_spec


def installed(package: str) -> bool:
    """Whether a package is there; a mere folder of its name, such as wandb leaves where it logs, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None
