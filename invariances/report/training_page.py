"""The page of a network while it trains: when it learns to keep, and when to forget."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invariances.report.html import page, paragraph, save_page
from invariances.report.marks import curves, shown
from invariances.report.profile_page import BESIDE, CHARTS, GROUPS, SCRIPT, STYLE, VARIANCE, chart_of

Numbers = Mapping[str, Mapping[str, Any]]
"""By checkpoint."""


def write_training_page(result: Mapping[str, Any], path: Path) -> Path:
    """Writes the page; gives back its path."""
    layers: Mapping[str, Numbers] = result["layers"]
    order = result["checkpoints"]
    opening = (
        f"<p>The same measures at {len(order)} checkpoints, from left to right, on the same pictures; one line per "
        "layer. <b>Where information, faithfulness, the rank of the source or a factor rises, the network learns to "
        "keep; where what is left open or varies does, to ignore.</b> Bars are 95 % intervals over pictures; the "
        "numbers appear under the pointer.</p>"
    )
    sections: dict[str, list[str]] = {"While it trains": [_charts(layers, order)]}
    for group, title, words in (
        (
            "factors",
            "What samples keep of each factor",
            "1: as well as can be read at all; 0: as in random pictures.",
        ),
        ("probe", "What a probe reads of each factor", "1: all that varies; 0: nothing. A lower bound."),
    ):
        drawn = _group(layers, order, group)
        if drawn:
            sections[title] = [paragraph(words), drawn]
    sections["All numbers"] = [_table(layers, order)]
    text = page("A network while it trains", sections, STYLE + opening)
    return save_page(text.replace("</body>", SCRIPT + "</body>"), path)


def _charts(layers: Mapping[str, Numbers], order: Sequence[str]) -> str:
    every = dict.fromkeys(name for each in layers.values() for one in each.values() for name in one)
    names = [
        each for each in every if each in CHARTS or (each.startswith(VARIANCE) and not each.endswith(BESIDE))
    ]
    return _figures(layers, order, {each: chart_of(each) for each in names})


def _group(layers: Mapping[str, Numbers], order: Sequence[str], group: str) -> str:
    told = {
        layer: {k: each.get(group, {}) for k, each in numbers.items()} for layer, numbers in layers.items()
    }
    every = dict.fromkeys(name for each in told.values() for one in each.values() for name in one)
    titles = {name: (name.replace("_", " "), "", (0.0, 1.0)) for name in every if not name.endswith(BESIDE)}
    return _figures(told, order, titles) if titles else ""


def _figures(
    layers: Mapping[str, Numbers],
    order: Sequence[str],
    titles: Mapping[str, tuple[str, str, tuple[float, float] | None]],
) -> str:
    parts = []
    for name, (title, sentence, limits) in titles.items():
        values = {layer: [each[k].get(name) for k in order] for layer, each in layers.items()}
        if not any(one is not None for each in values.values() for one in each):
            continue
        intervals = {
            layer: [each[k].get(f"{name}_interval") for k in order] for layer, each in layers.items()
        }
        chart = curves(order, values, intervals, limits)
        parts.append(
            f"<figure><b>{html.escape(title)}</b>{chart}<figcaption>{html.escape(sentence)}</figcaption></figure>"
        )
    return f'<div class="charts">{"".join(parts)}</div>'


def _table(layers: Mapping[str, Numbers], order: Sequence[str]) -> str:
    names = dict.fromkeys(
        name
        for each in layers.values()
        for one in each.values()
        for name in one
        if not name.endswith(BESIDE) and name not in GROUPS
    )
    head = "".join(
        f'<th class="sort">{html.escape(each.replace("_", " "))}</th>'
        for each in ("layer", "checkpoint", *names)
    )
    body = []
    for layer, numbers in layers.items():
        for k in order:
            cells = "".join(_cell(numbers[k].get(name), numbers[k].get(f"{name}_interval")) for name in names)
            body.append(f"<tr><td>{html.escape(layer)}</td><td>{html.escape(k)}</td>{cells}</tr>")
    return (
        f'<table class="sortable wide"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


def _cell(value: Any, interval: Any) -> str:
    data = "" if value is None else f"{value:.6g}"
    hint = html.escape(shown(value, interval, 4))
    return f'<td class="number" data-value="{data}" title="{hint}">{shown(value, digits=3)}</td>'
