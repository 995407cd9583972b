"""Which pictures are copies of others, whatever they are called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.contents import BLOCK, digests_of
from data.remembered import SIZE, stamps_of

T = TypeVar("T")


def groups_of_copies(pictures: Sequence[Path], stamps: np.ndarray | None = None) -> list[list[Path]]:
    """Those of `pictures` that have the same bytes, together; only files of equal size and looks are read.

    Args:
        stamps: theirs (`data.remembered.stamps_of`), where they are known.
    """
    stamps = stamps_of(pictures) if stamps is None else stamps
    sizes, counts = np.unique(stamps[:, 0], return_counts=True)
    several = np.isin(stamps[:, 0], sizes[(counts > 1) & (sizes >= 0)])
    glimpses = digests_of(pictures, stamps, whole=False, which=several)
    places = [place for place, glimpse in enumerate(glimpses) if len(glimpse) == SIZE]
    found: list[list[Path]] = []
    for alike in _grouped(places, lambda place: glimpses[place]).values():
        likely = list(dict.fromkeys(pictures[place] for place in alike)) if len(alike) > 1 else []
        if len(likely) < 2:
            continue
        small = stamps[alike[0], 0] <= 3 * BLOCK  # a glimpse is all of it
        found += [group for group in ([likely] if small else _grouped(likely, _digest).values()) if len(group) > 1]
    return found


def _grouped(members: Sequence[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for each in members:
        groups.setdefault(key(each), []).append(each)
    return groups


def copies(
    pictures: Sequence[Path], originals: Sequence[Path], stamps: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[Path, Path]:
    """Those of `pictures` that are among `originals`: the same file, or one with the same bytes; with the original.

    Args:
        stamps: of both (`data.remembered.stamps_of`), where they are known.
    """
    ours, others = stamps or (stamps_of(pictures), stamps_of(originals))
    sizes = np.intersect1d(ours[:, 0], others[:, 0])
    sizes = sizes[sizes >= 0]
    # Only files of equal size are worth a glimpse, and only those that seem alike then are worth reading.
    glimpses = digests_of(pictures, ours, whole=False, which=np.isin(ours[:, 0], sizes))
    their_glimpses = digests_of(originals, others, whole=False, which=np.isin(others[:, 0], sizes))
    shared = {glimpse for glimpse in set(glimpses).intersection(their_glimpses) if len(glimpse) == SIZE}
    same_file = set(map(str, pictures)).intersection(map(str, originals))
    likely: dict[bytes, list[Path]] = {}  # the number of bytes is part of a glimpse
    for original, glimpse in zip(originals, their_glimpses, strict=True):
        if glimpse in shared:
            likely.setdefault(glimpse, []).append(original)
    contents: dict[bytes, dict[bytes, Path]] = {}
    found: dict[Path, Path] = {}
    for picture, glimpse, size in zip(pictures, glimpses, ours[:, 0].tolist(), strict=True):
        if str(picture) in same_file and size >= 0:
            found[picture] = picture
        elif glimpse not in shared:
            continue
        elif size <= 3 * BLOCK:
            found[picture] = likely[glimpse][0]
        else:
            if glimpse not in contents:
                contents[glimpse] = {_digest(path): path for path in reversed(likely[glimpse])}
            if (same := contents[glimpse].get(_digest(picture))) is not None:
                found[picture] = same
    return found


def _digest(path: Path) -> bytes:
    """Of the content; of a file that cannot be read one of its own, which equals none."""
    try:
        with open(path, "rb") as handle:
            return hashlib.sha1(handle.read()).digest()
    except OSError:
        return bytes(str(path), "utf-8", "surrogatepass")
