"""What the numbers of a label line are: a box, a box with keypoints, a polygon, or something that must not be guessed.

A line with more than five numbers is a polygon (class, then x y pairs), or a box after which a tool wrote more:
keypoints, a confidence, a track. Five numbers can be corners instead of centre and size (`data.centres`). One line
cannot tell, many can.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from data.templates import ALMOST_ALL, CENTRE, CHANCE, FEW, MANY, MOST, OUTSIDE, fits

T = TypeVar("T")

BOX, POLYGON, KEYPOINTS, UNKNOWN = "box", "polygon", "keypoints", "unknown"
SAMPLE = 1000
"""So many label files, spread over all, are looked at to tell what the columns are."""
ROUNDED = 2e-3
"""What rounding does to the difference of four coordinates, and a pixel more."""

WIDEST = 2.0
"""No point of an object is farther from the picture's corner than this, in shares of the picture."""
MANY_LINES = 40
"""Of so many polygons some lie where no box of their first numbers would."""
SURE = math.log(1000)
"""So much likelier is what is taken for granted: the logarithm of the ratio."""
MISTAKEN, BY_CHANCE = 0.03, 0.5
"""The share of keypoints that are not as they should be, and of polygons that look like a box with points in it."""
FIVE = "keep the first five numbers of each line, class cx cy w h: awk '{print $1,$2,$3,$4,$5}' OLD > NEW"
SAY = (
    "say in the data set's yaml what they are: kpt_shape: [how many keypoints, 2 or 3 numbers each], or kpt_shape: [] "
    "if they are polygons"
)
SAY_OR_CUT = f"if they are polygons, say so in the data set's yaml: kpt_shape: []; if not, {FIVE}"
EITHER, BOTH = "a box with keypoints or a polygon", "boxes with keypoints and polygons, both of so many numbers"


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


POLYGONS = Columns(POLYGON)


@dataclass(frozen=True)
class Lengths:
    """How lines with more than five numbers are read, by how many they have.

    Attributes:
        known: length -> what such lines are.
        other: what lines of other lengths are.
    """

    known: Mapping[int, Columns] = field(default_factory=dict)
    other: Columns = POLYGONS

    def of(self, length: int) -> Columns:
        return self.known.get(length, self.other)


def columns_of(lines: Sequence[Sequence[float]], keypoints: tuple[int, int] | None = None) -> Lengths:
    """What the numbers are in `lines`, each longer than five.

    Lines of one length are looked at by themselves: a tool that writes 5 keypoints for one class and 21 for another, or
    keypoints for one and polygons for another, writes them into one file.

    Args:
        keypoints: how many points with how many numbers the data set's file says there are; (0, n): none.
    """
    if keypoints is not None:
        count, size = keypoints
        return Lengths(other=Columns(KEYPOINTS, 5 + count * size) if count else POLYGONS)
    groups: dict[int, list[Sequence[float]]] = {}
    for line in lines:
        groups.setdefault(len(line), []).append(line)
    tables = {length: np.array(group, float) for length, group in groups.items()}
    usual = max(tables, key=lambda length: len(tables[length]))
    known: dict[int, Columns] = {}
    if len(tables) == 1 or len(tables[usual]) >= max(FEW, ALMOST_ALL * len(lines)):
        known[usual] = _of_one_length(tables.pop(usual))
        if known[usual].kind == KEYPOINTS:  # equally many in every line, but for a line or two that is broken
            tables = {length: table for length, table in tables.items() if len(table) >= FEW}
    known |= _of_several_lengths(tables, {columns.kind for columns in known.values()})
    points = [length for length, columns in known.items() if columns.kind == KEYPOINTS]
    if not points or any(columns.kind == POLYGON for columns in known.values()):
        return Lengths(known)
    return Lengths(known, known[max(points, key=lambda length: len(groups[length]))])


def _of_several_lengths(tables: Mapping[int, np.ndarray], kinds: set[str]) -> dict[int, Columns]:
    """What the lines of each length are; not of those that are told by no more than that all others are keypoints.

    Args:
        kinds: of the lengths that are known already.
    """
    found: dict[int, Columns] = {}
    scores: dict[int, float] = {}
    for length, table in tables.items():
        certain = _certain(table) if len(table) > 1 else None
        if certain and (certain.kind == KEYPOINTS or len(table) >= FEW):
            found[length] = certain
        elif length % 2:
            scores[length] = float(_keypoints_rather(table).sum())
    for length in [length for length, score in scores.items() if abs(score) > SURE]:
        found[length] = POLYGONS
        if scores.pop(length) > SURE:
            near = ~_holds_points(tables[length]) & _second_near(tables[length])[0]
            both = near.sum() > max(2, (1 - ALMOST_ALL) * len(near))
            found[length] = Columns(UNKNOWN, length, BOTH, SAY_OR_CUT) if both else Columns(KEYPOINTS, length)
    polygons = {length: tables[length] for length, columns in found.items() if columns.kind == POLYGON}
    for length, table in polygons.items():
        if why := _not_only_polygons([table], MANY_LINES) or _not_only_polygons(list(polygons.values()), FEW):
            found[length] = Columns(UNKNOWN, length, why, SAY_OR_CUT)
    # What a few lines of a length leave open, all such lines together may tell, or the others.
    total = sum(scores.values())
    kinds = kinds | {columns.kind for columns in found.values()}
    for length in scores:
        if total > SURE:
            found[length] = Columns(KEYPOINTS, length)
        elif total < -SURE or (KEYPOINTS not in kinds and (POLYGON in kinds or total <= 0)):
            found[length] = POLYGONS
        elif KEYPOINTS not in kinds or POLYGON in kinds:
            found[length] = Columns(UNKNOWN, length, EITHER, SAY_OR_CUT)
    return found


def _keypoints_rather(table: np.ndarray) -> np.ndarray:
    """``(n,)`` of each line how much likelier it is a box with keypoints than a polygon: the logarithm of the ratio."""
    holds = _holds_points(table)
    near, area = _second_near(table)
    area = np.clip(area, MISTAKEN, 1 - MISTAKEN)
    first = np.log(np.where(holds, 1 - MISTAKEN, MISTAKEN) / BY_CHANCE)
    second = np.where(near, np.log(area / (1 - MISTAKEN)), np.log((1 - area) / MISTAKEN))
    return np.asarray(first + second)


def _not_only_polygons(tables: Sequence[np.ndarray], least: int) -> str:
    """Why lines that seem to be polygons may be something else as well; "" where they are polygons, or too few to say.

    Args:
        least: so many lines have to be there.
    """
    lines = sum(map(len, tables))
    rather = np.concatenate([_holds_points(table) & ~_second_near(table)[0] for table in tables])
    if rather.sum() > max(2, (1 - ALMOST_ALL) * lines):
        return BOTH
    boxes = np.concatenate([fits(CENTRE, table[:, 1:5], np.ones((len(table), 2))) for table in tables])
    if lines < least or boxes.mean() < ALMOST_ALL or all(map(_parallelograms, tables)):
        return ""
    near, area = map(np.concatenate, zip(*map(_second_near, tables), strict=True))
    return EITHER if near.mean() < ALMOST_ALL or _chance(area) >= CHANCE else ""


def _certain(table: np.ndarray) -> Columns | None:
    """What lines of one length are where that does not hang on whether their numbers are points; None: it does."""
    length = table.shape[1]
    more = table[:, 5:]
    # One line or two may be a triangle that ends at the picture's edge; of more not all do.
    if length == 6 or (length == 7 and len(table) > 2 and (more == np.round(more)).all(axis=0).any()):
        return Columns(UNKNOWN, length, f"a box and {length - 5} more", FIVE)
    if length % 5 == 0 and all(_objects(table[:, place : place + 5]) for place in range(0, length, 5)):
        return Columns(
            UNKNOWN, length, f"{length // 5} objects in one line", "write one object a line: xargs -n 5 < OLD > NEW"
        )
    flags = length > 7 and (length - 5) % 3 == 0 and _boxes(table) and _flags(table[:, 5:].reshape(len(table), -1, 3))
    if flags or (length % 2 == 0 and _inside(table) == 3):
        return Columns(KEYPOINTS, length)
    return Columns(UNKNOWN, length, "neither a box nor a polygon", f"{FIVE}; or {SAY}") if length % 2 == 0 else None


def _of_one_length(table: np.ndarray) -> Columns:
    """What lines ``(n, length)`` are where all are of this length."""
    if certain := _certain(table):
        return certain
    length, boxes, inside = table.shape[1], _boxes(table), _inside(table)
    if boxes and _unlabelled(table[:, 5:]) > MANY:
        why = "a box with keypoints, some of them at 0 0"
        return Columns(KEYPOINTS, length) if inside else Columns(UNKNOWN, length, why, SAY)
    near, area = _second_near(table)
    share, chance = float(near.mean()), _chance(area)
    if share >= ALMOST_ALL and (chance < CHANCE or not boxes or _parallelograms(table)):
        return POLYGONS
    if inside and share < ALMOST_ALL:
        return Columns(KEYPOINTS, length)
    if boxes:  # the points may lie outside their box: nothing but the data set's file tells
        return Columns(UNKNOWN, length, EITHER, SAY)
    if share >= MOST:
        why = _not_only_polygons([table], FEW)
        return Columns(UNKNOWN, length, why, SAY_OR_CUT) if why else POLYGONS
    return Columns(UNKNOWN, length, "neither a polygon nor a box with keypoints in it", FIVE)


def _unlabelled(points: np.ndarray) -> float:
    """The share of lines with a point at 0 0, where tools write those that nobody labelled; few polygons have one."""
    return float((points.reshape(len(points), -1, 2) == 0).all(axis=2).any(axis=1).mean())


def _flags(points: np.ndarray) -> bool:
    """Whether these, ``(n, k, 3)``, are points and visibilities: 0 not labelled, 1 hidden, 2 seen."""
    return bool(np.isin(points[:, :, 2], (0, 1, 2)).all() and (np.abs(points[:, :, :2]) <= WIDEST).mean() >= ALMOST_ALL)


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


def _inside(table: np.ndarray) -> int:
    """How many numbers a point has, of which almost all lie in the box before them; 0: they are not so."""
    if not _boxes(table):
        return 0
    for size in (3, 2):
        if (table.shape[1] - 5) % size == 0 and (points := _points_in_box(table, size)) is not None:
            inside, seen = points
            if not seen.any() or inside[seen].mean() >= ALMOST_ALL:
                return size
    return 0


def _holds_points(table: np.ndarray) -> np.ndarray:
    """``(n,)`` bool: whether numbers 2 to 5 are a box in the picture and almost all points after it lie in it."""
    holds = np.zeros(len(table), bool)
    for size in (3, 2):
        if (table.shape[1] - 5) % size == 0 and (points := _points_in_box(table, size)) is not None:
            inside, seen = points
            holds |= (inside & seen).sum(axis=1) >= ALMOST_ALL * seen.sum(axis=1)
    return np.asarray(holds & fits(CENTRE, table[:, 1:5], np.ones((len(table), 2))))


def _points_in_box(table: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """``(n, k)`` bool each: of the points after the box, `size` numbers each, which lie in it, and which are labelled.

    None: the third of three numbers is no visibility.
    """
    centre, sides = table[:, None, 1:3], table[:, None, 3:5]
    low, high = centre - sides / 2, centre + sides / 2
    points = table[:, 5:].reshape(len(table), -1, size)
    seen = (points[:, :, :2] != 0).any(axis=2)
    if size == 3:
        visible = points[:, :, 2]
        # Some tools write a confidence in the place of a visibility.
        if visible.min() < 0 or visible.max() > 2:
            return None
        seen &= visible > 0
    margin = 0.1 * sides + OUTSIDE
    inside = np.all((points[:, :, :2] >= low - margin) & (points[:, :, :2] <= high + margin), axis=2)
    return np.asarray(inside), np.asarray(seen)


def _second_near(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each line, read as a polygon: whether its second point lies near the others, and how much of the picture is.

    Numbers 4 and 5 of a box are its width and height, which lie anywhere: near the others by chance.
    """
    points = table[:, 1:].reshape(len(table), -1, 2)
    others = np.delete(points, 1, axis=1)
    low, high = others.min(axis=1), others.max(axis=1)
    # Of a triangle only two are left, which may lie close together.
    margin = (1.5 if points.shape[1] > 3 else 3) * (high - low).max(axis=1, keepdims=True)
    near = ((points[:, 1] >= low - margin) & (points[:, 1] <= high + margin)).all(axis=1)
    area = np.clip(np.minimum(high + margin, 1) - np.maximum(low - margin, 0), 0, 1).prod(axis=1)
    return np.asarray(near), np.asarray(area)


def _chance(area: np.ndarray) -> float:
    """The chance that all second points lie near the others, were they widths and heights."""
    # Where "near" is most of the picture, nothing follows from it, however many lines there are.
    telling = area[area < MOST]
    return float(np.exp(np.log(np.maximum(telling, 1e-9)).sum()))


def spread(paths: Sequence[T], most: int = SAMPLE) -> Iterable[T]:
    """At most `most` of these, evenly spaced."""
    if len(paths) <= most:
        return paths
    return [paths[int(place)] for place in np.linspace(0, len(paths) - 1, most)]
