"""Pictures, numbers and downloads as every page shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st
import torch
from PIL import Image
from torch import Tensor

from invariances.app.pngs import held, png
from invariances.data.arrays import to_uint8
from invariances.report.grids import grid

_BLURRED_FROM, _COLUMNS = 100, 8


def plain(text: str) -> str:
    """The text for a place that takes Markdown, where names from outside are no markup."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$:])", r"\\\1", text)


def lead(text: str) -> None:
    """What a demo shows, in at most two sentences."""
    st.html(f"<p class='inv-lead'>{escape(text)}</p>")


def heading(text: str, note: str = "") -> None:
    """The head of a part of the page."""
    st.html(
        f"<div class='inv-head'>{escape(text)}</div>"
        + (f"<p class='inv-note'>{escape(note)}</p>" if note else "")
    )


def address(image: Tensor) -> str:
    """A picture (3, H, W) in [-1, 1] as an address that holds it."""
    return held(_picture(image))


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(to_uint8(image[None])[0].numpy())


def figure(image: Tensor, caption: str = "") -> str:
    """A picture with its label below."""
    smooth = " class='smooth'" if image.shape[-1] >= _BLURRED_FROM else ""
    text = escape(caption)
    below = f"<figcaption>{text}</figcaption>" if caption else ""
    return f"<figure><img{smooth} src='{address(image)}' alt='{text or 'sample'}'>{below}</figure>"


def row(images: Sequence[Tensor] | Tensor, captions: Sequence[str] | None = None, side: int = 124) -> str:
    """Pictures side by side, eight at most, and less than `side` wide where they would not fit."""
    names = captions or [""] * len(images)
    inner = "".join(figure(image, name) for image, name in zip(images, names))
    columns = max(1, min(_COLUMNS, len(images)))
    return f"<div class='inv-row' style='--side:{side}px; --columns:{columns}'>{inner}</div>"


def equation(parts: Sequence[tuple[Tensor, str]], signs: Sequence[str]) -> str:
    """Pictures with signs between them."""
    out = []
    for number, (image, caption) in enumerate(parts):
        out.append(figure(image, caption))
        if number < len(signs):
            out.append(f"<span>{escape(signs[number])}</span>")
    return f"<div class='inv-sum'>{''.join(out)}</div>"


def table(images: Tensor, rows: Sequence[str], columns: Sequence[str], corner: str = "") -> str:
    """A grid (rows, columns, 3, S, S) whose first row and column are headers."""
    head = f"<td><figcaption>{corner}</figcaption></td>" + "".join(
        f"<td class='cell own'>{figure(image, name)}</td>" for image, name in zip(images[0, 1:], columns)
    )
    lines = [f"<tr>{head}</tr>"]
    for at, line in enumerate(images[1:]):
        cells = [f"<td class='cell own'>{figure(line[0], rows[at])}</td>"]
        for k, image in enumerate(line[1:]):
            cells.append(f"<td class='cell{' diagonal' if k == at else ''}'>{figure(image)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class='inv-table'><table>{''.join(lines)}</table></div>"


def meter(name: str, value: float | None, note: str, mark: float | None = None) -> str:
    """A number between 0 and 1 as a bar, with a mark to compare with."""
    if value is None:
        return ""
    share = 100 * min(max(value, 0.0), 1.0)
    at = (
        "" if mark is None else f"<div class='mark' style='left:{100 * min(max(mark, 0.0), 1.0):.1f}%'></div>"
    )
    return (
        f"<div class='inv-meter'><div class='line'><span>{escape(name)}</span><span>{value:.2f}</span></div>"
        f"<div class='track'><div class='fill' style='width:{share:.1f}%'></div>{at}</div>"
        f"<small>{escape(note)}</small></div>"
    )


def meters(parts: Sequence[str]) -> None:
    """Bars side by side."""
    st.html(f"<div class='inv-meters'>{''.join(parts)}</div>")


def bars(values: Mapping[str, tuple[float, float]], names: tuple[str, str]) -> None:
    """Two bars for each name, on one scale."""
    most = max([each for pair in values.values() for each in pair] + [1e-9])
    key = "".join(f"<i class='inv-{kind}'></i>{escape(name)}" for kind, name in zip("ab", names))
    lines = []
    for name, pair in values.items():
        lines.append(f"<div class='name'>{escape(name)}</div>")
        for kind, value in zip("ab", pair):
            fill = f"<div class='fill inv-{kind}' style='width:{100 * value / most:.1f}%'></div>"
            lines.append(f"<div class='track'>{fill}</div><div>{100 * value:.0f} %</div>")
    st.html(f"<div class='inv-key'>{key}</div><div class='inv-bars'>{''.join(lines)}</div>")


def guesses(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """The best classes of several pictures, with their probabilities."""
    out = []
    for name, best in groups.items():
        lines = "".join(
            f"<div class='p' style='background:linear-gradient(90deg, rgba(14,116,144,.28) "
            f"{100 * each['probability']:.1f}%, rgba(128,128,128,.10) 0)'><span>{escape(each['class'])}</span>"
            f"<span>{100 * each['probability']:.1f} %</span></div>"
            for each in best
        )
        out.append(f"<div><h4>{escape(name)}</h4>{lines}</div>")
    st.html(f"<div class='inv-guess'>{''.join(out)}</div>")


def downloads(name: str, made: Tensor | bytes, numbers: Any) -> None:
    """Buttons for the pictures, or the video, and the numbers."""
    if isinstance(made, bytes):
        parts = ("Video", made, f"{name}.mp4", "video/mp4")
    else:
        data = png(grid(made.cpu(), scale=max(1, 128 // made.shape[-1])))
        parts = ("Pictures", data, f"{name}.png", "image/png")
    st.download_button(*parts, icon=":material/download:", on_click="ignore")
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    parts = ("Numbers", text.encode(), f"{name}.json", "application/json")
    st.download_button(*parts, icon=":material/download:", on_click="ignore")


@dataclass(frozen=True)
class Again:
    """How to make a screen without the app.

    Attributes:
        code: As Python.
        command: As a command.
        files: Pictures (3, S, S) that have to be saved first, by the names that the two give them.
    """

    code: str
    command: str
    files: Mapping[str, Tensor]


def footer(name: str, made: Tensor | bytes, numbers: Any, again: Again) -> None:
    """Downloads, and how to make the same screen without the app."""
    with st.container(horizontal=True, key="footer"):
        downloads(name, made, numbers)
        with st.popover("Make this again", icon=":material/code:"):
            st.caption("In Python")
            st.code(again.code, language="python")
            st.caption("In a terminal, beside the picture:" if again.files else "In a terminal")
            for file, image in again.files.items():
                _save(file, image)
            st.code(again.command, language="bash", wrap_lines=True)


def _save(file: str, image: Tensor) -> None:
    data = png(_picture(image))
    st.download_button(
        file, data, file, "image/png", icon=":material/download:", on_click="ignore", key=f"save-{file}"
    )


def signs_of(original: Tensor, changed: Tensor) -> Tensor:
    """A perturbation made visible: grey where nothing changes, stretched to the full range."""
    difference = changed - original
    return (difference / difference.abs().max().clamp_min(1e-9)).clamp(-1, 1)


def stacked(parts: Sequence[Tensor], width: int) -> Tensor:
    """Rows of pictures (k, 3, S, S) filled with white to one width, (rows, width, 3, S, S)."""
    rows = []
    for part in parts:
        blank = torch.ones(width - len(part), *part.shape[1:])
        rows.append(torch.cat([part.cpu(), blank]))
    return torch.stack(rows)
