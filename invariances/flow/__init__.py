"""The conditional invertible network between latents and invariances; needs torch alone, `config` not even that."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invariances.flow.config import EmbedderConfig, FlowConfig
    from invariances.flow.flow import ConditionalFlow

_HOMES = {"ConditionalFlow": "flow", "EmbedderConfig": "config", "FlowConfig": "config"}
__all__ = ["ConditionalFlow", "EmbedderConfig", "FlowConfig"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
