"""The classes behind an ablation's table.

mAP is the mean over classes, whether a class has 15 objects to be found or 300, so that a rare one can hide what a mode
does for all others, or make it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.statistics import mean_sd, paired

AP = "AP50-95/"
SHOWN = 8  # classes that a terminal has room for
FEW = 30  # objects: each is worth more than .03 of recall

Cells = Mapping[tuple[str, int], Mapping[str, Any]]


@dataclass(frozen=True)
class ClassRow:
    """What one mode does for one class.

    Attributes:
        mode, name: of the row and of the class.
        objects: of the class in the split that is shown.
        runs: pairs with `none` of the same seed; for `none` itself, its runs.
        mean: of the differences of AP50-95 to `none`; of `none` itself, of its AP50-95.
        low, high: the 95 % t interval of the mean difference, infinite for one pair or equal ones; None for `none`.
    """

    mode: str
    name: str
    objects: int
    runs: int
    mean: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The mean, and half its interval where there is one."""
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:+.3f}" + (f" +-{self.high - self.mean:.3f}" if math.isfinite(self.high) else "")


def class_rows(
    cells: Cells, modes: Sequence[str], seeds: Sequence[int], none: str, split: str, objects: Mapping[str, int]
) -> list[ClassRow]:
    """A row for each mode and class that has objects, `none` first; none at all for a data set of a single class.

    Args:
        cells: (mode, seed) -> the content of its `cell.json`.
        modes, seeds: the grid.
        none: the mode that others are compared with.
        split: whose scores count.
        objects: class -> how many the split holds.
    """
    known = {name: count for name, count in objects.items() if count}
    if len(known) < 2:
        return []

    def score(mode: str, seed: int, name: str) -> float | None:
        return cells[mode, seed]["scores"][split].get(AP + name) if (mode, seed) in cells else None

    rows = []
    for mode in sorted(modes, key=lambda mode: mode != none):
        for name, count in known.items():
            mine = {seed: value for seed in seeds if (value := score(mode, seed, name)) is not None}
            if mode == none:
                if mine:
                    rows.append(ClassRow(mode, name, count, len(mine), mean_sd(list(mine.values()))[0], None, None))
                continue
            pairs = [value - theirs for seed, value in mine.items() if (theirs := score(none, seed, name)) is not None]
            if pairs:
                test = paired(pairs)
                rows.append(ClassRow(mode, name, count, test.n, test.mean, test.low, test.high))
    return rows


def class_table(rows: Sequence[ClassRow], split: str) -> tuple[list[str], list[list[str]]]:
    """Headings and lines, a column a class: the ones with most objects."""
    objects = {row.name: row.objects for row in rows}
    names = sorted(objects, key=lambda name: -objects[name])[:SHOWN]
    cells = {(row.mode, row.name): row.text for row in rows}
    modes = list(dict.fromkeys(row.mode for row in rows))
    lines = [[mode, *(cells.get((mode, name), "-") for name in names)] for mode in modes]
    return ["by class", *names], [[f"objects in {split}", *(str(objects[name]) for name in names)], *lines]


def class_notes(rows: Sequence[ClassRow]) -> list[str]:
    """How the table of classes is to be read."""
    objects = {row.name: row.objects for row in rows}
    if not objects:
        return []
    notes = [
        "by class: AP50-95 of none, then each mode's difference to it with half its 95 % t interval, one class of one "
        "mode looked at alone. mAP is the mean over classes."
    ]
    if len(objects) > SHOWN:
        notes[0] += f" The {SHOWN} classes with most objects; all {len(objects)} are in classes.csv."
    rare = sorted((count, name) for name, count in objects.items() if count < FEW)
    if rare:
        more = f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else ""
        most = max(objects, key=lambda name: objects[name])
        named = ", ".join(f"{name} ({count})" for count, name in rare[:SHOWN])
        notes.append(
            f"Few objects: {named}{more}. Such a class moves mAP as much as {most} ({objects[most]}), and hangs on few "
            "pictures, which the seeds do not vary."
        )
    return notes
