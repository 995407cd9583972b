"""Which pictures are copies of others, whatever they are called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from common.reading import is_file


def copies(pictures: Iterable[Path], originals: Iterable[Path]) -> dict[Path, Path]:
    """Those of `pictures` that are among `originals`: the same file, or one with the same bytes; with the original."""
    pictures = list(pictures)
    wanted = {size for path in pictures if (size := _size(path)) is not None}
    alike: dict[int, list[Path]] = {}
    for original in originals:
        if (size := _size(original)) in wanted:
            alike.setdefault(size, []).append(original)  # only files of equal size are worth reading
    same_file = {path for group in alike.values() for path in group}
    contents: dict[int, dict[bytes, Path]] = {}
    found: dict[Path, Path] = {}
    for picture in pictures:
        size = _size(picture)
        if picture in same_file:
            found[picture] = picture
        elif size in alike:
            if size not in contents:
                contents[size] = {_digest(path): path for path in reversed(alike[size])}
            if (same := contents[size].get(_digest(picture))) is not None:
                found[picture] = same
    return found


def _size(path: Path) -> int | None:
    return os.stat(path).st_size if is_file(path) else None


def _digest(path: Path) -> bytes:
    """Of the content; of a file that cannot be read one of its own, which equals none."""
    try:
        with open(path, "rb") as handle:
            return hashlib.sha1(handle.read()).digest()
    except OSError:
        return bytes(str(path), "utf-8", "surrogatepass")
