"""Anchors: do they suit the data, and if not, which would.

Widths and heights are in pixels of the network input, after letterboxing. Clustering by overlap: Redmon and Farhadi,
YOLO9000 (2017), section 2; the refinement is a (1 + 1) evolution strategy on the mean overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import UserError
from data.augment import fitted_size
from data.labels import scan
from data.spec import DataSpec
from models.options import ANCHOR_REACH
from models.resize import LETTERBOX

if TYPE_CHECKING:
    from models.heads import HeadSpec

Anchors = tuple[tuple[float, float], ...]

GOOD_RECALL = 0.98
"""With at least this share of boxes within reach of an anchor, `auto` keeps the anchors."""
_STEPS, _SAMPLE = 400, 10_000


def boxes_wh(spec: DataSpec, size: tuple[int, int], resize: str = LETTERBOX) -> np.ndarray:
    """``(n, 2)`` width and height of all training boxes, in pixels of an input of `size` (H, W).

    `resize` is the network's.
    """
    found = scan(spec, "train")
    parts = [np.zeros((0, 2))]
    for (height, width), labels in zip(found.shapes, found.labels, strict=True):
        inner = fitted_size((int(height), int(width)), size, resize)
        parts.append(labels[:, 3:5] * inner[::-1])
    return np.concatenate(parts)


def overlap(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """``(n, k)`` IoU of boxes ``(n, 2)`` and anchors ``(k, 2)`` laid centre on centre."""
    common = np.minimum(boxes[:, None], anchors[None]).prod(axis=2)
    return common / (boxes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - common)


def check_anchors(boxes: np.ndarray, anchors: np.ndarray) -> tuple[float, float]:
    """How well anchors ``(k, 2)`` suit boxes ``(n, 2)``.

    Returns:
        The best possible recall (share of boxes within `ANCHOR_REACH` of some anchor)
        and the mean over boxes of the best IoU. Both are 1 where there are no boxes.
    """
    boxes, anchors = np.asarray(boxes, float).reshape(-1, 2), np.asarray(anchors, float).reshape(-1, 2)
    if not len(boxes):
        return 1.0, 1.0
    ratio = boxes[:, None] / anchors[None]
    worst = np.maximum(ratio, 1 / ratio).max(axis=2)
    return float((worst.min(axis=1) < ANCHOR_REACH).mean()), float(overlap(boxes, anchors).max(axis=1).mean())


def fit_anchors(boxes: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """`n` anchors for boxes ``(m, 2)``: k-means by overlap, then refined by small random changes.

    Fewer different boxes than anchors are filled up with enlarged and shrunken copies.

    Returns:
        ``(n, 2)``, sorted by area; the same for the same boxes and seed.

    Raises:
        UserError: there are no boxes.
    """
    boxes = np.asarray(boxes, float).reshape(-1, 2)
    boxes = boxes[(boxes > 0).all(axis=1)]
    if not len(boxes):
        raise UserError("there are no boxes to fit anchors to", todo="use --anchors keep, or add labels")
    rng = np.random.default_rng(np.random.SeedSequence((seed, len(boxes), n)))
    if len(boxes) > _SAMPLE:
        boxes = boxes[np.sort(rng.choice(len(boxes), _SAMPLE, replace=False))]
    distinct = np.unique(boxes.round(3), axis=0)
    if len(distinct) < n:
        return _sorted(_filled(distinct, n))
    return _sorted(_refine(boxes, _kmeans(boxes, distinct, n, rng), rng))


def _filled(distinct: np.ndarray, n: int) -> np.ndarray:
    rows = list(distinct)
    factor, place = 1.25, 0
    while len(rows) < n:
        rows.append(distinct[place % len(distinct)] * factor)
        place += 1
        if place % len(distinct) == 0:  # once round: 1.25, 1 / 1.25, 1.25^2, ...
            factor = 1 / factor if factor > 1 else 1.25 / factor
    return np.array(rows)


def _kmeans(boxes: np.ndarray, distinct: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Lloyd's algorithm with 1 - IoU as distance and the median as centre, started as k-means++ does."""
    centres = distinct[rng.integers(len(distinct))][None]
    while len(centres) < n:
        distance = (1 - overlap(distinct, centres).max(axis=1)).clip(0) ** 2
        centres = np.vstack([centres, distinct[rng.choice(len(distinct), p=distance / distance.sum())]])
    nearest = None
    for _ in range(50):
        now = overlap(boxes, centres).argmax(axis=1)
        if nearest is not None and np.array_equal(now, nearest):
            break
        nearest = now
        for place in range(n):
            members = boxes[nearest == place]
            if len(members):
                centres[place] = np.median(members, axis=0)
    return centres


def _refine(boxes: np.ndarray, anchors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    best, score = anchors, overlap(boxes, anchors).max(axis=1).mean()
    for _ in range(_STEPS):
        change = np.exp(rng.normal(0, 0.1, anchors.shape) * (rng.random(anchors.shape) < 0.5))
        trial = np.maximum(best * change, 1.0)
        fitness = overlap(boxes, trial).max(axis=1).mean()
        if fitness > score:
            best, score = trial, fitness
    return best


def _sorted(anchors: np.ndarray) -> np.ndarray:
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


def assign_to_heads(anchors: np.ndarray, heads: Sequence[HeadSpec]) -> list[Anchors]:
    """Anchors shared out among heads, each keeping its number: the smallest to the head of smallest stride.

    Args:
        anchors: ``(k, 2)``, k the heads' anchors together.
        heads: in the network's order (any order of strides).

    Returns:
        For each head, in the order given, its anchors.
    """
    ordered = _sorted(np.asarray(anchors, float))
    assert len(ordered) == sum(len(head.anchors) for head in heads), "as many anchors as the heads hold"
    shares: list[Anchors] = [()] * len(heads)
    start = 0
    for place in sorted(range(len(heads)), key=lambda number: heads[number].stride):
        count = len(heads[place].anchors)
        rounded = np.maximum(ordered[start : start + count].round(2), 0.01)
        shares[place] = tuple((float(width), float(height)) for width, height in rounded)
        start += count
    return shares


def choose_anchors(
    mode: Literal["auto", "keep", "fit"] | str,
    spec: DataSpec,
    specs: Sequence[HeadSpec],
    size: tuple[int, int],
    seed: int = 0,
    resize: str = LETTERBOX,
) -> tuple[list[Anchors] | None, str]:
    """Whether the network's anchors stay, and what comes in their place.

    Args:
        mode: "keep"; "fit" (always new ones); "auto" (new ones only where the best possible recall is below
            `GOOD_RECALL` and the new ones are better).
        specs: the network's heads.
        size: (H, W) of the network input.
        resize: how pictures are brought to that size.

    Returns:
        Per head its new anchors, or None to keep the old; and a sentence for the log.

    Raises:
        UserError: the mode is none of these; "fit" without any box.
    """
    if mode not in ("auto", "keep", "fit"):
        raise UserError(f"anchors must be auto, keep or fit, not {mode!r}", todo="use --anchors auto")
    if not any(head.anchors for head in specs):
        return None, f"anchors {mode} changes nothing: these heads have none"
    boxes = boxes_wh(spec, size, resize)
    old = np.array([anchor for head in specs for anchor in head.anchors], float)
    recall, mean_iou = check_anchors(boxes, old)
    state = f"they come near the size of {recall:.1%} of the boxes (recall {recall:.3f}, mean IoU {mean_iou:.3f})"
    if not len(boxes) and mode != "fit":
        return None, "anchors kept: there are no boxes to compare them with"
    if mode == "keep":
        return None, f"anchors kept: {state}"
    if mode == "auto" and recall >= GOOD_RECALL:
        return None, f"anchors suit the data and are kept: {state}"
    new = assign_to_heads(fit_anchors(boxes, len(old), seed), specs)
    # Measured as the heads will hold them: rounded, and after they were shared out.
    new_recall, new_iou = check_anchors(boxes, np.array([anchor for head in new for anchor in head]))
    became = (
        f"they come near the size of {recall:.1%} -> {new_recall:.1%} of the boxes "
        f"(recall {recall:.3f} -> {new_recall:.3f}, mean IoU {mean_iou:.3f} -> {new_iou:.3f})"
    )
    if mode == "auto" and (new_recall, new_iou) <= (recall, mean_iou):
        return None, f"anchors kept, new ones would be no better: {became}"
    return new, f"anchors fitted to the data: {became}"
