"""Tables for the terminal, and names that tell files apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows under a heading; the first `left` columns are text, the others are set to the right."""
    lines = [list(heading), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([text(lines[0]), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(text, lines[1:])])


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """For each path as many of its last parts as it takes to tell it from the others."""
    split = [Path(path).parts for path in paths]
    names = []
    for mine in split:
        others = [each for each in split if each != mine]
        length = 1
        while length < len(mine) and any(each[-length:] == mine[-length:] for each in others):
            length += 1
        names.append("/".join(mine[-length:]).replace("//", "/"))
    return names
