"""Small things all that writes or lists files needs: columns, sizes on the disk, names that tell files apart."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError


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


def need_folder(folder: str | Path, option: str) -> None:
    """Make a folder that the user chose by `option`, before long work is done for it.

    Raises:
        UserError: it cannot be made, or nothing can be written into it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{option}: nothing can be written into {folder}: {error.strerror}", todo=f"give another {option}"
        ) from error


def parts(path: str | Path) -> list[Path]:
    """All files that make up the network in `path`: an OpenVINO IR and a Darknet network are two."""
    path = Path(path)
    other = {".xml": ".bin", ".cfg": ".weights"}.get(path.suffix)
    beside = [path.with_suffix(other)] if other else []
    if path.suffix == ".weights":
        beside = [path.with_suffix(".cfg")]
    return [path, *(each for each in beside if each.is_file())]


def megabytes(path: str | Path) -> float:
    """Size of a network's files in MB (10^6 bytes)."""
    return sum(each.stat().st_size for each in parts(path)) / 1e6


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
