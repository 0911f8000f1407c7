"""How features are kept, without torch: the same in Python, YAML and on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from invariances.system.checks import choice, number, text

StoredType = Literal["float16", "float32"]
Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class CacheConfig:
    """Where features are kept between runs, and how much room they may take.

    Args:
        folder: Folder of all caches; by default $XDG_CACHE_HOME/invariances/features.
        max_gb: Disk budget of one cache in GB; representations that need more are computed at every step.
        dtype: How representations are stored.
        batch_size: Pictures per pass while caching.
    """

    folder: str | None = None
    max_gb: float = 20.0
    dtype: StoredType = "float16"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.folder is not None:
            text("cache.folder", self.folder)
        number("cache.max_gb", self.max_gb, 0)
        choice("cache.dtype", self.dtype, StoredType)
        number("cache.batch_size", self.batch_size, 1, 65_537, whole=True)
