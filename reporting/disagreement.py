"""Where two networks see different things: which objects of a split each has found, and the pictures that show it best.

Found is what `thinyolo predict` would show: at a confidence of .25 and more, with an overlap of at least half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.augment import fit
from engine.evaluate import Score
from engine.metrics import PictureBoxes, claimed

SHOWN = 6
"""Pictures."""
LARGEST = 1600
"""Pixels of a side of a picture in a page; larger ones are made smaller, and that is said."""


@dataclass(frozen=True)
class Seen:
    """What two networks make of one picture.

    Attributes:
        objects: a true box each: "label", "box" (x1, y1, x2, y2 in pixels), "first" and "second": the confidence with
            which each network found it, or None.
        false: a box without an object each: "label", "box", "confidence", "by": "first" or "second".
    """

    objects: list[dict[str, Any]]
    false: list[dict[str, Any]]

    @property
    def lost(self) -> list[dict[str, Any]]:
        """What only the first network has found."""
        return [each for each in self.objects if each["first"] is not None and each["second"] is None]

    @property
    def won(self) -> list[dict[str, Any]]:
        """What only the second network has found."""
        return [each for each in self.objects if each["first"] is None and each["second"] is not None]

    @property
    def rank(self) -> tuple[float, ...]:
        """The higher, the worse the second network is beside the first."""
        alarms = sum(each["by"] == "second" for each in self.false)
        lost = self.lost
        return len(lost), sum(each["first"] for each in lost), alarms, len(self.won)


def seen(first: PictureBoxes, second: PictureBoxes) -> Seen:
    """Compare what two networks have found in one picture."""
    objects = [
        {"label": int(row[0]), "box": [round(float(side), 1) for side in row[1:5]], "first": None, "second": None}
        for row in first.truth
    ]
    false = []
    for name, boxes in (("first", first), ("second", second)):
        for row, place in zip(boxes.detections, claimed(boxes).tolist()):
            confidence = round(float(row[4]), 3)
            if place >= 0:
                objects[place][name] = confidence
            else:
                corners = [round(float(side), 1) for side in row[:4]]
                false.append({"label": int(row[5]), "box": corners, "confidence": confidence, "by": name})
    return Seen(objects, false)


def compare_pictures(first: Score, second: Score) -> list[Seen]:
    """`seen` of every picture of a split, in its order."""
    return [seen(one, other) for one, other in zip(first.sure, second.sure)]


def tally(pictures: Sequence[Seen]) -> dict[str, int]:
    """How many objects both, one or none of the two networks have found, and their boxes without an object."""
    found = [(each["first"] is not None, each["second"] is not None) for one in pictures for each in one.objects]
    by = [each["by"] for one in pictures for each in one.false]
    return {
        "objects": len(found),
        "both": found.count((True, True)),
        "first": found.count((True, False)),
        "second": found.count((False, True)),
        "neither": found.count((False, False)),
        "false_first": by.count("first"),
        "false_second": by.count("second"),
    }


def worst(pictures: Sequence[Seen], count: int = SHOWN) -> list[int]:
    """Numbers of the pictures that show the difference, the worst for the second network first.

    Where the two agree in more pictures than that leaves, these are evenly spaced ones with objects.
    """
    ranked = sorted(range(len(pictures)), key=lambda number: pictures[number].rank, reverse=True)
    differing = [number for number in ranked if any(pictures[number].rank)][:count]
    alike = [number for number in range(len(pictures)) if pictures[number].objects and number not in differing]
    more = min(count - len(differing), len(alike))
    return (
        differing + [alike[int(place)] for place in np.linspace(0, len(alike) - 1, more).round()] if more else differing
    )


def shrunk(image: np.ndarray) -> np.ndarray:
    """`image` ``(H, W, 3)``, no larger than a page can hold."""
    return fit(image, (LARGEST, LARGEST)) if max(image.shape[:2]) > LARGEST else image
