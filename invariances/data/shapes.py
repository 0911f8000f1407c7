"""A world whose factors are known: one textured figure on a coloured ground, drawn by ourselves.

Each picture is a function of (seed, index) alone. A counter-based generator turns (seed, index, factor)
into a uniform number; the factor is that number stretched over its range, so factors are independent unless
`correlate` lets some of them share one number. Edges are anti-aliased from signed distances.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

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
_CHUNK = 64


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


def draw(factors: Mapping[str, Tensor], size: int = 64) -> Tensor:
    """Pictures with the given factors; (N, 3, size, size) in [-1, 1].

    Args:
        factors: every factor of FACTORS, (N,) each. Values outside a factor's range are drawn too.
        size: pixels per side.
    """
    n = len(factors["shape"])
    if n == 0:
        return torch.empty(0, 3, size, size)
    parts = [
        _draw({k: v[i : i + _CHUNK].cpu() for k, v in factors.items()}, size) for i in range(0, n, _CHUNK)
    ]
    return torch.cat(parts)


def _draw(factors: dict[str, Tensor], size: int) -> Tensor:
    n = len(factors["shape"])
    radius = factors["size"].float().view(n, 1, 1)
    angle = torch.deg2rad(factors["rotation"].float()).view(n, 1, 1)
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    across = (axis.view(1, 1, size) - factors["x"].float().view(n, 1, 1)) / radius
    down = (axis.view(1, size, 1) - factors["y"].float().view(n, 1, 1)) / radius
    cos, sin = angle.cos(), angle.sin()
    u, v = cos * across + sin * down, cos * down - sin * across  # the figure's own frame, its radius 1
    pixel = 2 / (size * radius)

    distance = _by_kind(_FIGURES, factors["shape"], u, v)
    pattern = _by_kind(_PATTERNS, factors["texture"], u, v)
    figure = (0.5 - distance / pixel).clamp_(0, 1)
    inner = (0.5 - distance / pixel - _RIM * size / 64).clamp_(0, 1)
    dark = inner * (0.5 - pattern / pixel).clamp_(0, 1)
    shadow = (1 - distance.clamp(min=0) / 0.3).clamp_(min=0)
    ground = (1 - figure) * (1 - 0.25 * shadow * shadow)
    weights = (ground, figure - inner, inner - dark, dark)

    foreground, background = factors["foreground_hue"].float(), factors["background_hue"].float()
    colours = (
        oklch(0.80, 0.085, background),
        torch.full((n, 3), 0.97),
        oklch(0.72, 0.145, foreground),
        oklch(0.40, 0.115, foreground),
    )
    picture = torch.full((n, 3, size, size), -1.0)
    for weight, colour in zip(weights, colours):
        picture.addcmul_(weight.unsqueeze(1), 2 * colour.view(n, 3, 1, 1))
    return picture.clamp_(-1, 1)


_RIM = 1.5


def oklch(lightness: float, chroma: float, hue: Tensor) -> Tensor:
    """Colours of OKLCh with hues (N,) in turns as sRGB (N, 3) in [0, 1], clipped to it (Ottosson 2020)."""
    a, b = chroma * torch.cos(2 * math.pi * hue), chroma * torch.sin(2 * math.pi * hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = torch.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        dim=1,
    ).clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055
    )


_Field = Callable[[Tensor, Tensor], Tensor]


def _by_kind(fields: Sequence[_Field], kind: Tensor, u: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(u)
    for number, field in enumerate(fields):
        rows = (kind == number).nonzero().squeeze(1)
        if len(rows):
            out[rows] = field(u[rows], v[rows])
    return out


# Figures: signed distance (negative inside) in the figure's frame, v downwards, all within the unit disc.


def _disc(u: Tensor, v: Tensor, cu: float, cv: float, radius: float) -> Tensor:
    return ((u - cu) ** 2 + (v - cv) ** 2).sqrt() - radius


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs() * (math.sqrt(3) / 2) - v * 0.5, v) - 0.54


def _heart(u: Tensor, v: Tensor) -> Tensor:
    w = u.abs()
    lobe = _disc(w, v, 0.44, -0.30, 0.52)
    wedge = torch.maximum((w + v - 0.875) * math.sqrt(0.5), -0.30 - v)
    return torch.minimum(lobe, torch.maximum(wedge, w - 0.96))


def _drop(u: Tensor, v: Tensor) -> Tensor:
    w, centre, radius = u.abs(), 0.30, 0.68
    rise = centre + 1.0
    sine = radius / rise
    cosine = math.sqrt(1 - sine * sine)
    flank = w * cosine - (v + 1.0) * sine  # the tangent from the tip at (0, -1) ...
    above = w * sine + (v + 1.0) * cosine < rise * cosine  # ... as far as it touches the disc
    return torch.where(above, flank, _disc(u, v, 0.0, centre, radius))


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_disc(u, v, 0.0, 0.0, 0.97), -_disc(u, v, 0.58, 0.0, 0.58))


def _arrow(u: Tensor, v: Tensor) -> Tensor:
    w = u.abs()
    head = torch.maximum((w - v - 0.98) * math.sqrt(0.5), v - 0.06)
    shaft = torch.maximum(w - 0.46, (v - 0.45).abs() - 0.45)
    return torch.minimum(head, shaft)


def _trefoil(u: Tensor, v: Tensor) -> Tensor:
    w = u.abs()
    leaf = torch.minimum(_disc(w, v, 0.43, 0.25, 0.50), _disc(w, v, 0.0, -0.50, 0.50))
    return torch.minimum(leaf, _disc(u, v, 0.0, 0.0, 0.35))


def _hourglass(u: Tensor, v: Tensor) -> Tensor:
    w, h = u.abs(), v.abs()
    return torch.maximum(h - 0.84, (w - 0.26 - 0.56 * h) / math.sqrt(1 + 0.56**2))


def _dome(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(_disc(u, v, 0.0, 0.25, 0.98), v - 0.45)


_FIGURES: tuple[_Field, ...] = (
    _triangle,
    _heart,
    _drop,
    _crescent,
    _arrow,
    _trefoil,
    _hourglass,
    _dome,
)


# Textures: signed distance to the dark parts, two to four periods over the figure.


def _wave(t: Tensor, period: float) -> Tensor:
    """Distance to stripes half a period wide, one of them centred at 0."""
    return ((t / period + 0.5).remainder(1.0) - 0.5).abs() * period - period / 4


def _plain(u: Tensor, v: Tensor) -> Tensor:
    return torch.ones_like(u)


def _stripes(u: Tensor, v: Tensor) -> Tensor:
    return _wave(v, 0.6)


def _checks(u: Tensor, v: Tensor) -> Tensor:
    a, b = _wave(u + 0.2, 0.8), _wave(v + 0.2, 0.8)
    return torch.maximum(torch.minimum(a, b), -torch.maximum(a, b))


def _dots(u: Tensor, v: Tensor) -> Tensor:
    period = 0.66
    a, b = (u / period + 0.5).remainder(1.0) - 0.5, (v / period + 0.5).remainder(1.0) - 0.5
    return (a * a + b * b).sqrt() * period - 0.22


def _rings(u: Tensor, v: Tensor) -> Tensor:
    return _wave((u * u + v * v).sqrt(), 0.62)


def _rays(u: Tensor, v: Tensor) -> Tensor:
    return _wave(torch.atan2(v, u), 2 * math.pi / 5) * (u * u + v * v).sqrt()


def _zigzag(u: Tensor, v: Tensor) -> Tensor:
    period = 1.0
    teeth = ((u / period).remainder(1.0) - 0.5).abs() * period
    return _wave(v + teeth, 0.7) * math.sqrt(0.5)


def _grid(u: Tensor, v: Tensor) -> Tensor:
    a, b = _wave(u + 0.35, 0.7), _wave(v + 0.35, 0.7)
    return torch.minimum(a, b) + 0.08


_PATTERNS: tuple[_Field, ...] = (_plain, _stripes, _checks, _dots, _rings, _rays, _zigzag, _grid)
