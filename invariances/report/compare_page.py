"""The page of a comparison: what differs between two networks, and how surely."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from invariances.report.html import page, paragraph, save_page
from invariances.report.marks import data_image, dots, shown, strip
from invariances.report.profile_page import CHARTS, SCRIPT, STYLE, VARIANCE, chart_of

BOTH = ("one", "other")
FACTOR = {
    "factor": (
        "kept",
        "Share that samples keep: 1, as well as can be read at all; 0, as in random pictures.",
    ),
    "probe": (
        "as a probe reads it",
        "What a small network that was trained for it reads off the layer: 1, all; 0, nothing.",
    ),
}
"""What a chart says of a factor: the end of its title, and its sentence."""


@dataclass
class CompareStory:
    """What the page tells.

    Attributes:
        summary: the numbers, as in comparison.json.
        pictures: by layer, 8-bit (K, 2 + n, S, S, 3) of both.
        order: of the pictures, most different first.
    """

    summary: Mapping[str, Any]
    pictures: Mapping[str, tuple[Tensor, Tensor]]
    order: Sequence[int]


def write_compare_page(story: CompareStory, path: Path) -> Path:
    """Writes the page; gives back its path."""
    summary = story.summary
    names = [str(summary[each]["network"]) for each in BOTH]
    if names[0] == names[1]:
        names = distinct(*(str(summary[each]["folder"]) for each in BOTH))
    one, other = (html.escape(each) for each in names)
    opening = (
        f"<p>Both networks looked at the same {summary['pictures_sampled']} pictures, and samples were drawn from the "
        f"same noise. Shown is <b>{other} minus {one}</b>; a bar is the 95 % interval of the difference, and where it "
        "leaves out 0 the difference is sure (orange).</p>"
    )
    if alone := summary["layers_of_one_alone"]:
        opening += f"<p>Only one of them has, so not compared: {html.escape(', '.join(alone))}.</p>"
    sections = {
        "Differences": [difference_charts(summary["layers"], names[1])],
        "Pictures, the most different first": gallery(story, names),
        "All numbers": [number_table(summary["layers"], names)],
    }
    text = page(f"{names[0]} and {names[1]}", sections, STYLE + opening)
    return save_page(text.replace("</body>", SCRIPT + "</body>"), path)


def distinct(one: str, other: str) -> list[str]:
    """The ends of two paths from where they differ on, or both as they are where they do not."""
    parts = [Path(each).parts for each in (one, other)]
    for count in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(each[-count:]) for each in parts]
        if ends[0] != ends[1]:
            return ends
    return [one, other]


def difference_charts(layers: Mapping[str, Mapping[str, Any]], other: str) -> str:
    """One small chart per number that both have; `other` has more where the difference is above 0."""
    order = list(layers)
    names = list(dict.fromkeys(name for each in layers.values() for name in each))
    known = [name for name in CHARTS if name in names]
    kinds = [name for prefix in (VARIANCE, "factor ", "probe ") for name in names if name.startswith(prefix)]
    wanted = list(dict.fromkeys([*known, *kinds]))
    parts = []
    for name in wanted:
        found = [layers[layer].get(name, {}) for layer in order]
        marked = [layer for layer, each in zip(order, found) if each.get("sure")]
        chart = dots(
            order,
            [each.get("difference") for each in found],
            [each.get("difference_interval") for each in found],
            limits=around_zero(found),
            marked=marked,
        )
        kind, _, rest = name.partition(" ")
        title, sentence = _of_factor(kind, rest) if kind in FACTOR else chart_of(name)[:2]
        sentence += f" Above 0: more of it in {other}."
        below = [layer for layer, each in zip(order, found) if min(each.get(k) or 0 for k in BOTH) < 0]
        if name == "information" and below:
            sentence += (
                f" At {', '.join(below)} it lies below 0 in one of the two, so its difference says nothing."
            )
        caption = f"<figcaption>{html.escape(sentence)}</figcaption>"
        parts.append(f"<figure><b>{html.escape(title)}</b>{chart}{caption}</figure>")
    return f'<div class="charts">{"".join(parts)}</div>'


def _of_factor(kind: str, factor: str) -> tuple[str, str]:
    """Title and sentence of what is kept of a factor."""
    words, sentence = FACTOR[kind]
    return f"{factor.replace('_', ' ')} {words}", sentence


def around_zero(found: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Limits of an axis with 0 in the middle, at least a tenth to both sides."""
    ends = [each.get("difference") or 0.0 for each in found]
    ends += [end for each in found for end in each.get("difference_interval") or ()]
    most = max([0.1, *map(abs, ends)])
    return -most, most


def gallery(story: CompareStory, names: Sequence[str]) -> list[str]:
    """One line per picture, which opens to the samples of both networks in every layer."""
    first = next(iter(story.pictures.values()))[0]
    parts = [paragraph("Click a picture: per layer the samples of one network, and of the other below.")]
    for place, k in enumerate(story.order):
        head = data_image(strip(first[k, :2], height=64), "picture and reconstruction")
        rows = []
        for layer, both in story.pictures.items():
            for name, drawn in zip(names, both):
                image = data_image(strip(drawn[k, 2:], height=64), f"samples of {layer} of {name}")
                rows.append(f"<p>{html.escape(layer)}, {html.escape(name)}</p>{image}")
        parts.append(
            f"<details{' open' if place == 0 else ''}><summary>{head}</summary>{''.join(rows)}</details>"
        )
    return parts


def number_table(layers: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """All numbers; a click on a heading sorts."""
    columns = ["layer", "number", *names, "difference", "interval", "sure"]
    head = "".join(f'<th class="sort">{html.escape(each)}</th>' for each in columns)
    body = []
    for layer, numbers in layers.items():
        for name, each in numbers.items():
            cells = [f"<td>{html.escape(layer)}</td><td>{html.escape(name.replace('_', ' '))}</td>"]
            for key in (*BOTH, "difference"):
                data = "" if each[key] is None else f"{each[key]:.6g}"
                hint = each.get(f"{key}_reason") or shown(each[key], each.get(f"{key}_interval"), 4)
                cells.append(
                    f'<td class="number" data-value="{data}" title="{html.escape(hint)}">'
                    f"{shown(each[key], digits=3)}</td>"
                )
            interval = each.get("difference_interval")
            text = "–" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
            width = "" if interval is None else f"{interval[1] - interval[0]:.6g}"
            cells.append(f'<td data-value="{width}">{text}</td><td>{"yes" if each["sure"] else "no"}</td>')
            body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
