"""Which numbers of a label line are which: the orders that other programs write, tried on many lines.

An order is believed where (almost) all lines make sense in it, and in no other as well; else all that fit are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTSIDE = 0.01
"""A box that reaches so far out of the picture, in shares of it, is not just rounded."""
FAR = 0.05
"""So far out of the picture, in shares of it, nobody draws a box by hand."""
ALMOST_ALL, MOST, MANY = 0.9, 0.5, 0.2
FEW = 5
"""Fewer boxes than this show nothing about all."""
CLOSE = 0.02
"""Orders that fit as many lines as the best one, up to this share, are not told apart."""
CHANCE = 1e-3
"""Below this probability what all lines have in common is no accident."""
QUARTER = 0.25
"""Objects may well lie in so large a corner of all pictures, for a reason."""
SHARES, PIXELS, PERCENT, THOUSANDTHS = "", "pixels", "per cent", "thousandths"
PARTS = {PERCENT: 100, "parts of 255": 255, THOUSANDTHS: 1000, "parts of 65535": 65535}
"""Units in which the whole picture is so much, whatever its size."""

CENTRE, CORNERS, TOP_LEFT, SIDES = "cx cy w h", "x1 y1 x2 y2", "x1 y1 w h", "x1 x2 y1 y2"
AROUND = "y1 x2 y2 x1"
"""Top, right, bottom, left."""
BOXES = {
    CENTRE: "",
    CORNERS: "cx = (x1 + x2) / 2, cy = (y1 + y2) / 2, w = x2 - x1, h = y2 - y1",
    TOP_LEFT: "cx = x1 + w / 2, cy = y1 + h / 2",
    SIDES: "cx = (x1 + x2) / 2, cy = (y1 + y2) / 2, w = x2 - x1, h = y2 - y1",
    AROUND: "cx = (x1 + x2) / 2, cy = (y1 + y2) / 2, w = x2 - x1, h = y2 - y1",
}
"""The four numbers of a box, and what makes centre and size of them."""
Y_FIRST = {CENTRE: "cy cx h w", CORNERS: "y1 x1 y2 x2", TOP_LEFT: "y1 x1 h w", SIDES: "y1 y2 x1 x2"}
"""The same with y before x, as TensorFlow and NumPy count. As shares of the picture, both ways always make sense."""
EXCHANGED = {SIDES: [2, 3, 0, 1]}
"""How the numbers of a box change places with y first; all others in pairs."""
POINTS = "x1 y1 x2 y2 x3 y3 x4 y4"
UPRIGHT = "the upright box around the turned one, in pixels: w |cos a| + h |sin a| wide and w |sin a| + h |cos a| high"
BOX_AROUND = "of the four corners take the smallest and the largest x and y"

LAYOUTS = (
    "cB csB cBs cBa Bsc Bcs icB ciB cBi Bc Bic Bci B sB Bs ciBs cBsi cBis Bisc P Pc Pci cPs BsciI iiBsiii iiBsii iiBs"
)
"""c class, s confidence, a angle, i another whole number, B a box, P four points; I: any whole numbers to the end."""
_WORDS = {"c": "class", "s": "confidence", "a": "angle", "i": "id", "I": "flags"}


@dataclass(frozen=True)
class Guess:
    """An order of the numbers that the lines make sense in.

    Attributes:
        layout: see `LAYOUTS`.
        box: one of `BOXES`, or `POINTS`.
        unit: of the box.
        fit: the share of lines that make sense in it.
        y_first: the box has y before x; None: nothing tells.
    """

    layout: str
    box: str
    unit: str
    fit: float
    y_first: bool | None = False

    @property
    def columns(self) -> str:
        box = Y_FIRST[self.box] if self.y_first else self.box
        words = [box if role in "BP" else _WORDS[role] for role in self.layout]
        return " ".join(words) + (f", in {self.unit}" if self.unit else "")

    @property
    def order(self) -> list[int]:
        """0-based places of class and box; without class, of the box."""
        places: dict[str, list[int]] = {}
        place = 0
        for role in self.layout:
            width = {"B": 4, "P": 8}.get(role, 1)
            places.setdefault(role, list(range(place, place + width)))
            place += width
        return [*places.get("c", []), *places.get("B", places.get("P", []))]


def corners(box: str, numbers: np.ndarray) -> np.ndarray:
    """``(n, 4)`` x1, y1, x2, y2 of numbers ``(n, 4)`` or, of four points, ``(n, 8)``."""
    first, second = numbers[:, :2], numbers[:, 2:4]
    if box == CENTRE:
        return np.concatenate([first - second / 2, first + second / 2], axis=1)
    if box == TOP_LEFT:
        return np.concatenate([first, first + second], axis=1)
    if box == SIDES:
        return numbers[:, [0, 2, 1, 3]]
    if box == AROUND:
        return numbers[:, [3, 0, 1, 2]]
    if box == POINTS:
        points = numbers.reshape(-1, 4, 2)
        return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    return numbers


def fits(box: str, numbers: np.ndarray, limits: np.ndarray, y_first: bool = False) -> np.ndarray:
    """``(n,)`` bool: whether the numbers, so read, are boxes in a picture that measures `limits` ``(n, 2)``."""
    if y_first:
        numbers = numbers[:, EXCHANGED.get(box, [1, 0, 3, 2])]
    found = corners(box, numbers)
    over = OUTSIDE * limits
    inside = (found[:, :2] >= -over) & (found[:, 2:] <= limits + over)
    right = (inside & (found[:, 2:] > found[:, :2])).all(axis=1)
    return np.asarray(right & _convex(numbers.reshape(-1, 4, 2)) if box == POINTS else right)


def _convex(points: np.ndarray) -> np.ndarray:
    along = np.roll(points, -1, axis=1) - points
    following = np.roll(along, -1, axis=1)
    turns = along[:, :, 0] * following[:, :, 1] - along[:, :, 1] * following[:, :, 0]
    area = np.abs(turns).max(axis=1)
    return np.asarray(((turns >= 0).all(axis=1) | (turns <= 0).all(axis=1)) & (area > 0))


def guesses(table: np.ndarray, sizes: np.ndarray, classes: int | None) -> list[Guess]:
    """The orders in which the lines make sense; those that usual files have first.

    Args:
        table: ``(n, k)`` numbers, k the same in all lines.
        sizes: ``(n, 2)`` width and height of the pictures; nan where they are not known.
        classes: how many there are; None: the class stands somewhere else (as a name), not among the numbers.
    """
    found = []
    for layout in LAYOUTS.split():
        if ("c" in layout and classes is None) or not _roles_fit(layout, table):
            continue
        guess = Guess(layout, POINTS, SHARES, 0.0)
        numbers = table[:, [place for place in guess.order if "c" not in layout or place != guess.order[0]]]
        for box in [POINTS] if "P" in layout else BOXES:
            for unit, limits in _units(numbers, sizes):
                fit = float(fits(box, numbers, limits).mean())
                other = float(fits(box, numbers, limits, y_first=True).mean()) if box in Y_FIRST else 0.0
                if box == CENTRE and unit != PIXELS:
                    other = 0.0  # as labels are, and are meant to be
                y_first = True if other > fit + CLOSE else None if other >= fit - CLOSE else False
                found.append(Guess(layout, box, unit, max(fit, other), y_first))
    best = max((guess.fit for guess in found), default=0.0)
    kept = [guess for guess in found if guess.fit >= max(ALMOST_ALL, best - CLOSE)]
    if classes is not None and (with_class := [guess for guess in kept if "c" in guess.layout]):
        known = [guess for guess in with_class if (table[:, guess.order[0]] < classes).all()]
        kept = known or with_class
    # Centre and size is what YOLO labels have: where they fit in shares, who wrote more columns left those as they are.
    usual = [guess for guess in kept if guess.box == CENTRE and guess.unit == SHARES]
    return usual or kept


def _roles_fit(layout: str, table: np.ndarray) -> bool:
    place, length = 0, table.shape[1]
    for role in layout:
        width = {"B": 4, "P": 8, "I": length - place}.get(role, 1)
        if width < 1 or place + width > length:
            return False
        if role not in "BP" and not _role_fits(role, table[:, place : place + width]):
            return False
        place += width
    return place == length


def _role_fits(role: str, values: np.ndarray) -> bool:
    whole = bool((values == np.round(values)).all())
    if role == "c":
        return whole and bool((values >= 0).all() and (values < 10_000).all())
    if role == "s":
        return bool((values >= 0).all() and (values <= 1).all()) and not (whole and len(np.unique(values)) > 1)
    if role == "a":
        # Whole degrees may be the numbers of tracks as well.
        degrees = bool((np.abs(values) <= 360).all() and values.max() >= 45)
        if whole or degrees:
            return degrees
        # In radians, or degrees below 0; what lies between these, such as a distance, is none.
        turned = bool((values < 0).any()) or bool(1 < values.max() <= 2 * np.pi)
        return turned and bool((np.abs(values) <= 360).all())
    return whole


def _units(numbers: np.ndarray, sizes: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """What the numbers may be measured in, with what the picture's sides measure in it."""
    ones = np.ones((len(numbers), 2))
    if (numbers.max(axis=1) <= 1 + OUTSIDE).mean() >= ALMOST_ALL:
        return [(SHARES, ones)]
    pixels = np.where(np.isfinite(sizes), sizes, np.inf)
    beyond = (numbers > pixels.max(axis=1, keepdims=True) * (1 + OUTSIDE)).any(axis=1).mean()
    if beyond > 1 - ALMOST_ALL:
        fitting = [(unit, most * ones) for unit, most in PARTS.items() if (numbers <= most * (1 + OUTSIDE)).all()]
        return fitting[:1] or [(PIXELS, pixels)]
    if (numbers.max(axis=1) > 100 * (1 + OUTSIDE)).mean() > 1 - ALMOST_ALL:
        return [(PIXELS, pixels)]
    # All of the boxes within 100 pixels of the corner, in pictures that are larger: how likely is that?
    shares = np.minimum(1, 100 / pixels).prod(axis=1)
    return (
        [(PERCENT, 100 * ones)]
        if shares.prod() < CHANCE and shares.max() < QUARTER
        else [(PIXELS, pixels), (PERCENT, 100 * ones)]
    )


def either(box: str) -> str:
    """What to do where nothing tells whether x or y comes first."""
    return f"compare a line with its picture, for {Y_FIRST[box]} looks the same: then exchange x and y"


def phrase(found: Sequence[Guess], named: str = "") -> str:
    """What the lines look like, for a sentence; "" where nothing is known.

    Args:
        named: the class is a name: "first" or "last" of the line.
    """
    texts = []
    for guess in found[:3]:
        text = guess.columns
        text = f"name {text}" if named == "first" else text
        if named == "last":
            columns, comma, unit = text.partition(",")
            text = f"{columns} name{comma}{unit}"
        texts.append(text)
    return " or ".join(dict.fromkeys(texts))


def recipe(found: Sequence[Guess], named: bool = False) -> str:
    """What makes ``class cx cy w h`` of such lines; of `named` ones, where the class is a number already."""
    if not found:
        return ""
    if len(found) > 1:
        return "compare a line with its picture to see which; then write class cx cy w h, as shares of the picture"
    guess = found[0]
    steps = [f"{BOX_AROUND}, then {BOXES[CORNERS]}" if guess.box == POINTS else BOXES[guess.box]]
    if guess.y_first and guess.box == CENTRE:
        steps.append("x before y, width before height")
    if guess.unit == PIXELS:
        steps.append("cx and w divided by the picture's width, cy and h by its height")
    elif guess.unit in PARTS:
        steps.append(f"each divided by {PARTS[guess.unit]}")
    if "a" in guess.layout:
        steps.append(UPRIGHT)
    if "c" not in guess.layout and not named:
        steps.insert(0, "the number of its class first")
    steps = [step for step in steps if step]
    if guess.y_first is None:
        steps.append(either(guess.box))
    if steps:
        others = set(guess.layout) - set("cBPa")
        return f"write class cx cy w h{', without the other columns' if others else ''}: {'; '.join(steps)}"
    fields = ",".join(f"${place + 1}" for place in guess.order)
    return f"keep class cx cy w h of each line: awk '{{print {fields}}}' OLD > NEW"
