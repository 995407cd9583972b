"""The label files of many pictures: found folder by folder, read at once, remembered until they change."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.places import PICTURE_SUFFIXES, stem_and_suffix
from data.remembered import SIZE, Memory, asked
from data.spec import find_label, label_places

MOST_LABELS = 64 * 2**20
"""More bytes than this are no labels of one picture."""
ROUNDING = 1e-5
"""Edges this little outside come from six written digits; they are cut without a word."""
SMALLEST = 1e-6
"""A side below this share of the picture is no side."""
_COLUMNS = [("boxes", np.int32), ("digest", np.uint8, (SIZE,))]
_NOT_PLAIN = -1


def find_labels(pictures: Sequence[Path]) -> list[str | None]:
    """`data.spec.find_label` of each picture, with one look into each folder."""
    folders: dict[str, tuple[str, set[str]] | None] = {}
    found: list[str | None] = []
    for picture in pictures:
        folder, _, name = str(picture).rpartition(os.sep)
        if folder not in folders:
            folders[folder] = _labels_of(folder) if folder else None
        place = folders[folder]
        stem, suffix = stem_and_suffix(name)
        if place is not None and suffix in PICTURE_SUFFIXES and f"{stem}.txt" in place[1]:
            found.append(f"{place[0]}{stem}.txt")
        else:
            other = find_label(picture)
            found.append(None if other is None else str(other))
    return found


def _labels_of(folder: str) -> tuple[str, set[str]] | None:
    """The first folder there is for the labels of the pictures in one, and what is in it; None: look one by one."""
    for place in label_places(Path(folder, "any.jpg")):
        try:
            names = set(os.listdir(place.parent))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
        return os.path.join(place.parent, ""), names
    return None


@dataclass(frozen=True)
class LabelFiles:
    """What the label files of many pictures hold.

    Attributes:
        boxes: of each the ``(n, 5)`` float32 class, cx, cy, w, h, where it is plain: every line five numbers that are
            a box in the picture, none twice, whatever the other files hold; else None.
        digests: of each a digest of its words in lines, or why there is none.
    """

    boxes: list[np.ndarray | None]
    digests: list[bytes]


def read_label_files(files: Sequence[str | None], classes: int | None = None) -> LabelFiles:
    """Read the files, or know them from the last time.

    Args:
        files: None: a picture that has none.
        classes: a file with a class number that is not below it is not plain.
    """
    there = [place for place, file in enumerate(files) if file is not None]
    paths = [files[place] or "" for place in there]
    memory = Memory("labels 1", paths, _COLUMNS)
    boxes = _remembered_boxes(memory)
    digests: list[bytes] = [b"absent"] * len(paths)
    kept = memory.rows["digest"].tobytes()
    for place in np.flatnonzero(memory.fresh).tolist():
        digests[place] = kept[SIZE * place : SIZE * (place + 1)]
    todo = np.flatnonzero((memory.stamps[:, 0] >= 0) & ~memory.fresh).tolist()
    for place, (digest, rows) in asked(lambda place: _read(paths[place]), todo):
        digests[place], boxes[place] = digest, rows
        if len(digest) == SIZE:
            memory.rows[place] = memory.stamps[place], _NOT_PLAIN if rows is None else len(rows), list(digest)
            memory.fresh[place] = True
    if todo:
        memory.rows["boxes"][~memory.fresh] = _NOT_PLAIN
        plain = [rows for rows, fresh in zip(boxes, memory.fresh, strict=True) if fresh and rows is not None]
        memory.keep(b"".join(rows.tobytes() for rows in plain))
    every = LabelFiles([None] * len(files), [b"absent"] * len(files))
    for place, rows, digest in zip(there, boxes, digests, strict=True):
        every.boxes[place], every.digests[place] = rows, digest
    if classes is not None:
        filled = [(place, rows[:, 0]) for place, rows in enumerate(every.boxes) if rows is not None and len(rows)]
        owners = np.array([place for place, numbers in filled for _ in numbers], int)
        numbers = np.concatenate([np.zeros(0), *(numbers for _, numbers in filled)])
        for beyond in np.unique(owners[numbers >= classes]).tolist():
            every.boxes[beyond] = None
    return every


def _remembered_boxes(memory: Memory) -> list[np.ndarray | None]:
    """Of each file its boxes, as far as they are known; `memory` forgets what cannot be."""
    rows = np.frombuffer(memory.more[: len(memory.more) // 20 * 20], np.float32).reshape(-1, 5).copy()
    counts = np.maximum(memory.rows["boxes"], 0).astype(np.int64)
    ends = np.cumsum(counts)
    whole = 20 * (int(ends[-1]) if len(ends) else 0) == len(memory.more)
    numbers, shares = rows[:, 0], rows[:, 1:]
    right = (numbers >= 0) & (numbers == np.trunc(numbers)) & np.isfinite(numbers)
    right &= ((shares >= 0) & (shares <= 1)).all(axis=1)
    if not whole or not right.all():
        memory.forget()
        return [None] * len(counts)
    usable = memory.fresh & (memory.rows["boxes"] >= 0)
    starts = (ends - counts).tolist()
    return [
        rows[start:end] if known else None
        for start, end, known in zip(starts, ends.tolist(), usable.tolist(), strict=True)
    ]


def _read(path: str) -> tuple[bytes, np.ndarray | None]:
    try:
        with open(path, "rb", buffering=0) as handle:
            raw = handle.read(MOST_LABELS)
    except OSError:
        return b"unreadable", None
    lines = [words for line in raw.splitlines() if (words := line.split())]
    digest = hashlib.blake2b(b"\n".join(map(b" ".join, lines)), digest_size=SIZE).digest()
    return digest, None if len(raw) == MOST_LABELS else _plain(raw, lines)


def cut_at_the_edge(corners: tuple[float, float, float, float]) -> list[float]:
    """What is in the picture of a box x1, y1, x2, y2: its cx, cy, w, h."""
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in corners)
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


def _plain(raw: bytes, lines: list[list[bytes]]) -> np.ndarray | None:
    """The boxes of a file in which nothing is to be said of any line; None of all others.

    `data.label_lines` reads every file; this is the short way through it, for most.
    """
    if b"_" in raw:  # Python reads 1_0 as 10
        return None
    boxes: dict[tuple[float, ...], None] = {}
    for words in lines:
        if len(words) != 5:
            return None
        try:
            number, cx, cy, w, h = map(float, words)
        except ValueError:
            return None
        corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        low, high = min(corners), max(corners)
        if not (0 <= number < math.inf and number.is_integer() and low >= -ROUNDING and high <= 1 + ROUNDING):
            return None
        if low < 0 or high > 1:
            cx, cy, w, h = cut_at_the_edge(corners)
        if not (w >= SMALLEST and h >= SMALLEST):  # nor is nan
            return None
        boxes[number, round(cx, 6), round(cy, 6), round(w, 6), round(h, 6)] = None
    return np.array(list(boxes), np.float32).reshape(-1, 5) if len(boxes) == len(lines) else None
