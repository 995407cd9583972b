"""Which pictures are copies of others, whatever they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def copies(pictures: Iterable[Path], originals: Iterable[Path]) -> dict[Path, Path]:
    """Those of `pictures` that are among `originals`: the same file, or one with the same bytes; with the original."""
    sizes: dict[int, list[Path]] = {}
    for original in originals:
        if original.is_file():
            sizes.setdefault(original.stat().st_size, []).append(original)
    digest = cache(lambda path: hashlib.sha1(path.read_bytes()).digest())
    found: dict[Path, Path] = {}
    for picture in pictures:
        alike = sizes.get(picture.stat().st_size, [])  # only files of equal size are worth reading
        same = next((each for each in alike if each == picture or digest(each) == digest(picture)), None)
        if same is not None:
            found[picture] = same
    return found
