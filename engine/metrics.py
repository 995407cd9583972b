"""What detections are worth beside ground truth: COCO mAP, precision-recall curves, the confusion matrix.

mAP is faster-coco-eval's (equal to pycocotools', which the tests check); only the curves over confidence and the
confusion matrix are counted here. All boxes are in pixels of the original picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from common.memory import collector_paused
from data.spec import SCORED

Array = NDArray[np.float64]

CONFIDENCES = np.linspace(0, 1, 1001)  # the grid of all curves over confidence
FOUND = 0.5  # the IoU from which on an object counts as found, in the curves and in what is said of single boxes
SURE, NEAR = 0.25, 0.45  # the confidence and the IoU from which on the confusion matrix counts
AREAS = ("all", "small", "medium", "large")  # COCO: below 32^2, up to 96^2, above


@dataclass(frozen=True)
class PictureBoxes:
    """One picture's boxes.

    Attributes:
        detections: ``(n, 6)`` x1, y1, x2, y2, confidence, class.
        truth: ``(t, 5)`` class, x1, y1, x2, y2.
        size: height, width.
    """

    detections: Array
    truth: Array
    size: tuple[int, int] = (0, 0)

    @cached_property
    def overlaps(self) -> Array:
        """IoU of every detection with every true box: ``(n, t)``."""
        overlaps = box_iou(torch.from_numpy(self.detections[:, :4]), torch.from_numpy(self.truth[:, 1:]))
        found: Array = overlaps.nan_to_num_(0.0).numpy()
        return found


@dataclass(frozen=True)
class CocoScores:
    """COCO's average precisions; NaN where there is no ground truth.

    Attributes:
        ap: ``(IoU .50 .. .95, class, area)``; the areas are `AREAS`.
        precision: ``(class, 101)`` at IoU .50 over the recalls 0, .01 .. 1.
    """

    ap: Array
    precision: Array

    def mean(self, iou: int | None = None, area: int = 0) -> float:
        """The mean over classes that have ground truth, over all ten IoUs or at number `iou`; NaN where none has."""
        values = self.ap[:, :, area] if iou is None else self.ap[iou, :, area]
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class Curves:
    """Curves at IoU .50, ``(classes, points)``; rows of classes without ground truth are NaN.

    Attributes:
        pr: precision over the recalls 0, .01 .. 1 (COCO's interpolation).
        precision, recall, f1: over the confidences `CONFIDENCES`.
    """

    pr: Array
    precision: Array
    recall: Array
    f1: Array

    @property
    def best(self) -> int:
        """The place in `CONFIDENCES` of the highest mean F1; of equals the most confident."""
        return len(CONFIDENCES) - 1 - int(np.argmax(_mean_rows(self.f1)[::-1]))


def _mean_rows(values: Array) -> Array:
    """The mean over rows that are not NaN; zeros where all are."""
    sound = values[np.isfinite(values).all(1)]
    return sound.mean(0) if len(sound) else np.zeros(values.shape[1])


def coco_scores(pictures: list[PictureBoxes], classes: int, scored: int = SCORED) -> CocoScores:
    """Average precision by faster-coco-eval, in COCO's ten IoUs and four area ranges.

    Of each class the `scored` most confident boxes of a picture count. A class, or a class in an area range, without
    ground truth is NaN (COCO's -1), not 0.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with collector_paused():  # a dict for each of 100,000 boxes makes it look through everything again and again
        truth, found = coco_records(pictures, classes)
        # loadRes would make a polygon of every box; as annotations of their own the results are ready as they are.
        results = COCO({**truth, "annotations": found})
        evaluation = COCOeval_faster(COCO(truth), results, "bbox", print_function=_quiet)
        evaluation.params.maxDets = [scored]
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU, recall, class, area, maxDets); -1 where there is no ground truth
    precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)[..., -1]
    precision = np.where(precision < 0, np.nan, precision)
    return CocoScores(ap=precision.mean(1), precision=precision[0, :, :, 0].T)


def _quiet(*_: object) -> None:
    pass


def coco_records(pictures: list[PictureBoxes], classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same boxes as COCO's JSON structures: (annotations, results). Ids count from 1."""
    images = [
        {"id": number, "height": int(picture.size[0]), "width": int(picture.size[1])}
        for number, picture in enumerate(pictures, 1)
    ]
    annotations = _records([p.truth[:, 1:5] for p in pictures], [p.truth[:, 0] for p in pictures])
    results = _records([p.detections[:, :4] for p in pictures], [p.detections[:, 5] for p in pictures])
    scores = (score for picture in pictures for score in picture.detections[:, 4].tolist())
    for result, score in zip(results, scores):
        result["score"] = score
    categories = [{"id": number + 1, "name": str(number)} for number in range(classes)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def _records(corners: list[Array], labels: list[Array]) -> list[dict[str, Any]]:
    """COCO's form of a picture's boxes (x1, y1, x2, y2) and classes, for all pictures."""
    if not corners:
        return []
    counts = [len(label) for label in labels]
    boxes, label = np.concatenate(corners), np.concatenate(labels)
    sides = boxes[:, 2:] - boxes[:, :2]
    columns = (
        np.repeat(np.arange(1, len(counts) + 1), counts).tolist(),
        (label.astype(int) + 1).tolist(),
        np.concatenate((boxes[:, :2], sides), 1).tolist(),
        sides.prod(1).tolist(),
    )
    return [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0}
        for number, (image, category, box, area) in enumerate(zip(*columns), 1)
    ]


def claimed(picture: PictureBoxes) -> NDArray[np.int64]:
    """Which true box each detection has found: ``(n,)``, -1 for none. COCO's rule: the most confident first, each takes
    the free box of its class it overlaps most, of equals the last, if by at least `FOUND`."""
    detections, truth = picture.detections, picture.truth
    claim = np.full(len(detections), -1)
    if not len(detections) or not len(truth):
        return claim
    overlap = np.where(detections[:, 5][:, None] == truth[:, 0][None], picture.overlaps, 0.0)
    hopeful = np.flatnonzero(overlap.max(1) >= FOUND)
    for row in hopeful[np.argsort(-detections[hopeful, 4], kind="stable")]:
        best = len(truth) - 1 - int(overlap[row, ::-1].argmax())
        if overlap[row, best] >= FOUND:
            claim[row] = best
            overlap[:, best] = 0
    return claim


def true_positives(picture: PictureBoxes) -> NDArray[np.bool_]:
    """Which detections are right (see `claimed`): ``(n,)``."""
    return claimed(picture) >= 0


def curves(pictures: list[PictureBoxes], scores: CocoScores) -> Curves:
    """Precision, recall and F1 of every class over confidence, at IoU .50; the PR curves come from `scores`."""
    classes = scores.precision.shape[0]
    detections = np.concatenate([p.detections[:, 4:6] for p in pictures]) if pictures else np.zeros((0, 2))
    right = np.concatenate([true_positives(p) for p in pictures]) if pictures else np.zeros(0, dtype=bool)
    labels = np.concatenate([p.truth[:, 0] for p in pictures]) if pictures else np.zeros(0)
    shape = (classes, len(CONFIDENCES))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    for number in range(classes):
        positives = int((labels == number).sum())
        if not positives:
            continue
        mine = detections[:, 1] == number
        order = np.argsort(-detections[mine, 0], kind="stable")
        confidence, hits = detections[mine, 0][order], np.cumsum(right[mine][order])
        # how many detections are at least as confident as each point of the grid
        kept = np.searchsorted(-confidence, -CONFIDENCES, side="right")
        found = np.concatenate(([0], hits))[kept]
        recall[number] = found / positives
        precision[number] = found / np.maximum(kept, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)  # 0 where both are
    return Curves(pr=scores.precision, precision=precision, recall=recall, f1=f1)


def confusion_matrix(pictures: list[PictureBoxes], classes: int) -> NDArray[np.int64]:
    """Counts ``(classes + 1, classes + 1)``: row = detected as, column = truly; the last of each is background.

    Boxes are paired whatever their class, the largest overlap first. Background as column: detections without an
    object; background as row: objects nobody detected.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for picture in pictures:
        sure = picture.detections[:, 4] >= SURE
        said, true = picture.detections[sure, 5].astype(int), picture.truth[:, 0].astype(int)
        free_said, free_true = np.ones(len(said), dtype=bool), np.ones(len(true), dtype=bool)
        if len(said) and len(true):
            overlap = picture.overlaps[sure]
            rows, columns = np.nonzero(overlap >= NEAR)
            for pair in np.argsort(-overlap[rows, columns], kind="stable"):
                row, column = rows[pair], columns[pair]
                if free_said[row] and free_true[column]:
                    free_said[row] = free_true[column] = False
                    matrix[said[row], true[column]] += 1
        matrix[:, classes] += np.bincount(said[free_said], minlength=classes + 1)
        matrix[classes] += np.bincount(true[free_true], minlength=classes + 1)
    return matrix
