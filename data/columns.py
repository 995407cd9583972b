"""What the numbers of a label line are: a box, a box with keypoints, a polygon, or something that must not be guessed.

A line with more than five numbers is a polygon (class, then x y pairs), or a box after which a tool wrote more:
keypoints, a confidence, a track. Five numbers can be corners instead of centre and size. One line cannot tell, many
can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.dialects import shown
from data.problems import ERROR, Problem
from data.templates import (
    ALMOST_ALL,
    BOXES,
    CENTRE,
    CHANCE,
    CLOSE,
    CORNERS,
    OUTSIDE,
    SIDES,
    TOP_LEFT,
    Y_FIRST,
    either,
    fits,
)

T = TypeVar("T")

BOX, POLYGON, KEYPOINTS, UNKNOWN = "box", "polygon", "keypoints", "unknown"
SAMPLE = 1000
"""So many label files, spread over all, are looked at to tell what the columns are."""
MOST, MANY = 0.5, 0.2
FAR = 0.05
"""So far out of the picture, in shares of it, nobody draws a box by hand."""
ROUNDED = 2e-3
"""What rounding does to the difference of four coordinates, and a pixel more."""
FEW = 5
"""Fewer boxes than this show nothing about all."""

FIVE = "keep the first five numbers of each line, class cx cy w h: awk '{print $1,$2,$3,$4,$5}' OLD > NEW"
SAY = (
    "say in the data set's yaml what they are: kpt_shape: [how many keypoints, 2 or 3 numbers each], or kpt_shape: [] "
    "if they are polygons"
)
FORMS = {
    CORNERS: "the corners x1 y1 x2 y2 (or y1 x1 y2 x2)",
    TOP_LEFT: "the top left corner, width and height (or y1 x1 h w)",
    SIDES: "the sides x1 x2 y1 y2 (or y1 y2 x1 x2)",
}
UNSURE = (
    "compare a line with its picture, and write class cx cy w h as shares of the picture. From corners: "
    f"{BOXES[CORNERS]}; from top left and size: {BOXES[TOP_LEFT]}; y may stand before x ({Y_FIRST[CORNERS]})"
)


@dataclass(frozen=True)
class Columns:
    """How the lines with more than five numbers are read.

    Attributes:
        kind: what they are.
        length: how many numbers a line with keypoints has.
        why: of UNKNOWN, what they may be.
        todo: and what to do.
    """

    kind: str
    length: int = 0
    why: str = ""
    todo: str = ""


def columns_of(lines: Sequence[Sequence[float]], keypoints: tuple[int, int] | None = None) -> Columns:
    """What the numbers are in `lines`, each longer than five.

    Args:
        keypoints: how many points with how many numbers the data set's file says there are; (0, n): none.
    """
    if keypoints is not None:
        count, size = keypoints
        return Columns(KEYPOINTS, 5 + count * size) if count else Columns(POLYGON)
    # Keypoints and tracks are equally many in every line, but for a line or two that is broken.
    (length, count), *others = Counter(map(len, lines)).most_common()
    if others and (count < ALMOST_ALL * len(lines) or count < FEW):
        return Columns(POLYGON)
    return _of_one_length(np.array([line for line in lines if len(line) == length], float))


def _of_one_length(table: np.ndarray) -> Columns:
    """What lines ``(n, length)`` of one length are."""
    length = table.shape[1]
    more = table[:, 5:]
    # One line or two may be a triangle that ends at the picture's edge; of more not all do.
    if length == 6 or (length == 7 and len(table) > 2 and (more == np.round(more)).all(axis=0).any()):
        return Columns(UNKNOWN, length, f"a box and {length - 5} more", FIVE)
    if length % 5 == 0 and all(_objects(table[:, place : place + 5]) for place in range(0, length, 5)):
        return Columns(
            UNKNOWN, length, f"{length // 5} objects in one line", "write one object a line: xargs -n 5 < OLD > NEW"
        )
    boxes = _boxes(table)
    inside = next((size for size in (3, 2) if (length - 5) % size == 0 and boxes and _in_box(table, size)), 0)
    flags = boxes and length > 7 and (length - 5) % 3 == 0 and _flags(table[:, 7::3])
    if flags or (length % 2 == 0 and inside == 3):
        return Columns(KEYPOINTS, length)
    if length % 2 == 0:
        return Columns(UNKNOWN, length, "neither a box nor a polygon", f"{FIVE}; or {SAY}")
    if boxes and _unlabelled(table[:, 5:]) > MANY:
        why = "a box with keypoints, some of them at 0 0"
        return Columns(KEYPOINTS, length) if inside else Columns(UNKNOWN, length, why, SAY)
    share, chance = _polygons(table)
    if share >= ALMOST_ALL and (chance < CHANCE or not boxes or _parallelograms(table)):
        return Columns(POLYGON)
    if inside and share < ALMOST_ALL:
        return Columns(KEYPOINTS, length)
    if boxes:  # the points may lie outside their box: nothing but the data set's file tells
        return Columns(UNKNOWN, length, "a box with keypoints or a polygon", SAY)
    if share >= MOST:
        return Columns(POLYGON)
    return Columns(UNKNOWN, length, "neither a polygon nor a box with keypoints in it", FIVE)


def _unlabelled(points: np.ndarray) -> float:
    """The share of lines with a point at 0 0, where tools write those that nobody labelled; few polygons have one."""
    return float((points.reshape(len(points), -1, 2) == 0).all(axis=2).any(axis=1).mean())


def _flags(values: np.ndarray) -> bool:
    """Whether these are visibilities: 0 not labelled, 1 hidden, 2 seen."""
    return bool(np.isin(values, (0, 1, 2)).all())


def _parallelograms(table: np.ndarray) -> bool:
    """Whether the lines are four points each, of which the opposite sides are equal: turned boxes."""
    if table.shape[1] != 9:
        return False
    points = table[:, 1:].reshape(-1, 4, 2)
    gap = np.abs(points[:, 0] - points[:, 1] + points[:, 2] - points[:, 3]).max(axis=1)
    extent = (points.max(axis=1) - points.min(axis=1)).max(axis=1)
    return bool((gap <= 0.05 * extent + ROUNDED).mean() >= ALMOST_ALL)


def _objects(table: np.ndarray) -> bool:
    """Whether these five numbers are a class and a box in all lines."""
    return bool((table[:, 0] == np.round(table[:, 0])).all() and (table[:, 0] >= 0).all()) and _boxes(table)


def _boxes(table: np.ndarray) -> bool:
    """Whether numbers 2 to 5 of almost all lines are a box in the picture."""
    return bool(fits(CENTRE, table[:, 1:5], np.ones((len(table), 2))).mean() >= ALMOST_ALL)


def _in_box(table: np.ndarray, size: int) -> bool:
    """Whether almost all points after the box, `size` numbers each, lie in it."""
    centre, sides = table[:, None, 1:3], table[:, None, 3:5]
    low, high = centre - sides / 2, centre + sides / 2
    points = table[:, 5:].reshape(len(table), -1, size)
    seen = (points[:, :, :2] != 0).any(axis=2)
    if size == 3:
        visible = points[:, :, 2]
        # Some tools write a confidence in the place of a visibility.
        if visible.min() < 0 or visible.max() > 2:
            return False
        seen &= visible > 0
    margin = 0.1 * sides + OUTSIDE
    inside: np.ndarray = np.all((points[:, :, :2] >= low - margin) & (points[:, :, :2] <= high + margin), axis=2)
    return bool(inside[seen].mean() >= ALMOST_ALL) if seen.any() else True


def _polygons(table: np.ndarray) -> tuple[float, float]:
    """The share of lines whose second point lies near the others, and the chance of that, were it width and height."""
    points = table[:, 1:].reshape(len(table), -1, 2)
    others = np.delete(points, 1, axis=1)
    low, high = others.min(axis=1), others.max(axis=1)
    margin = 1.5 * (high - low).max(axis=1, keepdims=True)
    near = ((points[:, 1] >= low - margin) & (points[:, 1] <= high + margin)).all(axis=1)
    area = np.clip(np.minimum(high + margin, 1) - np.maximum(low - margin, 0), 0, 1).prod(axis=1)
    # Where "near" is most of the picture, nothing follows from it, however many lines there are.
    telling = area[area < MOST]
    return float(near.mean()), float(np.exp(np.log(np.maximum(telling, 1e-9)).sum()))


@dataclass(frozen=True)
class Five:
    """A line of five numbers that can be read as it is: where it stands, and its box."""

    file: Path
    line: int
    text: str
    box: tuple[float, ...]


def not_centres(lines: Sequence[Five]) -> list[Problem]:
    """An error where most boxes reach outside the picture, or all make sense as something else only.

    Args:
        lines: of the split, those whose numbers lie in 0..1.
    """
    if len(lines) < 3:
        return []
    boxes = np.array([line.box for line in lines])
    first, second = boxes[:, :2], boxes[:, 2:]
    before, behind = (second / 2 - first).max(axis=1), (first + second / 2 - 1).max(axis=1)
    over = np.maximum(before, behind)
    outside = float((over > OUTSIDE).mean())
    ones = np.ones((len(boxes), 2))
    share = {box: float(fits(box, boxes, ones).mean()) for box in (CORNERS, SIDES, TOP_LEFT)}
    forms = [box for box, fit in share.items() if fit >= max(ALMOST_ALL, max(share.values()) - CLOSE)]
    if outside <= MANY:
        # Corners of small boxes in the middle are centres and sizes in the picture too; but not of all boxes.
        certain = len(boxes) >= 4 * FEW and max(share[CORNERS], share[SIDES]) > 1 - CLOSE
        # Who draws carelessly leaves the picture on all sides; top left corners only at the top and on the left.
        one_sided = (before > OUTSIDE).sum() >= 2 * FEW and not (behind > OUTSIDE).any() and share[TOP_LEFT] > 1 - CLOSE
        if certain and (over > FAR).mean() > CLOSE:
            forms = [box for box in forms if box != TOP_LEFT]
        elif one_sided:
            forms = [TOP_LEFT]
        else:
            return []
    elif outside <= MOST and not (len(boxes) >= FEW and forms):
        return []
    guess = " or ".join(FORMS[box] for box in forms) or "something else than centre and size"
    kind = f"{outside:.0%} of the boxes reach outside the picture: the numbers look like {guess}".replace("%", " %")
    worst = lines[int(over.argmax())]
    todo = UNSURE
    if len(forms) == 1:
        todo = f"write class cx cy w h, each as a share of the picture: {BOXES[forms[0]]}; {either(forms[0])}"
    return [Problem(ERROR, kind, worst.file, worst.line, f"{shown(worst.text)}; {len(boxes)} boxes looked at", todo)]


def spread(paths: Sequence[T], most: int = SAMPLE) -> Iterable[T]:
    """At most `most` of these, evenly spaced."""
    if len(paths) <= most:
        return paths
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, most)]
