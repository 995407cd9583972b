"""What is known of pictures that were decoded once, and the memory of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.remembered import Memory

TURNED, FRAMES, RANGELESS = "turned", "frames", "rangeless"
NOTES = {
    TURNED: "turned as their EXIF orientation says; labels belong to them as they are shown",
    FRAMES: "of several frames or pages, of which the first is read",
    RANGELESS: "of values without a range of their own, such as 0 to 1, for which pixel_range is needed",
    "palette": "with a palette, read as the colours it stands for",
    "CMYK": "in CMYK, read as RGB",
    "transparent": "with transparency, which is dropped: what the file holds behind it shows",
}
"""What there is to know of pictures that are read, for a sentence that begins with their number."""


@dataclass(frozen=True)
class Facts:
    """What is known of a picture once it has been decoded.

    Attributes:
        shape: height and width as shown, turned as its EXIF orientation says.
        bits: of a value, as it is stored: 8 or more.
        low, high: the least and the highest value; None: 8 bits that are well used, or a JPEG, only decoded at an
            eighth of its size.
        notes: keys of `NOTES`: what else there is to say of it.
    """

    shape: tuple[int, int]
    bits: int = 8
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = ()


_COLUMNS = [
    ("height", np.int32),
    ("width", np.int32),
    ("bits", np.int32),
    ("low", np.float64),
    ("high", np.float64),
    ("notes", np.uint8),
]
_Row = tuple[int, int, int, float, float, int]
"""`_COLUMNS`: nan for None, a bit for each of `NOTES`; all 0 of what cannot be used."""


class FactsMemory:
    """`Facts` of pictures, or why they cannot be used, as long as they do not change.

    Args:
        version: of the reader.
        paths: the pictures.
        stamps: theirs, by `data.remembered.stamps_of`.
    """

    def __init__(self, version: str, paths: Sequence[Path], stamps: np.ndarray):
        self._memory = Memory(f"pictures 4 {version}", paths, _COLUMNS, stamps)
        self._reasons = self._checked_reasons()
        self.stamps = stamps

    def _checked_reasons(self) -> dict[str, str]:
        """Place -> why the picture there cannot be used; nothing is known where what was kept makes no sense."""
        rows, fresh = self._memory.rows, self._memory.fresh
        try:
            reasons = json.loads(self._memory.more or b"{}")
        except (ValueError, RecursionError):
            reasons = None
        sizes = np.stack([rows[name] for name in ("height", "width", "bits")], axis=1)
        unused = (sizes == 0).all(axis=1)
        right = (sizes >= 1).all(axis=1) & (np.isnan(rows["low"]) == np.isnan(rows["high"]))
        right &= rows["notes"] < 1 << len(NOTES)
        told = isinstance(reasons, dict) and all(
            isinstance(reasons.get(str(place)), str) for place in np.flatnonzero(fresh & unused)
        )
        if told and (right | unused)[fresh].all():
            return dict(reasons)
        self._memory.forget()
        return {}

    def unknown(self) -> list[int]:
        """The places of the files of which nothing is known yet; there is no file at those that never are."""
        found: list[int] = np.flatnonzero((self.stamps[:, 0] >= 0) & ~self._memory.fresh).tolist()
        return found

    def note(self, place: int, result: Facts | str) -> None:
        self._reasons.pop(str(place), None)
        if isinstance(result, str):
            self._reasons[str(place)] = result
        self._memory.rows[place] = self.stamps[place], *_row(result)
        self._memory.fresh[place] = True

    def store(self) -> None:
        self._memory.keep(json.dumps(self._reasons).encode())

    def answers(self) -> list[Facts | str | None]:
        """What is known of each file; None: it is none."""
        known: dict[tuple[float, ...], Facts] = {}  # most are alike
        found: list[Facts | str | None] = []
        rows = self._memory.rows[[name for name, _ in _COLUMNS]].tolist()
        for place, (row, fresh) in enumerate(zip(rows, self._memory.fresh.tolist(), strict=True)):
            if not fresh:
                found.append(None)
            elif not row[0]:
                found.append(self._reasons[str(place)])
            else:
                key = row if row[3] == row[3] else (*row[:3], row[5])  # a nan equals nothing
                found.append(known.get(key) or known.setdefault(key, _facts(*row)))
        return found


def _facts(height: int, width: int, bits: int, low: float, high: float, notes: int) -> Facts:
    told = tuple(name for place, name in enumerate(NOTES) if notes >> place & 1)
    least, most = (None if np.isnan(value) else value for value in (low, high))
    return Facts((height, width), bits, least, most, told)


def _row(result: Facts | str) -> _Row:
    if isinstance(result, str):
        return 0, 0, 0, np.nan, np.nan, 0
    low, high = (np.nan if value is None else value for value in (result.low, result.high))
    notes = sum(1 << place for place, name in enumerate(NOTES) if name in result.notes)
    return *result.shape, result.bits, low, high, notes
