"""Lines over numbers, as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
