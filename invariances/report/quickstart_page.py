"""The page that quickstart writes: pictures first, then what each layer keeps, then the numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invariances.interpreter import Interpreter
from invariances.report.grids import grid
from invariances.report.html import page, paragraph, picture, save_page, table
from invariances.system.seeds import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SAMPLES = 6


_TITLES = {
    "shape": "shape",
    "texture": "texture",
    "foreground_hue": "foreground hue",
    "background_hue": "background hue",
    "x": "place x",
    "y": "place y",
    "size": "size",
    "rotation": "rotation",
}


_BLUE, _ORANGE = "#3b6fb6", "#e07b39"


@dataclass
class Story:
    """What the page tells.

    Attributes:
        summary: the numbers, as in summary.json.
        interpreters: by layer, in order.
        pictures: (N, 3, S, S) inputs to show.
        cue: of the network that could take either cue, where the page speaks of it.
        conflict: pictures whose shape and texture disagree, for it.
    """

    summary: dict[str, Any]
    interpreters: Mapping[str, Interpreter]
    pictures: Tensor
    cue: Interpreter | None = None
    conflict: Tensor | None = None


def write_page(story: Story, path: Path, seed: int) -> Path:
    """Write the page; gives back its path."""
    summary, layers = story.summary, list(story.interpreters)
    network = str(summary["network"])
    sections: dict[str, list[str]] = {}
    if "factors" in summary["layers"][layers[0]]:
        sections["What each layer keeps"] = [
            paragraph(
                "1: samples keep the factor as well as the autoencoder's reconstruction; 0: they vary as random "
                "pictures do. Blue is told by samples of the flow, orange by a probe trained on the layer itself: "
                "two independent ways to ask, which should agree."
            ),
            picture(keeping_chart(summary["layers"]), "share of each factor that each layer keeps"),
            *(f"<p>{sentence}</p>" for sentence in forgotten(summary["layers"])),
        ]
    for layer, interpreter in story.interpreters.items():
        sections[f"Pictures that {layer} cannot tell apart"] = [
            picture(
                _samples(interpreter, story.pictures, seed), f"samples of {layer}", _caption(summary, layer)
            )
        ]
    if story.cue is not None and story.conflict is not None:
        section = _cue(story, story.cue, story.conflict, seed)
        sections["Shape or texture? A network that could take either"] = section
    sections["Numbers"] = [
        table(*_numbers(summary["layers"])),
        paragraph(
            f"Measured on pictures kept out of training; {summary['seconds']:.0f} s from start to end. "
            "All numbers are in summary.json beside this page."
        ),
    ]
    opening = (
        f"<p>Every row below begins with a picture x and its reconstruction. The others are different pictures that "
        f"the layer of <code>{html.escape(network)}</code> takes for x: a conditional invertible network draws them, "
        f"given nothing but the layer's activations. <b>What they share, the layer knows; what varies, it "
        f"ignores.</b></p>"
    )
    hero = picture(_hero(story, seed), "pictures and what the layers see in them")
    title = f"What {network} knows, layer by layer, and what it ignores"
    return save_page(page(title, sections, hero + opening), path)


def _samples(interpreter: Interpreter, pictures: Tensor, seed: int) -> Any:
    drawn = interpreter.sample(pictures, _SAMPLES, generator=seeded("page", seed)).cpu()
    rows = torch.cat([pictures[:, None], interpreter.reconstruct(pictures).cpu()[:, None], drawn], dim=1)
    names = ["picture", "autoencoder", *["sample"] * _SAMPLES]
    return grid(rows, column_labels=names, scale=2 if pictures.shape[-1] <= 64 else 1)


def _hero(story: Story, seed: int) -> Any:
    """One picture per column, one sample of each layer below it."""
    rows = [story.pictures]
    for interpreter in story.interpreters.values():
        rows.append(interpreter.sample(story.pictures, 1, generator=seeded("hero", seed))[:, 0].cpu())
    scale = 2 if story.pictures.shape[-1] <= 64 else 1
    return grid(torch.stack(rows), row_labels=["picture", *story.interpreters], scale=scale)


def _caption(summary: Mapping[str, Any], layer: str) -> str:
    numbers = summary["layers"][layer]
    text = f"{100 * numbers['variance_remaining']:.0f} % of the latent's variance is left open"
    if numbers["top1_agreement"] is not None:
        text += f"; {100 * numbers['top1_agreement']:.0f} % of samples get the picture's own class"
    return text + "."


def keeping_chart(layers: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One small chart per factor: what samples keep (blue) and what a probe finds (orange), layer by layer."""
    from matplotlib.figure import Figure

    names = list(layers)
    factors = list(next(iter(layers.values()))["factors"])
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots(2, (len(factors) + 1) // 2, sharex=True, sharey=True, squeeze=False)
    place = np.arange(len(names))
    for axis, factor in zip(axes.flat, factors):
        sampled = [layers[name]["factors"][factor] for name in names]
        axis.bar(place, np.clip(sampled, 0, 1), 0.62, color=_BLUE, alpha=0.85, label="samples")
        probed = [
            (k, layers[name]["probe"][factor]) for k, name in enumerate(names) if "probe" in layers[name]
        ]
        if probed:
            where, values = zip(*probed)
            axis.plot(where, values, "D", color=_ORANGE, markersize=6, markeredgecolor="white", label="probe")
        axis.set_title(_TITLES.get(factor, factor), fontsize=11)
        axis.set_xticks(place, names, rotation=40, ha="right", fontsize=9)
        axis.set_ylim(-0.05, 1.08)
        axis.grid(axis="y", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(loc="lower left", fontsize=9, framealpha=0.9)
    for axis in axes[:, 0]:
        axis.set_ylabel("kept")
    return figure


def forgotten(layers: Mapping[str, Mapping[str, Any]], half: float = 0.5) -> list[str]:
    """Sentences that say where each factor is lost: the first layer whose samples keep less than `half` of it."""
    names, kept = list(layers), []
    lost: dict[str, list[str]] = {}
    for factor in next(iter(layers.values()))["factors"]:
        below = [name for name in names if layers[name]["factors"][factor] < half]
        if not below or layers[names[-1]]["factors"][factor] >= half:
            kept.append(_TITLES.get(factor, factor))
        else:
            lost.setdefault(below[0], []).append(_TITLES.get(factor, factor))
    sentences = [
        f"<b>{html.escape(name)}</b> is the first to forget {_listed(lost[name])}."
        for name in names
        if name in lost
    ]
    if kept:
        sentences.append(f"<b>Kept to the end:</b> {_listed(kept)}.")
    return sentences


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _cue(story: Story, interpreter: Interpreter, conflict: Tensor, seed: int) -> list[str]:
    cue, layer = story.summary["cue"], interpreter.representation.layer
    kept, found = cue["layers"][layer]["factors"], cue["layers"][layer]["probe"]
    logits, shares = cue["layers"]["logits"]["probe"], cue["conflict"]
    both = {cue["network"]: interpreter, story.summary["network"]: story.interpreters[layer]}
    rows = {"picture": conflict, "autoencoder": interpreter.reconstruct(conflict).cpu()}
    rows |= {
        f"{name}, {layer}": each.sample(conflict, 1, generator=seeded("cue", seed))[:, 0].cpu()
        for name, each in both.items()
    }
    elsewhere = story.summary["layers"][layer]["factors"]["texture"]
    return [
        paragraph(
            f"{cue['network']} was trained where shape and texture always agreed, so that either would do. Samples "
            f"of its {layer} keep {kept['shape']:.2f} of the shape and {kept['texture']:.2f} of the texture (a probe "
            f"finds {found['shape']:.2f} and {found['texture']:.2f}); the shape classifier's, which never needed it, "
            f"keep {elsewhere:.2f} of the texture. In the logits a probe still finds {logits['shape']:.2f} of the "
            f"shape and {logits['texture']:.2f} of the texture. Pictures in which the two disagree confirm it: the "
            f"network follows the shape in {100 * shares['shape']:.0f} %, the texture in "
            f"{100 * shares['texture']:.0f} %, neither in {100 * shares['neither']:.0f} %. It "
            + ("took both, and is torn." if cue["took"] == "both" else f"took the {cue['took']}.")
        ),
        picture(
            grid(torch.stack(list(rows.values())), row_labels=list(rows), scale=2),
            "pictures whose shape and texture name different classes, and samples of them",
        ),
    ]


def _numbers(layers: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    plain = ["nll_bits_per_dim", "faithfulness_cosine", "top1_agreement", "variance_remaining"]
    first = next(iter(layers.values()))
    columns = ["layer", *(name.replace("_", " ") for name in plain)]
    groups = [name for name in ("factors", "probe") if any(name in each for each in layers.values())]
    columns += [f"{_TITLES.get(f, f)} ({g})" for f in first.get("factors", {}) for g in groups]
    rows: list[list[object]] = []
    for name, numbers in layers.items():
        row: list[object] = [name, *(numbers[key] for key in plain)]
        row += [numbers.get(g, {}).get(f) for f in first.get("factors", {}) for g in groups]
        rows.append(row)
    return columns, rows
