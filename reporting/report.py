"""The networks of a run in a table: a row each, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One network in the table; None where something was not measured.

    Attributes:
        name: "baseline", "student", ...
        parameters: learned numbers.
        megabytes: size of the saved weights (10^6 bytes).
        macs: multiply-adds for one picture.
        cpu_ms: milliseconds of CPU time for one picture.
        map50, map50_95: mean average precision on the split the table names.
        epochs: of all the training in this run that stands behind it.
        note: anything worth a footnote in the row.
    """

    name: str
    parameters: int | None = None
    megabytes: float | None = None
    macs: float | None = None
    cpu_ms: float | None = None
    map50: float | None = None
    map50_95: float | None = None
    epochs: int | None = None
    note: str = ""


def scored_on(split: str, pictures: int, size: tuple[int, int]) -> str:
    """A footnote of the table: what its mAP is of; `size` is (H, W)."""
    return f"mAP: on the {pictures} pictures of {split}, at {size[1]}x{size[0]}"


EPOCHS = "epochs: of all training in this run that stands behind a network"

# (heading, value of a row, how it is written)
COLUMNS = (
    ("parameters", "parameters", "{:,.0f}"),
    ("MB", "megabytes", "{:.2f}"),
    ("MACs (G)", "macs", "{:.3f}"),
    ("CPU (ms)", "cpu_ms", "{:.1f}"),
    ("epochs", "epochs", "{:,.0f}"),
    ("mAP50", "map50", "{:.3f}"),
    ("mAP50-95", "map50_95", "{:.3f}"),
)


def cells(row: Row) -> list[str]:
    """What the columns of a row say; "-" where something was not measured."""
    found = []
    for _, name, form in COLUMNS:
        value = getattr(row, name)
        if value is not None and name == "macs":
            value /= 1e9
        found.append("-" if value is None else form.format(value))
    return found


def text_table(rows: Sequence[Row]) -> str:
    """The table for the terminal."""
    lines = [["network", *(heading for heading, _, _ in COLUMNS), ""]]
    lines += [[row.name, *cells(row), row.note] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def text(line: list[str]) -> str:
        name, *numbers, note = line
        right = (cell.rjust(width) for cell, width in zip(numbers, widths[1:]))
        return "  ".join([name.ljust(widths[0]), *right, note]).rstrip()

    return "\n".join([text(lines[0]), "-" * len(text(lines[0])), *map(text, lines[1:])])


def relative(row: Row, base: Row | None) -> list[str]:
    """Beside each number what it is in terms of the baseline's: a share, a factor, a difference."""
    if base is None or row is base:
        return [""] * len(COLUMNS)
    out = []
    for _, name, _ in COLUMNS:
        mine, theirs = getattr(row, name), getattr(base, name)
        if mine is None or theirs is None or (not theirs and not name.startswith("map")) or name == "epochs":
            out.append("")
        elif name.startswith("map"):
            out.append(f"{round(mine, 3) - round(theirs, 3):+.3f}")
        else:
            out.append(f"{mine / theirs:.0%}")
    return out
