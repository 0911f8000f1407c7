"""Tables, pictures and pages that stand alone: strings of HTML, from numbers and images."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from invariances.system.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
