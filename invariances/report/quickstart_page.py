"""The page that quickstart writes: pictures first, then what each layer keeps, then the numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from invariances.report.grids import grid
from invariances.report.html import page, paragraph, picture, save_page, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
_PHOTOS = "Photos of animals"
_BLUE, _ORANGE = "#3b6fb6", "#e07b39"


@dataclass
class CueStory:
    """Pictures whose shape and texture disagree, seen by two networks.

    Attributes:
        pictures: (N, 3, S, S).
        reconstructions: the autoencoder's.
        samples: by network and layer, one of each picture.
    """

    pictures: Tensor
    reconstructions: Tensor
    samples: Mapping[str, Tensor]


@dataclass
class PhotoStory:
    """What the layers of a network see in pictures of animals that a flow drew.

    Attributes:
        network: its name.
        pictures: (N, 3, S, S).
        names: of their classes.
        samples: by layer, in order, (N, n, 3, S, S).
    """

    network: str
    pictures: Tensor
    names: Sequence[str]
    samples: Mapping[str, Tensor]


@dataclass
class Story:
    """What the page tells.

    Attributes:
        summary: the numbers, as in summary.json.
        pictures: (N, 3, S, S) inputs to show.
        reconstructions: the autoencoder's.
        samples: by layer, in order, (N, n, 3, S, S).
        cue: of the network that could take either cue, where the page speaks of it.
        photos: of another network, where the page speaks of it.
    """

    summary: dict[str, Any]
    pictures: Tensor
    reconstructions: Tensor
    samples: Mapping[str, Tensor]
    cue: CueStory | None = None
    photos: PhotoStory | None = None


def write_opening(story: PhotoStory, path: Path) -> Path:
    """Write the page as far as it goes before anything is trained; gives back its path."""
    wait = paragraph(
        "Flows for a network of drawn shapes are being trained; load this page again in some minutes."
    )
    sections = {_PHOTOS: _photos(story), "Drawn shapes": [wait]}
    return save_page(page("What a network knows, layer by layer, and what it ignores", sections, ""), path)


def _photos(story: PhotoStory) -> list[str]:
    """Rows of pictures, then samples of each layer."""
    stacked = [story.pictures, *(each for drawn in story.samples.values() for each in drawn.unbind(1))]
    labels = [
        "picture",
        *(layer if n == 0 else "" for layer, drawn in story.samples.items() for n in range(drawn.shape[1])),
    ]
    return [
        paragraph(
            f"Below each picture stand others that a layer of {story.network}, an AlexNet that tells animals, can "
            "hardly tell from it: one flow that ships draws them for all layers. The first layers keep the animal, the "
            "last ones little but colours; how far to trust them: docs/results/photos.md."
        ),
        picture(
            grid(torch.stack(stacked), row_labels=labels, column_labels=list(story.names), scale=2),
            "pictures of animals, and what each layer takes for the same",
        ),
    ]


def write_page(story: Story, path: Path) -> Path:
    """Write the page; gives back its path."""
    summary, layers = story.summary, list(story.samples)
    network = str(summary["network"])
    sections: dict[str, list[str]] = {}
    if story.photos is not None:
        sections[_PHOTOS] = _photos(story.photos)
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
    for layer in layers:
        sections[f"Pictures that {layer} cannot tell apart"] = [
            picture(_samples(story, layer), f"samples of {layer}", _caption(summary, layer))
        ]
    if story.cue is not None:
        sections["Shape or texture? A network that could take either"] = _cue(summary, story.cue)
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
    hero = picture(_hero(story), "pictures and what the layers see in them")
    title = f"What {network} knows, layer by layer, and what it ignores"
    return save_page(page(title, sections, hero + opening), path)


def _scale(pictures: Tensor) -> int:
    return 2 if pictures.shape[-1] <= 64 else 1


def _samples(story: Story, layer: str) -> Any:
    drawn = story.samples[layer]
    rows = torch.cat([story.pictures[:, None], story.reconstructions[:, None], drawn], dim=1)
    names = ["picture", "autoencoder", *["sample"] * drawn.shape[1]]
    return grid(rows, column_labels=names, scale=_scale(story.pictures))


def _hero(story: Story) -> Any:
    """One picture per column, one sample of each layer below it."""
    rows = [story.pictures, *(drawn[:, 0] for drawn in story.samples.values())]
    return grid(torch.stack(rows), row_labels=["picture", *story.samples], scale=_scale(story.pictures))


def _caption(summary: Mapping[str, Any], layer: str) -> str:
    numbers = summary["layers"][layer]
    remaining = numbers["variance_remaining"]
    text = "The variance that is left open was not measured"
    if remaining is not None:
        text = f"{100 * remaining:.0f} % of the latent's variance is left open"
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


def _cue(summary: Mapping[str, Any], story: CueStory) -> list[str]:
    cue = summary["cue"]
    layer = next(iter(cue["layers"]))
    kept, found = cue["layers"][layer]["factors"], cue["layers"][layer]["probe"]
    logits, shares = cue["layers"]["logits"]["probe"], cue["conflict"]
    rows = {"picture": story.pictures, "autoencoder": story.reconstructions, **story.samples}
    elsewhere = summary["layers"][layer]["factors"]["texture"]
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
