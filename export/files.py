"""The files that make up a network on the disk."""

from __future__ import annotations

from pathlib import Path


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
