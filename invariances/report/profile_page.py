"""The page of a profile: what each layer keeps, for people who never heard of the method."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invariances.report.html import page, paragraph, save_page
from invariances.report.marks import data_image, dots, heat, overlaid, shown, strip

CHARTS: dict[str, tuple[str, str, tuple[float, float] | None]] = {
    "information": (
        "Information, bits",
        "How many bits the layer holds about the picture's code, as far as two flows have learned: no bound; too low "
        "after short training.",
        None,
    ),
    "variance_remaining": (
        "What is left open",
        "Share of the code's variance that remains once the layer's answer is known: 0, it fixes everything; "
        "1, it says nothing.",
        (0.0, 1.0),
    ),
    "variance_in_pixels": (
        "Variation in pixels",
        "How much pictures that the layer takes for the same differ in their pixels: 1, as much as any two pictures.",
        (0.0, 1.0),
    ),
    "faithfulness_cosine": (
        "Faithfulness",
        "Shown to the network again, do samples look like their picture to the layer? 1: as the reconstruction does; "
        "0: as any other picture.",
        (0.0, 1.0),
    ),
    "source_rank": (
        "Rank of the source",
        "Can the layer pick the right picture for a sample among all? 1: always first.",
        (0.0, 1.0),
    ),
    "top1_agreement": (
        "Same class",
        "Share of samples that get the class of their picture.",
        (0.0, 1.0),
    ),
    "prediction_kl": (
        "Change of the prediction, nats",
        "How far the predictions for samples are from those for their picture; 0: the same.",
        None,
    ),
}
"""Numbers that are drawn: title, sentence, limits of the axis."""

FALLS = " It can only fall from layer to layer; a rise means that a flow has not learned enough."
VARIANCE, BESIDE = "variance_in_", ("_interval", "_reason", "_warning")
GROUPS = ("factors", "probe")

STYLE = """
<style>
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 1.2rem }
h1, body > p { overflow-wrap: anywhere }
.charts figure { margin: 0 } .charts figure > b { display: block; margin-bottom: .2rem }
svg.chart { width: 100%; height: auto; font: 10px system-ui, sans-serif } svg text { fill: #778 }
.legend { font-size: .85rem; display: flex; flex-wrap: wrap; gap: .8rem }
svg .rule { stroke: #8893; } circle:hover { stroke: #fff; stroke-width: 2 }
th.sort { cursor: pointer } th.sort:hover { text-decoration: underline }
table.heat td, table.heat th { padding: .3rem .6rem; text-align: center }
details { border-top: 1px solid #8883; padding: .4rem 0 } summary { cursor: pointer; list-style: none; display: flex;
  gap: .8rem; align-items: center } summary::after { content: "▸ its samples"; color: #778; font-size: .85rem }
details[open] summary::after { content: "▾" }
details p { margin: .3rem 0 .1rem; font-size: .85rem; color: #778 }
details img, .maps img { max-width: 100%; height: auto }
.maps { display: flex; flex-wrap: wrap; gap: .8rem } .maps figure { margin: 0 }
@media print { body { max-width: none; margin: 0; font-size: 11pt } h2 { break-after: avoid }
  .scroll { overflow: visible } figure, details, tr { break-inside: avoid } table.heat td { print-color-adjust: exact }
  .charts { grid-template-columns: repeat(3, 1fr) } table.sortable { font-size: 7.5pt }
  table.sortable th, table.sortable td { padding: .15rem .2rem }
  table.sortable.wide thead th { writing-mode: vertical-rl; transform: rotate(180deg) }
  details > *:not(summary) { display: block } th.sort { cursor: auto } }
</style>
"""

SCRIPT = """
<script>
document.querySelectorAll("table.sortable th").forEach((head, column) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], up = head.dataset.up !== "1";
  head.dataset.up = up ? "1" : "0";
  const key = row => { const v = row.cells[column].dataset.value; return v === undefined ? row.cells[column].textContent
    : v === "" ? -Infinity : parseFloat(v); };
  [...body.rows].sort((a, b) => (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : 0) * (up ? 1 : -1))
    .forEach(row => body.append(row));
}));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => each.open = true));
</script>
"""


@dataclass
class ProfileStory:
    """What the page tells.

    Attributes:
        summary: the numbers, as in profile.json.
        pictures: by layer, 8-bit (K, 2 + n, S, S, 3): pictures, reconstructions, samples.
        maps: by layer, where samples vary: (K, S, S) of these pictures, and (S, S) of all.
    """

    summary: Mapping[str, Any]
    pictures: Mapping[str, Tensor]
    maps: Mapping[str, tuple[Tensor, Tensor]]


def write_profile_page(story: ProfileStory, path: Path) -> Path:
    """Writes the page; gives back its path."""
    summary = story.summary
    layers, order = summary["layers"], list(summary["layers"])
    network = str(summary["network"])
    sections: dict[str, list[str]] = {"The layers in numbers": [charts(layers, order, summary["violations"])]}
    if any(layers[layer].keys() & set(GROUPS) for layer in order):
        sections["What is kept of each factor"] = factor_charts(layers, order)
    sections["Where each layer does not look"] = [
        paragraph(
            "Where samples of the same answer differ from one another, the layer has let the picture go: grey, fixed; "
            "orange, free. One scale for all layers."
        ),
        map_row(story, order),
    ]
    if len(order) > 1:
        sections["Where agreement ends"] = [
            paragraph(
                "Samples are drawn for the layer of the row and looked at by the layer of the column: 1, they look "
                "like their picture there; 0, like any other. Layers after the row's should agree as well as it does."
            ),
            heat(order, order, summary["matrix"]),
        ]
    sections["Pictures and what each layer takes for the same"] = gallery(story, order)
    sections["All numbers"] = [number_table(layers, order), footnote(summary)]
    opening = (
        f"<p>For each layer of <code>{html.escape(network)}</code> an invertible network draws pictures that the layer "
        "cannot tell from a given one. <b>What they share, the layer keeps; what varies, it ignores.</b> Bars are 95 % "
        "intervals over pictures; the numbers appear under the pointer.</p>"
    )
    text = page(f"Profile of {network}", sections, STYLE + opening).replace("</body>", SCRIPT + "</body>")
    return save_page(text, path)


def charts(
    layers: Mapping[str, Mapping[str, Any]], order: Sequence[str], violations: Sequence[Mapping[str, Any]]
) -> str:
    """One small chart per number, with a sentence under each, and why those are missing that cannot be had."""
    grown = [str(each["layer"]) for each in violations]
    below = [layer for layer in order if "information_warning" in layers[layer]]
    parts, absent = [], []
    seen = [name for layer in order for name in layers[layer] if name.startswith(VARIANCE)]
    for name in dict.fromkeys([*CHARTS, *(each for each in seen if not each.endswith(BESIDE))]):
        title, sentence, limits = chart_of(name)
        if not any(layers[layer].get(name) is not None for layer in order):
            reasons = dict.fromkeys(layers[layer].get(f"{name}_reason") for layer in order)
            absent += [f"{title}: {each}." for each in reasons if each]
            continue
        marked = [*grown, *below] if name == "information" else []
        if name == "information" and len(order) > 1:
            sentence += FALLS
        if marked and grown:
            sentence += f" Here it seems to rise at {', '.join(grown)}: train longer."
        if marked and below:
            sentence += (
                f" Here it lies below 0 at {', '.join(below)}: of that layer it says nothing, train longer."
            )
        parts.append(_chart(layers, order, name, title, sentence, limits, marked))
    return f'<div class="charts">{"".join(parts)}</div>{"".join(map(paragraph, absent))}'


def chart_of(name: str) -> tuple[str, str, tuple[float, float] | None]:
    """Title, sentence and limits of a number's chart."""
    if name in CHARTS:
        return CHARTS[name]
    to = name.removeprefix(VARIANCE)
    eye = "to the eye (LPIPS)" if to == "lpips" else f"to {to.replace('_', ' ')}"
    return (
        f"Variation {eye}",
        f"As in pixels, but as it looks {eye}: 1, as much as any two pictures.",
        (0.0, 1.0),
    )


def factor_charts(layers: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> list[str]:
    """One small chart per factor: what samples keep, and what a probe reads."""
    told = {group: {layer: layers[layer].get(group, {}) for layer in order} for group in GROUPS}
    factors, probe = told["factors"], told["probe"]
    names = dict.fromkeys(
        each
        for group in (factors, probe)
        for layer in order
        for each in group[layer]
        if not each.endswith(BESIDE)
    )
    parts = []
    for each in names:
        sentence = next((str(factors[layer].get(f"{each}_reason") or "") for layer in order), "")
        rings = [probe[layer].get(each) for layer in order]
        title = each.replace("_", " ")
        parts.append(
            _chart(factors, order, each, title, sentence and f"No dots: {sentence}.", (0.0, 1.0), [], rings)
        )
    words = "Dots: the share that samples keep, 1 as well as can be read at all, 0 as in random pictures."
    if any(probe.values()):
        words += (
            " Rings: what a small network that was trained for it reads off the layer. Where both agree, both are "
            "right; a dot far below its ring is a flow that has not learned enough, a ring far below its dot a probe "
            "that has not."
        )
    return [paragraph(words), f'<div class="charts">{"".join(parts)}</div>']


def _chart(
    numbers: Mapping[str, Mapping[str, Any]],
    order: Sequence[str],
    name: str,
    title: str,
    sentence: str,
    limits: tuple[float, float] | None,
    marked: Sequence[str],
    rings: Sequence[float | None] = (),
) -> str:
    values = [numbers[layer].get(name) for layer in order]
    intervals = [numbers[layer].get(f"{name}_interval") for layer in order]
    chart = dots(order, values, intervals, limits, marked, rings)
    caption = f"<figcaption>{html.escape(sentence)}</figcaption>"
    return f"<figure><b>{html.escape(title)}</b>{chart}{caption}</figure>"


def map_row(story: ProfileStory, order: Sequence[str]) -> str:
    """The mean map of each layer, side by side."""
    peak = max(float(story.maps[layer][1].max()) for layer in order)
    parts = []
    for layer in order:
        where = story.maps[layer][1]
        plain = torch.full((*where.shape, 3), 160, dtype=torch.uint8)
        image = strip(overlaid(plain, where, peak)[None], height=128)
        parts.append(
            f"<figure>{data_image(image, layer)}<figcaption>{html.escape(layer)}</figcaption></figure>"
        )
    return f'<div class="maps">{"".join(parts)}</div>'


def gallery(story: ProfileStory, order: Sequence[str]) -> list[str]:
    """One line per picture, which opens to its samples and map in every layer."""
    first = story.pictures[order[0]]
    peak = max(float(own.max()) if own.numel() else 0.0 for own, _ in story.maps.values())
    parts = [paragraph("Click a picture: per layer where its samples vary, and the samples.")]
    for k in range(len(first)):
        head = data_image(strip(first[k, :2], height=64), "picture and reconstruction")
        rows = []
        for layer in order:
            drawn, (own, _) = story.pictures[layer][k], story.maps[layer]
            map_ = overlaid(drawn[0], own[k], peak)
            row = strip(torch.cat([map_[None], drawn[2:]]), height=64)
            rows.append(f"<p>{html.escape(layer)}</p>{data_image(row, f'map and samples of {layer}')}")
        parts.append(
            f"<details{' open' if k == 0 else ''}><summary>{head}</summary>{''.join(rows)}</details>"
        )
    return parts


def number_table(layers: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> str:
    """All numbers; a click on a heading sorts, on the first one from input to output."""
    names = [
        name
        for name in dict.fromkeys(key for layer in order for key in layers[layer])
        if not name.endswith(BESIDE) and name not in GROUPS
    ]
    head = "".join(
        f'<th class="sort">{html.escape(each.replace("_", " "))}</th>' for each in ["layer", *names]
    )
    body = []
    for place, layer in enumerate(order):
        cells = [f'<td data-value="{place}">{html.escape(layer)}</td>']
        for name in names:
            value, interval = layers[layer].get(name), layers[layer].get(f"{name}_interval")
            hint = layers[layer].get(f"{name}_reason") or shown(value, interval, 4)
            warning = layers[layer].get(f"{name}_warning")
            hint = f"{hint}; {warning}" if warning else hint
            data = "" if value is None else f"{value:.6g}"
            cells.append(
                f'<td class="number" data-value="{data}" title="{html.escape(str(hint))}">{shown(value, digits=3)}</td>'
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="sortable wide"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    )


def footnote(summary: Mapping[str, Any]) -> str:
    """What was measured, and on what."""
    known = summary.get("kept_out_of_training", True)
    kept_out = (
        "kept out of training" if known else "(nobody here knows which ones the shipped flows learned from)"
    )
    return paragraph(
        f"{summary['pictures_sampled']} of {summary['pictures']} pictures {kept_out}, "
        f"{summary['samples_per_picture']} samples of each, seed {summary['seed']}. Each number is defined in "
        "docs/numbers.md; all of them with their intervals are in profile.json beside this page."
    )
