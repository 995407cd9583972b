"""The files that make up a network on the disk."""

from __future__ import annotations

from pathlib import Path

from export.formats import FORMATS


def parts(path: str | Path) -> list[Path]:
    """All files that make up the network in `path`, itself first: an OpenVINO IR and a Darknet network are two."""
    path = Path(path)
    suffixes = next((each.suffixes for each in FORMATS.values() if path.suffix in each.suffixes), ())
    beside = [path.with_suffix(suffix) for suffix in suffixes if suffix != path.suffix]
    return [path, *(each for each in beside if each.is_file())]


def megabytes(path: str | Path) -> float:
    """Size of a network's files in MB (10^6 bytes)."""
    return sum(each.stat().st_size for each in parts(path)) / 1e6
