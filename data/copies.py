"""Which pictures are copies of others, whatever they are called."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

GLIMPSE = 4096
"""So many bytes at the beginning, in the middle and at the end of files tell most that are of one size apart."""


def groups_of_copies(pictures: Iterable[Path]) -> list[list[Path]]:
    """Those of `pictures` that have the same bytes, together; only files of equal size and looks are read."""
    found: list[list[Path]] = []
    for size, same in _grouped(dict.fromkeys(pictures), _size).items():
        if size is None or len(same) < 2:
            continue
        for likely in _grouped(same, partial(_glimpse, size=size)).values():
            if len(likely) > 1:
                found += [group for group in _grouped(likely, _digest).values() if len(group) > 1]
    return found


def _grouped(paths: Iterable[Path], key: Callable[[Path], T]) -> dict[T, list[Path]]:
    groups: dict[T, list[Path]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


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
                glimpses[size] = _grouped(alike[size], partial(_glimpse, size=size))
            key = size, _glimpse(picture, size)
            if likely := glimpses[size].get(key[1]):
                if key not in contents:
                    contents[key] = {_digest(path): path for path in reversed(likely)}
                if (same := contents[key].get(_digest(picture))) is not None:
                    found[picture] = same
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
