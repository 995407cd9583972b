"""An ablation as people see it: its page, and the figure of what each row differs by from plain fine-tuning."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.plots import BLUE, GREY, new_figure, save_figure
from reporting.html import embedded, rendered, write_page

NAME_WIDTH = 30  # characters of a row's name beside the figure


@dataclass(frozen=True)
class Difference:
    """A row of the figure, in mAP50-95.

    Attributes:
        values: the row minus plain fine-tuning, seed by seed.
        alone: (low, high), the interval of this row looked at by itself; infinite where seeds show nothing.
        jointly: the interval at which those of all rows hold at once.
        shown: whether it is no chance.
    """

    name: str
    values: Sequence[float]
    alone: tuple[float, float]
    jointly: tuple[float, float]
    shown: bool


def plot_differences(rows: Sequence[Difference], split: str, path: Path) -> Path | None:
    """A line a row, in `path`: every seed, the mean, its interval alone (thick) and jointly (thin); None: no row."""
    if not rows:
        return None
    names = [figure_name(row.name) for row in reversed(rows)]
    room = max(0.42, 0.15 * max(2 + name.count("\n") for name in names))  # inches a row
    figure, (axes,) = new_figure(width=7.2, height=1.2 + room * len(rows))
    for place, row in enumerate(reversed(rows)):
        colour = BLUE if row.shown else GREY
        if math.isfinite(row.jointly[0]):
            axes.plot(row.jointly, (place, place), color=colour, linewidth=1)
            axes.plot(row.alone, (place, place), color=colour, linewidth=4, alpha=0.7)
        axes.plot(row.values, [place] * len(row.values), "|", color="black", markersize=7)
        mean = sum(row.values) / len(row.values)
        axes.plot(mean, place, "o", color=BLUE if row.shown else "black", markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), names, fontsize=8 if room > 0.42 else None)
    axes.set(xlabel=f"mAP50-95 on {split}, difference to none with the same seed")
    title = "thick: 95 % of one mode alone; thin: of all at once; blue: shown after Holm's correction"
    axes.set_title(title, fontsize=8)
    return save_figure(figure, path)


def figure_name(name: str) -> str:
    """A row's name in a few short lines: the modes, then each option, of a path its end."""
    modes, *options = name.split(" ")
    lines = textwrap.wrap(modes.replace(",", ", "), NAME_WIDTH)
    for option in options:
        key, mark, value = option.partition("=")
        room = max(8, NAME_WIDTH - len(key) - 1)
        lines.append(f"{key}{mark}{value if len(value) <= room else '..' + value[2 - room :]}")
    return "\n".join(lines)


def write_ablation(
    path: Path,
    name: str,
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]],
    notes: Sequence[str],
    figure: Path | None,
    settings: Mapping[str, Any],
) -> Path:
    """Write the page: `tables` as (headings, rows), how to read them, the figure, what was asked for."""
    page = rendered(
        "ablation.html.j2",
        name=name,
        tables=tables,
        notes=notes,
        figure=embedded(figure) if figure is not None else "",
        settings=settings,
    )
    return write_page(path, page)
