"""Pictures and numbers for people: grids of images, tables, charts, and HTML pages that stand alone."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .data.images import to_uint8
from .errors import UserError
from .run import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP, _LABEL_HEIGHT, _FONT_SIZE = 3, 20, 13
_WHITE, _INK = (255, 255, 255), (40, 44, 52)


def grid(
    images: Tensor,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Image.Image:
    """One picture of many, with labels beside rows and above columns.

    Args:
        images: (N, 3, H, W), laid out nearly square, or (rows, columns, 3, H, W); in [-1, 1].
        row_labels: One per row.
        column_labels: One per column.
        scale: Whole-numbered enlargement, without smoothing.

    Raises:
        UserError: Another shape, or labels of another number.
    """
    if images.dim() == 4:
        images = _squarish(images)
    if images.dim() != 5 or images.shape[2] != 3 or 0 in images.shape:
        raise UserError(
            f"a grid of images of shape {tuple(images.shape)} cannot be drawn; give (N, 3, H, W) or "
            "(rows, columns, 3, H, W)"
        )
    rows, columns, _, height, width = images.shape
    for name, labels, count in (("row", row_labels, rows), ("column", column_labels, columns)):
        if labels is not None and len(labels) != count:
            raise UserError(f"{len(labels)} {name} labels were given for {count} {name}s; give one for each")
    height, width = height * scale, width * scale
    font = ImageFont.load_default(_FONT_SIZE)
    left = _GAP + (max(int(font.getlength(each)) for each in row_labels or [""]) + 6 if row_labels else 0)
    top = _GAP + (_LABEL_HEIGHT if column_labels else 0)
    size = (left + columns * (width + _GAP), top + rows * (height + _GAP))
    canvas = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(canvas)
    pictures = to_uint8(images.flatten(0, 1)).numpy()
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        tile = Image.fromarray(picture)
        if scale != 1:
            tile = tile.resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(tile, (left + column * (width + _GAP), top + row * (height + _GAP)))
    for row, label in enumerate(row_labels or []):
        place = (_GAP, top + row * (height + _GAP) + height // 2)
        draw.text(place, label, _INK, font, anchor="lm")
    for column, label in enumerate(column_labels or []):
        shown = _fitting(label, font, width)
        place = (left + column * (width + _GAP) + width // 2, _LABEL_HEIGHT // 2 + 1)
        draw.text(place, shown, _INK, font, anchor="mm")
    return canvas


def _squarish(images: Tensor) -> Tensor:
    count = len(images)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    blank = images.new_ones(rows * columns - count, *images.shape[1:])
    return torch.cat([images, blank]).reshape(rows, columns, *images.shape[1:])


def _fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def save_grid(
    images: Tensor,
    path: str | os.PathLike[str],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int = 1,
) -> Path:
    """Writes `grid(...)` to a picture file, its format by the ending; gives back the path.

    Raises:
        UserError: As `grid`, or the ending is no picture's, or the file cannot be written.
    """
    path = Path(path)
    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise UserError(f"{str(path)!r} has no picture's ending; use .png")
    picture = grid(images, row_labels, column_labels, scale)
    with atomic(path) as draft:
        picture.save(draft, format=known[path.suffix.lower()])
    return path


def text_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for terminals and Markdown: `| a | b |`, numbers with three decimals, blanks for None."""
    cells = [[_cell(each) for each in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells)]
    lines = [
        "| " + " | ".join(each.ljust(w) for each, w in zip(row, widths)) + " |" for row in (columns, *cells)
    ]
    lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table, numbers with three decimals and aligned right."""
    head = "".join(f"<th>{html.escape(each)}</th>" for each in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{_aligned(each)}>{html.escape(_cell(each))}</td>" for each in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _aligned(value: object) -> str:
    return ' class="number"' if isinstance(value, (int, float)) else ""


def picture(image: Image.Image | Figure, alt: str, caption: str = "") -> str:
    """An HTML figure with the picture inside of the page: a Pillow picture, or a matplotlib figure as SVG."""
    buffer = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(buffer, format="PNG", optimize=True)
        kind = "image/png"
    else:
        image.savefig(buffer, format="svg", bbox_inches="tight")
        kind = "image/svg+xml"
    data = base64.b64encode(buffer.getvalue()).decode()
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{html.escape(alt)}" src="data:{kind};base64,{data}">{text}</figure>'


def paragraph(text: str) -> str:
    """An HTML paragraph."""
    return f"<p>{html.escape(text)}</p>"


def chart(
    series: Mapping[str, Sequence[float | None]],
    ticks: Sequence[str],
    ylabel: str = "",
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> Figure:
    """A line per name of `series` over `ticks`, such as what each layer keeps of each factor.

    Args:
        series: Values by name, as many as ticks; None leaves a gap.
        ticks: Names along the axis.
        ylabel: What is measured.
        limits: Of the vertical axis, a little room added; None fits the data.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 + 1.0 * max(len(ticks), 4), 3.6))
    axes = figure.subplots()
    for name, values in series.items():
        axes.plot(range(len(ticks)), [np.nan if each is None else each for each in values], "o-", label=name)
    axes.set_xticks(range(len(ticks)), ticks, rotation=30, ha="right")
    axes.set_ylabel(ylabel)
    if limits is not None:
        room = 0.05 * (limits[1] - limits[0])
        axes.set_ylim(limits[0] - room, limits[1] + room)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #282c34; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.9rem } h2 { font-size: 1.3rem; margin-top: 2.4rem }
figure { margin: 1rem 0 } img { max-width: 100%; image-rendering: auto }
figcaption { color: #667; font-size: .9rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem } th, td { padding: .3rem .7rem; text-align: left }
thead th { border-bottom: 2px solid #ccd } tbody tr:nth-child(even) { background: #f6f7f9 }
td.number { text-align: right; font-variant-numeric: tabular-nums } code { background: #f2f3f5; padding: 0 .25rem }
@media (prefers-color-scheme: dark) {
  body { background: #16181d; color: #e3e5e9 } tbody tr:nth-child(even) { background: #1f2229 }
  code { background: #262a32 } img { background: #fff } figcaption { color: #9aa }
}
"""


def page(title: str, sections: Mapping[str, Sequence[str]], introduction: str = "") -> str:
    """An HTML page that needs no other file and no network.

    Args:
        title: Plain text.
        sections: Heading to pieces of HTML, as `table`, `picture` and `paragraph` make them.
        introduction: HTML between title and first section.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", introduction]
    for heading, pieces in sections.items():
        parts.append(f"<section><h2>{html.escape(heading)}</h2>")
        parts += [f'<div class="scroll">{piece}</div>' for piece in pieces]
        parts.append("</section>")
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def save_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Writes a page; gives back the path."""
    path = Path(path)
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path
