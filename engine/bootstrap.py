"""How sure a difference between two networks is: both scored on the same pictures, drawn again and again.

What the networks found is matched with the truth once (`match`). A resample of the pictures is then nothing but a
weight a picture, and its average precision a cumulative sum: a thousand take about a second.
The bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile intervals).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.spec import SCORED
from engine.metrics import Array, PictureBoxes

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
RESAMPLES = 1000
LEVEL = 0.95
FEWEST = 10
"""Of fewer pictures no interval is given: resampling them tells nothing of others."""
_TOGETHER = 100  # resamples held in memory at a time


@dataclass(frozen=True, eq=False)  # known by what it is, not by its arrays: see `paired_intervals`
class Matches:
    """What of one network's detections is right, in COCO's sense; by class, the most confident first.

    Attributes:
        picture, label: ``(n,)`` of each detection.
        right: ``(n, 10)`` whether it has found an object, at each of `IOUS`.
        truth: ``(pictures, classes)`` the objects of each picture.
    """

    picture: NDArray[np.int32]
    label: NDArray[np.int32]
    right: NDArray[np.bool_]
    truth: NDArray[np.int32]

    def class_ap(self, weights: NDArray[Any] | None = None) -> Array:
        """AP50-95 of every class, of so many weightings of the pictures.

        Args:
            weights: ``(R, pictures)``, how often each picture counts; by default once.

        Returns:
            ``(R, classes)``; NaN where no picture with an object of the class counts.
        """
        weights = np.ones((1, len(self.truth))) if weights is None else weights.astype(np.float64)
        objects = weights @ self.truth  # (R, classes)
        found: Array = np.full(objects.shape, np.nan)
        for label in np.flatnonzero(self.truth.any(0)):
            rows = slice(*np.searchsorted(self.label, [label, label + 1]))
            counted = weights[:, self.picture[rows]]
            there = objects[:, label] > 0
            found[there, label] = self._class_ap(counted, self.right[rows], objects[:, label])[there]
        return found

    @staticmethod
    def _class_ap(counted: Array, right: NDArray[np.bool_], objects: Array) -> Array:
        """``(R,)`` mean over IoUs of a class's interpolated precision; `counted` ``(R, n)`` are weights."""
        so_far = counted.cumsum(1)
        total = np.zeros(len(counted))
        for places in map(np.flatnonzero, right.T):
            if not len(places):
                continue
            found = counted[:, places].cumsum(1)
            precision = found / np.maximum(so_far[:, places], 1)
            best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            reached = np.searchsorted(RECALLS, found / np.maximum(objects, 1)[:, None], side="right")
            total += (best * np.diff(reached, axis=1, prepend=0)).sum(1)
        found_ap: Array = total / (len(RECALLS) * right.shape[1])
        return found_ap


def match(pictures: Sequence[PictureBoxes], classes: int, scored: int = SCORED) -> Matches:
    """Match detections with the truth as COCO does: of each picture and class the `scored` most confident, in turn."""
    truth = np.array([np.bincount(each.truth[:, 0].astype(int), minlength=classes) for each in pictures], np.int32)
    parts = [_picture(each, scored) for each in pictures]
    label = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0)
    score = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0)
    right = np.concatenate([part[2] for part in parts]) if parts else np.zeros((0, len(IOUS)), bool)
    picture = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    order = np.lexsort((-score, label))
    label, picture, right = label[order].astype(np.int32), picture[order].astype(np.int32), right[order]
    # What is less confident than the last right one of its class changes no precision.
    any_right = right.any(1)
    last = np.full(classes, -1)
    last[label[any_right]] = np.flatnonzero(any_right)  # of equal places numpy keeps the last
    kept = np.arange(len(label)) <= last[label]
    return Matches(picture[kept], label[kept], right[kept], truth.reshape(len(pictures), classes))


def _picture(boxes: PictureBoxes, scored: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Class, confidence and whether right ``(n, 10)`` of a picture's detections, the most confident first."""
    rows = np.argsort(-boxes.detections[:, 4], kind="stable")
    label = boxes.detections[rows, 5]
    rows = np.concatenate([rows[label == each][:scored] for each in np.unique(label)] or [rows])
    label, score = boxes.detections[rows, 5], boxes.detections[rows, 4]
    right = np.zeros((len(rows), len(IOUS)), bool)
    if not len(rows) or not len(boxes.truth):
        return label, score, right
    overlap = np.where(label[:, None] == boxes.truth[:, 0][None], boxes.overlaps[rows], 0.0)
    free = np.ones((len(IOUS), len(boxes.truth)), bool)
    every = np.arange(len(IOUS))
    for row in np.flatnonzero(overlap.max(1) >= IOUS[0]):
        able = np.where(free, overlap[row], -1.0)
        best = able.shape[1] - 1 - able[:, ::-1].argmax(1)  # of equals the last, as COCO
        right[row] = able[every, best] >= IOUS
        free[every[right[row]], best[right[row]]] = False
    return label, score, right


@dataclass(frozen=True)
class Interval:
    """How much mAP50-95 differs, and where the difference lies for other pictures of the same kind.

    Attributes:
        difference: of the second network to the first, on these pictures.
        low, high: the ends of the interval; None where the pictures are too few for one.
        pictures: how many.
    """

    difference: float
    low: float | None
    high: float | None
    pictures: int

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is above or below 0; else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.pictures} pictures are too few for an interval"
        return f"{LEVEL:.0%} interval over {self.pictures} pictures {self.low:+.3f} to {self.high:+.3f}".replace(
            "%", " %"
        )


def paired_interval(before: Matches, after: Matches, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The difference in mAP50-95 of two networks on the same pictures, with its bootstrap interval over pictures.

    Each resample draws as many pictures as there are, with replacement, for both networks alike. It says what other
    pictures would change, not what another training with another seed would.
    """
    return paired_intervals(before, after, resamples, seed)[0]


@functools.lru_cache(maxsize=64)  # a report asks for the same pairs several times: in words, by class, in its figure
def paired_intervals(
    before: Matches, after: Matches, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Interval, list[Interval]]:
    """`paired_interval`, and that of the AP50-95 of each class, all of the same resamples.

    The pictures of a class's interval are those that show it: where they are fewer than `FEWEST` there is none. The
    difference of a class without an object is NaN.
    """
    assert before.truth.shape == after.truth.shape, "scores of different pictures"
    count = len(before.truth)
    showing = (before.truth > 0).sum(0)
    one, other = before.class_ap(), after.class_ap()
    difference, by_class = float(mean_ap(other)[0] - mean_ap(one)[0]), (other - one)[0]
    means, classes = np.zeros(0), np.zeros((0, len(showing)))
    if count >= FEWEST:
        rng, drawn_means, drawn_classes = np.random.default_rng(seed), [], []
        for start in range(0, resamples, _TOGETHER):
            drawn = rng.integers(0, count, (min(_TOGETHER, resamples - start), count))
            weights = np.stack([np.bincount(each, minlength=count) for each in drawn])
            one, other = before.class_ap(weights), after.class_ap(weights)
            drawn_means.append(mean_ap(other) - mean_ap(one))
            drawn_classes.append(other - one)
        means, classes = np.concatenate(drawn_means), np.concatenate(drawn_classes)
    return _interval(difference, means, count), [
        _interval(float(by_class[label]), classes[:, label], int(showing[label])) for label in range(len(showing))
    ]


def _interval(difference: float, drawn: Array, pictures: int) -> Interval:
    if pictures < FEWEST or not np.isfinite(drawn).any():
        return Interval(difference, None, None, pictures)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(difference, float(low), float(high), pictures)


def mean_ap(by_class: Array) -> Array:
    """mAP50-95 of what `Matches.class_ap` has found, ``(R, classes)`` -> ``(R,)``: the mean over classes that have
    objects; NaN where none has."""
    there = np.isfinite(by_class).sum(1)
    mean: Array = np.where(there > 0, np.nansum(by_class, 1) / np.maximum(there, 1), np.nan)
    return mean
