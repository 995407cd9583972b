"""Whether annotated boxes are what their format says: all boxes of a file together tell, before any is cut.

A file in the format of COCO may hold x1 y1 x2 y2 in its `bbox`, one of VOC width and height in `xmax` and `ymax`,
either of them shares of the picture. Read as pixels, most such boxes reach outside, have no size, or are smaller than a
pixel; cut at the edge they would become labels that nothing is wrong with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.templates import (
    ALMOST_ALL,
    AROUND,
    BOXES,
    CENTRE,
    CHANCE,
    CLOSE,
    CORNERS,
    FAR,
    FEW,
    MANY,
    MOST,
    OUTSIDE,
    PARTS,
    PIXELS,
    POINTS,
    QUARTER,
    SHARES,
    SIDES,
    TOP_LEFT,
    Y_FIRST,
    corners,
    fits,
)

FILLED = 0.8
"""The largest number of many is at least this much of the largest that its unit allows."""
ENOUGH = 50
"""Boxes in so many places tell what all do."""
CELL = 0.05
"""Boxes are in one place if their numbers, as shares of the unit, differ by less."""
BACKWARDS = {"x2 y2 x1 y1": [2, 3, 0, 1], "x2 y1 x1 y2": [2, 1, 0, 3], "x1 y2 x2 y1": [0, 3, 2, 1]}
"""Corners of which the larger number stands first, and the places of x1 y1 x2 y2 in them."""
FORMATS = {
    TOP_LEFT: "x y width height, in pixels",
    CORNERS: "xmin ymin xmax ymax, in pixels",
    POINTS: "x y x y ..., in pixels",
}
"""What a format means its numbers to be."""
_TO_CORNERS = {
    CENTRE: "x1 = cx - w / 2, y1 = cy - h / 2, x2 = cx + w / 2, y2 = cy + h / 2",
    TOP_LEFT: "x2 = x1 + w, y2 = y1 + h",
}
_TO_TOP_LEFT = {CENTRE: "x = cx - w / 2, y = cy - h / 2"} | dict.fromkeys(
    (CORNERS, SIDES, AROUND, *BACKWARDS), "width = x2 - x1, height = y2 - y1"
)


@dataclass(frozen=True)
class Annotations:
    """The boxes of one source, as they are written.

    Attributes:
        form: what the format means them to be: a key of `FORMATS`.
        numbers: ``(n, 4)``; of POINTS the corners of the box around them.
        sizes: ``(n, 2)`` width and height of their pictures in pixels.
        owners: ``(n,)`` int, which picture each belongs to.
    """

    form: str
    numbers: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray


@dataclass(frozen=True)
class WrongForm:
    """Why boxes are not what their format says.

    Attributes:
        problem: what they look like, for a sentence.
        todo: and what to write instead.
        first: the place of the first box that shows it.
    """

    problem: str
    todo: str
    first: int


@dataclass(frozen=True)
class _Reading:
    """A form and unit in which the boxes make sense: the share of them, and whether y stands first (None: unknown)."""

    form: str
    unit: str
    fit: float
    y_first: bool | None = False

    @property
    def words(self) -> str:
        form = Y_FIRST.get(self.form, self.form) if self.y_first else self.form
        form = "points with y before x" if self.form == POINTS and self.y_first else form
        return f"{form}, in {self.unit or 'shares of the picture'}"


def wrong_form(boxes: Annotations) -> WrongForm | None:
    """What the boxes are instead of what their format says; None: nothing speaks against it."""
    count = len(boxes.numbers)
    if not count:
        return None
    low, high = np.split(corners(TOP_LEFT if boxes.form == TOP_LEFT else CORNERS, boxes.numbers), 2, axis=1)
    over = (np.maximum(-low, high - boxes.sizes) / boxes.sizes).max(axis=1)
    empty = (high <= low).any(axis=1)
    below = (high - low < 1).any(axis=1) & ~empty
    outside = (over > OUTSIDE) & ~empty & ~below
    bad = empty | below | outside
    corner = _unit_of_a_corner(boxes, high)
    readings = _readings(boxes, corner)
    if not corner and (empty | below | (over > FAR)).mean() <= CLOSE:
        # Other forms and units reach much farther than careless hands, and centres on the right and below only: of
        # these, boxes close to the left and to the upper edge would show it.
        near = (boxes.numbers[:, :2] < 0.75 * boxes.numbers[:, 2:]).mean(axis=0).min() > CLOSE
        centres = boxes.form == TOP_LEFT and near
        readings = [each for each in readings if centres and each.form == CENTRE and each.unit == PIXELS]
    # The few that leave the picture by carelessness leave it in every other form as well.
    better = [each for each in readings if each.unit == PIXELS and 10 * count * (1 - each.fit) <= bad.sum()]
    enough = count >= FEW
    # Of boxes that are what they should be, fewer than MANY reach outside, are empty or are below a pixel.
    if (enough or np.abs(boxes.numbers).max() <= 1) and bad.mean() > MANY:
        # Boxes of whole objects, of which much is out of the picture, are no other form.
        if not readings and (empty | below).mean() <= MANY and (over > FAR).mean() <= MOST:
            return None
    elif enough and corner:
        pass
    elif bad.sum() >= 2 * FEW and better:
        readings = better
    else:
        return None
    told = [
        (outside, "reach outside their picture"),
        (empty, "have no or a negative size"),
        (below, "are smaller than a pixel"),
    ]
    parts = [f"{int(which.sum())} {words}" for which, words in told if which.any()]
    said = f"of {count} boxes {', '.join(parts)}"
    if not parts:
        said = f"all {count} boxes lie in the same {PARTS[corner]} x {PARTS[corner]} pixels of larger pictures"
    guess = " or ".join(dict.fromkeys(each.words for each in readings[:3]))
    guess = f"the numbers look like {guess}" if guess else "they are of another form, unit or size of the picture"
    first = int((bad if bad.any() else over == over.max()).argmax())
    todo = _todo(boxes.form, readings)
    if boxes.form == CORNERS and (high == low).any(axis=1).mean() > MANY and not (high < low).any():
        todo = f"if xmin = xmax is an object one pixel wide, pixels are counted from 1: --one-based; else {todo}"
    return WrongForm(f"{said}, read as {FORMATS[boxes.form]}: {guess}", todo, first)


def _readings(boxes: Annotations, corner: str) -> list[_Reading]:
    """The forms in which (almost) all boxes make sense, but for the one they should have; pixels before other units.

    Args:
        corner: the unit they are in, where it is known.
    """
    ones = np.ones_like(boxes.sizes)
    largest = float(boxes.numbers.max())
    units = [(PIXELS, boxes.sizes)] if largest > 1 + OUTSIDE else []
    if (boxes.numbers.max(axis=1) <= 1 + OUTSIDE).mean() >= ALMOST_ALL:
        units = [(SHARES, ones)]
    parts = [(unit, most * ones) for unit, most in PARTS.items() if FILLED * most <= largest <= (1 + OUTSIDE) * most]
    for unit, limits in [(corner, PARTS[corner] * ones)] if corner else [*units, *parts]:
        found = _of_unit(boxes, unit, limits)
        best = max((each.fit for each in found), default=0.0)
        kept = [each for each in found if each.fit >= max(ALMOST_ALL, best - CLOSE)]
        # In another unit all that make sense are many; who left the unit as it is elsewhere left the order as it is.
        usual = [each for each in kept if each.form == boxes.form]
        if kept:
            return usual if usual and unit != PIXELS else kept
    return []


def _of_unit(boxes: Annotations, unit: str, limits: np.ndarray) -> list[_Reading]:
    """How well the numbers fit in each form, where the whole picture measures `limits` ``(n, 2)``."""
    forms = [CORNERS] if boxes.form == POINTS else [*BOXES, *BACKWARDS]
    found = []
    for form in forms:
        box = CORNERS if form in BACKWARDS else form
        numbers = boxes.numbers[:, BACKWARDS.get(form, [0, 1, 2, 3])]
        fit = float(fits(box, numbers, limits).mean())
        other = float(fits(box, numbers, limits, y_first=True).mean()) if form in Y_FIRST else 0.0
        named = boxes.form if form == CORNERS and boxes.form == POINTS else form
        if named == boxes.form:
            # As it should be but for the unit; or, in pixels, with x and y in each other's place.
            if unit != PIXELS:
                found.append(_Reading(named, unit, fit))
            elif other > fit + CLOSE or (other >= ALMOST_ALL and other > fit):
                found.append(_Reading(named, unit, other, True))
            continue
        y_first = True if other > fit + CLOSE else None if other >= fit - CLOSE else False
        found.append(_Reading(named, unit, max(fit, other), y_first))
    return found


def _unit_of_a_corner(boxes: Annotations, high: np.ndarray) -> str:
    """The unit of numbers that fill it, and as pixels would all lie in a corner of much larger pictures; "": none."""
    largest = np.concatenate([high, boxes.numbers[:, :2], boxes.numbers[:, 2:]]).max(axis=0)
    for unit, most in PARTS.items():
        # What lies in one place of all pictures, a logo or a fixed camera's tower, tells no more than one of them.
        places = np.array(_apart(boxes.numbers, CELL * most))
        pictures = places[np.unique(boxes.owners[places], return_index=True)[1]]
        shares = np.minimum(1, most / boxes.sizes[pictures]).prod(axis=1)
        filled = (largest >= FILLED * most).all() and boxes.numbers.max() <= (1 + OUTSIDE) * most
        if filled and shares.prod() < CHANCE and shares.max() < QUARTER:
            return unit
    return ""


def _apart(numbers: np.ndarray, least: float) -> list[int]:
    """Places of rows of which no two are alike, each number within `least`; no more of them than are enough."""
    kept: list[int] = []
    for place, row in enumerate(numbers):
        if (np.abs(numbers[kept] - row).max(axis=1) >= least).all():
            kept.append(place)
        if len(kept) == ENOUGH:
            break
    return kept


def _todo(form: str, readings: list[_Reading]) -> str:
    wanted = f"write {FORMATS[form]}"
    if len(readings) != 1:
        return f"compare some boxes with their pictures, and these with the ones that were annotated; then {wanted}"
    reading = readings[0]
    steps = [(_TO_TOP_LEFT if form == TOP_LEFT else _TO_CORNERS).get(reading.form, "") if reading.form != form else ""]
    if reading.unit in PARTS:
        steps.append(f"divide each by {PARTS[reading.unit]}")
    if reading.unit != PIXELS:
        steps.append("multiply x and width by the picture's width, y and height by its height")
    if reading.y_first:
        steps.append("x before y")
    elif reading.y_first is None and reading.unit == PIXELS:
        steps.append(f"{Y_FIRST[reading.form]} would look the same: compare a box with its picture")
    smaller = "; or, if the pictures were shrunk, give those that were annotated" if reading.unit in PARTS else ""
    return f"{wanted}: {'; '.join(filter(None, steps)) or 'in this order'}{smaller}"
