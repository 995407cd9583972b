"""What the numbers of a label line are: a box, a box with keypoints, a polygon, or something that must not be guessed.

A line with more than five numbers is a polygon (class, then x y pairs), or a box after which a tool wrote more:
keypoints, a confidence, a track. Five numbers can be corners instead of centre and size. One line cannot tell, many
can.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.problems import ERROR, Problem

BOX, POLYGON, KEYPOINTS, UNKNOWN = "box", "polygon", "keypoints", "unknown"
SAMPLE = 1000
"""So many label files, spread over all, are looked at to tell what the columns are."""
ALMOST_ALL, MOST, MANY = 0.9, 0.5, 0.2
OUTSIDE = 0.01
"""A box that reaches so far out of the picture, in shares of it, is not just rounded."""
CHANCE = 1e-3
"""Below this probability what all lines have in common is no accident."""
FEW = 5
"""Fewer boxes than this show nothing about all."""

FIVE = "keep the first five numbers of each line, class cx cy w h: awk '{print $1,$2,$3,$4,$5}' OLD > NEW"
SAY = (
    "say in the data set's yaml what they are: kpt_shape: [how many keypoints, 2 or 3 numbers each], or kpt_shape: [] "
    "if they are polygons"
)
CENTRES = "write class cx cy w h, each as a share of the picture: cx = (x1 + x2) / 2, w = x2 - x1, and so on"


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
    lengths = {len(line) for line in lines}
    if len(lengths) != 1:
        return Columns(POLYGON)  # keypoints and tracks are equally many in every line
    length = lengths.pop()
    table = np.array(lines, float)
    if why := _more_columns(table):
        return Columns(UNKNOWN, length, why, FIVE)
    points = next((size for size in (3, 2) if (length - 5) % size == 0 and _boxes_with_points(table, size)), 0)
    if length % 2 == 0:
        if points == 3:
            return Columns(KEYPOINTS, length)
        return Columns(UNKNOWN, length, "neither a box nor a polygon", f"{FIVE}; or {SAY}")
    share, chance = _polygons(table)
    if points == 3 and np.isin(table[:, 7::3], (0, 1, 2)).all():
        return Columns(KEYPOINTS, length)
    if share >= ALMOST_ALL and (chance < CHANCE or not points):
        return Columns(POLYGON)
    if points and share < ALMOST_ALL:
        return Columns(KEYPOINTS, length)
    if points:
        return Columns(UNKNOWN, length, "a box with keypoints or a polygon", SAY)
    if share >= MOST:
        return Columns(POLYGON)
    return Columns(UNKNOWN, length, "neither a polygon nor a box with keypoints in it", FIVE)


def _more_columns(table: np.ndarray) -> str:
    """What a box with one or two numbers after it is called; "" where it is something else."""
    more = table[:, 5:]
    whole = (more == np.round(more)).all(axis=0)
    if more.shape[1] == 1:
        guess = "a track or a visibility" if whole[0] else "a confidence or an angle"
        return f"a box and {guess}"
    # One line or two may be a triangle that ends at the picture's edge; of more not all do.
    if more.shape[1] == 2 and len(table) > 2 and whole.any():
        return "a box with a confidence and a track"
    return ""


def _boxes_with_points(table: np.ndarray, size: int) -> bool:
    """Whether numbers 2 to 5 are a box in the picture and the points after it, `size` numbers each, lie in it."""
    centre, sides = table[:, None, 1:3], table[:, None, 3:5]
    low, high = centre - sides / 2, centre + sides / 2
    points = table[:, 5:].reshape(len(table), -1, size)
    seen = (points[:, :, :2] != 0).any(axis=2)
    if size == 3:
        visible = points[:, :, 2]
        # 0: not labelled, 1: hidden, 2: seen; some tools write a confidence instead.
        if visible.min() < 0 or visible.max() > 2:
            return False
        seen &= visible > 0
    margin = 0.1 * sides + OUTSIDE
    inside: np.ndarray = np.all((points[:, :, :2] >= low - margin) & (points[:, :, :2] <= high + margin), axis=2)
    boxes: np.ndarray = np.all((low >= -OUTSIDE) & (high <= 1 + OUTSIDE) & (sides > 0), axis=(1, 2))
    if not boxes.mean() >= ALMOST_ALL:
        return False
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


def not_centres(boxes: np.ndarray, file: Path) -> list[Problem]:
    """An error where most boxes ``(n, 4)`` reach outside the picture, or all make sense as corners only.

    Args:
        boxes: the four numbers after the class, as they stand there.
        file: one of the files they come from.
    """
    if len(boxes) < 3:
        return []
    first, second = boxes[:, :2], boxes[:, 2:]
    over = np.maximum(second / 2 - first, first + second / 2 - 1).max(axis=1)
    outside = float((over > OUTSIDE).mean())
    corners = bool((second > first).all())
    top_left = bool((first + second <= 1 + OUTSIDE).all())
    if outside <= MANY or (outside <= MOST and not (len(boxes) >= FEW and (corners or top_left))):
        return []
    guess = "the top left corner, width and height" if top_left else "something else than centre and size"
    guess = "the corners x1 y1 x2 y2" if corners else guess
    kind = f"{outside:.0%} of the boxes reach outside the picture: the numbers look like {guess}".replace("%", " %")
    return [Problem(ERROR, kind, file, None, f"{len(boxes)} boxes looked at", CENTRES)]


def spread(paths: Sequence[Path], most: int = SAMPLE) -> Iterable[Path]:
    """At most `most` of these, evenly spaced."""
    if len(paths) <= most:
        return paths
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, most)]
