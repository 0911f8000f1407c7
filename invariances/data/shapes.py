"""A world whose factors are known: one textured figure on a coloured ground, drawn by ourselves.

Each picture is a function of (seed, index) alone. A counter-based generator turns (seed, index, factor)
into a uniform number; the factor is that number stretched over its range, so factors are independent unless
`correlate` lets some of them share one number. Edges are anti-aliased from signed distances.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from invariances.data.drawing import draw as draw
from invariances.system.errors import UserError

SHAPES = ("triangle", "heart", "drop", "crescent", "arrow", "trefoil", "hourglass", "dome")
TEXTURES = ("plain", "stripes", "checks", "dots", "rings", "rays", "zigzag", "grid")


@dataclass(frozen=True)
class Factor:
    """One factor of the world.

    Attributes:
        low, high: range of a continuous factor (uniform in it).
        kinds: names of the values of a discrete factor, else empty.
        circular: whether `high` is `low` again (hues, in turns).
    """

    low: float = 0.0
    high: float = 1.0
    kinds: tuple[str, ...] = ()
    circular: bool = False

    @property
    def discrete(self) -> bool:
        """Whether the factor is one of `kinds`."""
        return bool(self.kinds)

    def at(self, uniform: Tensor) -> Tensor:
        """The factor's value for uniform numbers in [0, 1): int64 kinds, or float32 in [low, high)."""
        if self.discrete:
            return (uniform * len(self.kinds)).long().clamp(max=len(self.kinds) - 1)
        return (self.low + (self.high - self.low) * uniform).float()


FACTORS: dict[str, Factor] = {
    "shape": Factor(kinds=SHAPES),
    "texture": Factor(kinds=TEXTURES),
    "foreground_hue": Factor(circular=True),
    "background_hue": Factor(circular=True),
    "x": Factor(-0.25, 0.25),
    "y": Factor(-0.25, 0.25),
    "size": Factor(0.5, 0.75),
    "rotation": Factor(-45.0, 45.0),
}
"""Hues in turns of the OKLCh colour circle; x (right) and y (down) of the figure's centre and size (its radius)
in halves of the picture's width; rotation in degrees, clockwise."""

HUE_BINS = 8
"""Classes of a hue that is a target: bin k holds the hues in [k, k + 1) / 8."""

_GOLDEN = 0x9E3779B97F4A7C15


class Shapes(Dataset[dict[str, Any]]):
    """Pictures (3, size, size) in [-1, 1] of a figure with known factors, by index from a seed.

    Args:
        n: number of pictures.
        seed: another seed, another world; pictures of different seeds share nothing.
        target: the factor that is the label; a hue is cut into eight bins, other continuous factors into halves.
        correlate: factors that share one uniform number, so that the first tells all others (kind k goes with
            kind k, or with the k-th part of a continuous range).
        correlation: share of pictures in which they do.
        fixed: factors that are always at one value (a kind by name or number).
        size: pixels per side.

    Raises:
        UserError: a name that is no factor or no kind, a value out of range, fewer than one picture.
    """

    def __init__(
        self,
        n: int = 10_000,
        *,
        seed: int = 0,
        target: str = "shape",
        correlate: Sequence[str] = (),
        correlation: float = 1.0,
        fixed: Mapping[str, float | int | str] | None = None,
        size: int = 64,
    ) -> None:
        if n < 1:
            raise UserError(f"Shapes needs at least one picture, not n={n}")
        if not 0 <= correlation <= 1:
            raise UserError(f"correlation is a share of pictures between 0 and 1, not {correlation}")
        self.n, self.seed, self.size = n, seed, size
        self.target, self.correlation = _factor(target), correlation
        self.correlate = tuple(_factor(name) for name in correlate)
        self.fixed = {_factor(name): _value(name, value) for name, value in (fixed or {}).items()}

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Shapes({', '.join(f'{k}={v!r}' for k, v in self.config.items())})"

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this data set again."""
        return {
            "n": self.n,
            "seed": self.seed,
            "target": self.target,
            "correlate": list(self.correlate),
            "correlation": self.correlation,
            "fixed": dict(self.fixed),
            "size": self.size,
        }

    @property
    def classes(self) -> list[str]:
        """Names of the target's classes."""
        factor = FACTORS[self.target]
        if factor.discrete:
            return list(factor.kinds)
        if factor.circular:
            return [f"{self.target} {k}/{HUE_BINS}" for k in range(HUE_BINS)]
        return [f"low {self.target}", f"high {self.target}"]

    def fingerprint(self) -> str:
        """Hash of everything that decides the pictures, this file's version of drawing included."""
        world = {**self.config, "drawing": 1}
        return hashlib.sha256(json.dumps(world, sort_keys=True).encode()).hexdigest()[:16]

    def content(self, indices: Iterable[int]) -> Iterator[bytes]:
        """What each picture is made from: equal for equal pictures of worlds of any length."""
        world = {key: value for key, value in self.config.items() if key not in ("n", "target")}
        made = json.dumps({**world, "drawing": 1}, sort_keys=True)
        for index in indices:
            yield f"{made} {index}".encode()

    def factors(self, indices: Iterable[int] | Tensor) -> dict[str, Tensor]:
        """Every factor of the pictures at `indices`, each (N,): int64 kinds or float32 values."""
        index = torch.as_tensor(list(indices) if not isinstance(indices, Tensor) else indices).long().cpu()
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= self.n):
            raise IndexError(f"indices must be in [0, {self.n})")
        uniform = {name: self._uniform(index, number) for number, name in enumerate(FACTORS)}
        if self.correlate:
            tied = self._uniform(index, len(FACTORS)) < self.correlation
            for name in self.correlate[1:]:
                uniform[name] = torch.where(tied, uniform[self.correlate[0]], uniform[name])
        values = {name: FACTORS[name].at(uniform[name]) for name in FACTORS}
        for name, value in self.fixed.items():
            values[name] = torch.full_like(values[name], value)
        return values

    def labels(self, indices: Iterable[int] | Tensor) -> Tensor:
        """The target's class of the pictures at `indices`; (N,) int64."""
        return self.label_of(self.factors(indices))

    def label_of(self, factors: Mapping[str, Tensor]) -> Tensor:
        """The target's class for given factors; (N,) int64."""
        factor, value = FACTORS[self.target], factors[self.target]
        if factor.discrete:
            return value.long()
        if factor.circular:
            return (value * HUE_BINS).long() % HUE_BINS
        return (value >= (factor.low + factor.high) / 2).long()

    def images(self, indices: Iterable[int] | Tensor) -> Tensor:
        """The pictures at `indices`; (N, 3, size, size) in [-1, 1]."""
        return draw(self.factors(indices), self.size)

    def batch(self, indices: Iterable[int] | Tensor) -> dict[str, Any]:
        """Pictures at `indices` at once: image, label, index, and the dict factors."""
        index = torch.as_tensor(list(indices) if not isinstance(indices, Tensor) else indices).long().cpu()
        factors = self.factors(index)
        image, label = draw(factors, self.size), self.label_of(factors)
        return {"image": image, "label": label, "index": index, "factors": factors}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.n:
            raise IndexError(f"index must be in [0, {self.n})")
        batch = self.batch([index])
        factors = {name: value[0] for name, value in batch["factors"].items()}
        return {
            "image": batch["image"][0],
            "label": int(batch["label"][0]),
            "index": index,
            "factors": factors,
        }

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Items at `indices`, drawn together (torch's loaders ask for whole batches)."""
        batch = self.batch(indices)
        return [
            {
                "image": batch["image"][i],
                "label": int(batch["label"][i]),
                "index": index,
                "factors": {name: value[i] for name, value in batch["factors"].items()},
            }
            for i, index in enumerate(indices)
        ]

    def _uniform(self, index: Tensor, stream: int) -> Tensor:
        """Uniform numbers in [0, 1), (N,) float64, of (seed, index, stream) by SplitMix64 (Steele et al. 2014)."""
        with np.errstate(over="ignore"):
            key = _mix(np.array([self.seed & (2**64 - 1)], dtype=np.uint64) + np.uint64(_GOLDEN))
            key = _mix(key + np.uint64(_GOLDEN) * np.uint64(stream + 1))
            state = key + np.uint64(_GOLDEN) * (index.numpy().astype(np.uint64) + np.uint64(1))
            bits = _mix(state) >> np.uint64(11)
        return torch.from_numpy(bits.astype(np.float64) * 2.0**-53)


def _mix(state: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray[Any, Any] = state ^ (state >> np.uint64(31))
    return mixed


def _factor(name: str) -> str:
    if name not in FACTORS:
        raise UserError(f"{name!r} is no factor of Shapes; it has {', '.join(FACTORS)}")
    return name


def _value(name: str, value: float | int | str) -> float | int:
    factor = FACTORS[name]
    if isinstance(value, str):
        if value not in factor.kinds:
            raise UserError(f"{name} has no value {value!r}; it has {', '.join(factor.kinds)}")
        return factor.kinds.index(value)
    low, high = (0, len(factor.kinds) - 1) if factor.discrete else (factor.low, factor.high)
    if not low <= value <= high:
        raise UserError(f"{name} lies between {low} and {high}, not at {value}")
    return int(value) if factor.discrete else float(value)
