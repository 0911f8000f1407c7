"""Textured figures on coloured grounds out of their factors: edges are anti-aliased from signed distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

_CHUNK = 64


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
