"""Label lines that are a box with something more behind it, or a box whose numbers are of two units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.templates import ALMOST_ALL, CENTRE, fits, guesses, phrase, recipe

Told = tuple[str, str]
"""What lines look like, for a sentence, and what to do about it."""
FEW = 10
"""Fewer lines show little of what a column is."""
VALUES = 3
"""A coordinate has more values than this in many lines."""
BEYOND = 1.1
"""Numbers above this are no shares of a picture, however badly the object is drawn."""
KEEP = "keep the first five numbers of each line: awk '{print $1,$2,$3,$4,$5}' OLD > NEW"
KEEP_NAMED = "keep the name and the four numbers behind it"
MOST = 0.5
_UNITS = {
    (0, 1): ("cx cy as shares of the picture, w h in pixels", "divide w by the picture's width and h by its height"),
    (2, 3): ("cx cy in pixels, w h as shares of the picture", "divide cx by the picture's width and cy by its height"),
    (0, 2): ("cx w as shares of the picture, cy h in pixels", "divide cy and h by the picture's height"),
    (1, 3): ("cx w in pixels, cy h as shares of the picture", "divide cx and w by the picture's width"),
}
"""The numbers of a box that are shares while the others are pixels."""


def of_two_units(boxes: np.ndarray) -> Told | None:
    """Whether two of the four numbers ``(n, 4)`` of all boxes are shares of the picture, and the others are not."""
    # 0 and 1 are pixels too: those of boxes in the corner.
    shares = ((boxes > 0) & (boxes < 1)).mean(axis=0) >= ALMOST_ALL
    others = (boxes > BEYOND).mean(axis=0) >= ALMOST_ALL
    places = tuple(np.flatnonzero(shares).tolist())
    if len(boxes) < 3 or places not in _UNITS or not (shares | others).all():
        return None
    told, todo = _UNITS[places]
    return f"class {told}", f"write class cx cy w h, all as shares: {todo}"


def box_and_more(table: Sequence[Sequence[float]], sizes: np.ndarray, classes: int | None) -> Told | None:
    """Whether the lines are a box and, behind it, numbers that are no points of an outline.

    Args:
        table: the numbers of each line.
        sizes: ``(n, 2)`` width and height of the pictures; nan where they are not known.
        classes: how many there are; None: the class is a name, and not among the numbers.
    """
    start = 0 if classes is None else 1
    if min(map(len, table)) <= start + 4:
        return None
    head = np.array([row[: start + 4] for row in table])
    box = head[:, start:]
    right = fits(CENTRE, box, np.ones((len(box), 2))) & (head[:, 0] == np.round(head[:, 0]) if start else True)
    keep = KEEP if start else KEEP_NAMED
    if right.mean() >= ALMOST_ALL:
        beyond = np.mean([max(row[start + 4 :]) > BEYOND for row in table]) >= MOST
        return (f"class cx cy w h and {_more(table, start)}", keep) if beyond else None
    if len({len(row) for row in table}) > 1 or len(table) < FEW:
        return None
    rest = np.array(table)[:, start + 4 :]
    if not any(len(np.unique(column)) <= VALUES for column in rest.T):
        return None
    if mixed := of_two_units(box):
        return f"{mixed[0]} and {_more(table, start)}", f"{keep}; then {mixed[1]}"
    found = [] if guesses(np.array(table), sizes, classes) else guesses(head, sizes, classes)
    if not found:
        return None
    told, todo = phrase(found, "" if start else "first"), recipe(found, not start)
    return f"{told} and {_more(table, start)}", f"{keep}; then {todo}"


def _more(table: Sequence[Sequence[float]], start: int) -> str:
    counts = {len(row) - start - 4 for row in table}
    return f"{counts.pop()} more" if len(counts) == 1 else "more numbers"
