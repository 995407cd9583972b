"""Which pictures are copies of others, whatever they are called."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

GLIMPSE = 4096
"""So many bytes at the beginning, in the middle and at the end of files tell most that are of one size apart."""


def copies(pictures: Iterable[Path], originals: Iterable[Path]) -> dict[Path, Path]:
    """Those of `pictures` that are among `originals`: the same file, or one with the same bytes; with the original."""
    pictures = list(pictures)
    sizes = [_size(path) for path in pictures]
    wanted = {size for size in sizes if size is not None}
    alike: dict[int, list[Path]] = {}
    for original in originals:
        if (size := _size(original)) is not None and size in wanted:
            alike.setdefault(size, []).append(original)  # only files of equal size are worth reading
    same_file = {path for group in alike.values() for path in group}
    glimpses: dict[int, dict[bytes, list[Path]]] = {}
    contents: dict[tuple[int, bytes], dict[bytes, Path]] = {}
    found: dict[Path, Path] = {}
    for picture, size in zip(pictures, sizes, strict=True):
        if picture in same_file:
            found[picture] = picture
        elif size is not None and size in alike:
            if size not in glimpses:
                glimpses[size] = _by_glimpse(alike[size], size)
            key = size, _glimpse(picture, size)
            if likely := glimpses[size].get(key[1]):
                if key not in contents:
                    contents[key] = {_digest(path): path for path in reversed(likely)}
                if (same := contents[key].get(_digest(picture))) is not None:
                    found[picture] = same
    return found


def _by_glimpse(paths: Iterable[Path], size: int) -> dict[bytes, list[Path]]:
    found: dict[bytes, list[Path]] = {}
    for path in paths:
        found.setdefault(_glimpse(path, size), []).append(path)
    return found


def _size(path: Path) -> int | None:
    """Of an ordinary file; None: it is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _glimpse(path: Path, size: int) -> bytes:
    """A digest of some of the bytes of a file; of one that cannot be read one of its own, which equals none."""
    found = hashlib.sha1()
    try:
        with open(path, "rb", buffering=0) as handle:
            for place in sorted({0, max(0, size // 2), max(0, size - GLIMPSE)} if size > GLIMPSE else {0}):
                handle.seek(place)
                found.update(handle.read(GLIMPSE))
    except OSError:
        return bytes(str(path), "utf-8", "surrogatepass")
    return found.digest()


def _digest(path: Path) -> bytes:
    """Of the content; of a file that cannot be read one of its own, which equals none."""
    try:
        with open(path, "rb") as handle:
            return hashlib.sha1(handle.read()).digest()
    except OSError:
        return bytes(str(path), "utf-8", "surrogatepass")
