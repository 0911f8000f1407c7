"""Small charts as inline SVG with hover texts, and pictures as data: what a page can carry without a library."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INK, BLUE, ORANGE = "#5a6270", "#3b6fb6", "#e07b39"
PALETTE = (BLUE, ORANGE, "#3f9d6d", "#a05cb5", "#b8912f", "#5a6270")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 300, 190, 44, 46, 12


def shown(value: Any, interval: Sequence[float] | None = None, digits: int = 2) -> str:
    """A number for people, with its interval."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if interval is None or None in interval:
        return text
    return f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def dots(
    names: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[Sequence[float] | None],
    limits: tuple[float, float] | None = None,
    marked: Sequence[str] = (),
    rings: Sequence[float | None] = (),
) -> str:
    """One dot per name with its interval as a bar; each tells its numbers under the pointer.

    Args:
        names: Along the axis.
        values: None leaves a gap.
        intervals: [low, high] of each.
        limits: Of the vertical axis, widened where values lie beyond; by default those of the data.
        marked: Names whose dots are orange.
        rings: Further values, one per name, drawn hollow: what a probe says.
    """
    axes = _Axes(names, _limits(values, intervals, limits))
    points, drawn = [], []
    for k, (name, value, interval) in enumerate(zip(names, values, intervals, strict=True)):
        if value is None:
            continue
        x, colour = axes.x(k), ORANGE if name in marked else BLUE
        points.append((x, axes.y(value)))
        drawn.append(axes.dot(x, value, interval, colour, name))
    for k, (name, value) in enumerate(zip(names, rings)):
        if value is not None:
            drawn.append(_ring(axes.x(k), axes.y(value), f"{name}, probe: {shown(value, digits=3)}"))
    return axes.chart([_line(points, BLUE), *drawn])


def curves(
    names: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    intervals: Mapping[str, Sequence[Sequence[float] | None]],
    limits: tuple[float, float] | None = None,
) -> str:
    """One line per key of `values`, along the same names, and what each colour stands for.

    Args:
        names: Along the axis.
        values: By line; None leaves a gap.
        intervals: [low, high] of each.
        limits: Of the vertical axis, widened where values lie beyond; by default those of the data.
    """
    every = [each for line in values.values() for each in line]
    ends = [each for line in intervals.values() for each in line]
    axes = _Axes(names, _limits(every, ends, limits))
    drawn, words = [], []
    for number, (key, line) in enumerate(values.items()):
        colour = PALETTE[number % len(PALETTE)]
        known = [(axes.x(k), axes.y(value)) for k, value in enumerate(line) if value is not None]
        drawn.append(_line(known, colour))
        for k, (value, interval) in enumerate(zip(line, intervals[key], strict=True)):
            if value is not None:
                drawn.append(axes.dot(axes.x(k), value, interval, colour, f"{key}, {names[k]}"))
        words.append(f'<span style="color:{colour}">● {html.escape(key)}</span>')
    return axes.chart(drawn) + f'<div class="legend">{" ".join(words)}</div>'


class _Axes:
    """Where names and values lie, and the frame around them."""

    def __init__(self, names: Sequence[str], limits: tuple[float, float]) -> None:
        self.names, (self.low, self.high) = names, limits
        self.step = (_WIDTH - _LEFT - 10) / max(len(names), 1)

    def x(self, k: int) -> float:
        """Of the k-th name."""
        return _LEFT + self.step * (k + 0.5)

    def y(self, value: float) -> float:
        """Of a value; the ends of intervals that lie beyond the limits lie on them."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - share)

    def dot(self, x: float, value: float, interval: Sequence[float] | None, colour: str, name: str) -> str:
        """A dot with its interval, which tells its numbers under the pointer."""
        bar = "" if interval is None else _bar(x, self.y(interval[0]), self.y(interval[1]), colour)
        hint = html.escape(f"{name}: {shown(value, interval, 3)}")
        dot = f'<circle cx="{x:.1f}" cy="{self.y(value):.1f}" r="4" fill="{colour}"/>'
        return f"<g>{bar}{dot}<title>{hint}</title></g>"

    def chart(self, drawn: Sequence[str]) -> str:
        """The chart: rules and names, and what is drawn over them."""
        parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
        for tick in _ticks(self.low, self.high):
            y = self.y(tick)
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>'
                f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:.3g}</text>'
            )
        at = _HEIGHT - _BOTTOM + 14
        for k, name in enumerate(self.names):
            label = html.escape(name if len(name) <= 14 else "…" + name[-13:])
            turn = f'transform="rotate(-30 {self.x(k):.1f} {at})"'
            parts.append(f'<text x="{self.x(k):.1f}" y="{at}" text-anchor="end" {turn}>{label}</text>')
        return "".join([*parts, *drawn, "</svg>"])


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high, 0 among them where it lies there."""
    from matplotlib.ticker import MaxNLocator

    every = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    room = 1e-9 * (high - low)
    return [0.0 if abs(each) <= room else float(each) for each in every if low - room <= each <= high + room]


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    if len(points) < 2:
        return ""
    ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{ends}" fill="none" stroke="{colour}" opacity=".35"/>'


def _bar(x: float, low: float, high: float, colour: str) -> str:
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="2.5" opacity=".55"/>'


def _ring(x: float, y: float, hint: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="transparent" stroke="{ORANGE}" stroke-width="1.5">'
        f"<title>{html.escape(hint)}</title></circle>"
    )


def _limits(
    values: Sequence[float | None],
    intervals: Sequence[Sequence[float] | None],
    limits: tuple[float, float] | None,
) -> tuple[float, float]:
    known = [each for each in values if each is not None]
    if limits is not None:
        return min([*limits, *known]), max([*limits, *known])
    known += [end for each in intervals if each is not None for end in each]
    if not known:
        return 0.0, 1.0
    low, high = min(0.0, *known), max(0.0, *known)
    return low, high if high > low else low + 1.0


def heat(rows: Sequence[str], columns: Sequence[str], cells: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of numbers between 0 and 1, the higher the bluer; `cells[row]` has `column` and `column_interval`."""
    head = "".join(f"<th>{html.escape(each)}</th>" for each in columns)
    body = []
    for row in rows:
        found = []
        for column in columns:
            value, interval = cells[row].get(column), cells[row].get(f"{column}_interval")
            share = 0.0 if value is None else min(max(float(value), 0.0), 1.0)
            hint = html.escape(shown(value, interval, 3))
            found.append(
                f'<td class="number" title="{hint}" style="background:rgba(59,111,182,{0.75 * share:.2f})">'
                f"{shown(value)}</td>"
            )
        body.append(f"<tr><th>{html.escape(row)}</th>{''.join(found)}</tr>")
    return (
        f'<table class="heat"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


def strip(pictures: Tensor, gap: int = 2, height: int | None = None) -> Image.Image:
    """8-bit pictures (K, S, S, 3) side by side."""
    side = pictures.shape[1]
    width = len(pictures) * (side + gap) - gap
    canvas = np.full((side, width, 3), 255, np.uint8)
    for k, each in enumerate(pictures.numpy()):
        canvas[:, k * (side + gap) : k * (side + gap) + side] = each
    image = Image.fromarray(canvas)
    if height is not None and height != side:
        image = image.resize((round(width * height / side), height), Image.Resampling.BICUBIC)
    return image


def overlaid(picture: Tensor, where: Tensor, peak: float) -> Tensor:
    """A grey 8-bit picture (S, S, 3) with a map (S, S) over it, orange where it is high; `peak` is full orange."""
    grey = picture.float().mean(dim=2, keepdim=True).expand(-1, -1, 3)
    share = (where.float() / max(peak, 1e-9)).clamp(0, 1)[:, :, None]
    orange = torch.tensor([224.0, 123.0, 57.0])
    return (grey * 0.55 * (1 - share) + 90 * (1 - share) + orange * share).clamp(0, 255).to(torch.uint8)


def data_image(image: Image.Image, alt: str, quality: int = 85) -> str:
    """An `img` that holds its picture, as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=quality)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{data}" {size}>'
