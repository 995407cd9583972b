"""Scores of known detections: equal to pycocotools, and to counts made by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.metrics import PictureBoxes, coco_records, coco_scores, confusion_matrix, curves, true_positives


def noisy_pictures(seed: int, classes: int, count: int = 25, empty: bool = True) -> list[PictureBoxes]:
    """Ground truth of all COCO sizes; detections are some of it moved, some of it misnamed, and some invented."""
    rng = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        truth = np.zeros((0 if empty and number % 6 == 0 else int(rng.integers(1, 9)), 5))
        side = np.exp(rng.uniform(np.log(8), np.log(260), (len(truth), 2)))
        corner = rng.uniform(0, 250, (len(truth), 2))
        truth[:, 0] = rng.integers(0, classes, len(truth))
        truth[:, 1:3], truth[:, 3:5] = corner, corner + side
        moved = np.repeat(truth, 2, axis=0)
        moved = moved[rng.random(len(moved)) < 0.8]
        boxes = moved[:, 1:] + rng.normal(0, 0.08, (len(moved), 4)) * np.tile(moved[:, 3:5] - moved[:, 1:3], 2)
        label = np.where(rng.random(len(moved)) < 0.85, moved[:, 0], rng.integers(0, classes, len(moved)))
        invented = rng.uniform(0, 250, (int(rng.integers(0, 130)), 2))
        boxes = np.concatenate((boxes, np.concatenate((invented, invented + rng.uniform(5, 120, invented.shape)), 1)))
        label = np.concatenate((label, rng.integers(0, classes, len(invented))))
        confidence = rng.random(len(boxes)) * np.where(np.arange(len(boxes)) < len(moved), 1, 0.5)
        pictures.append(PictureBoxes(np.column_stack((boxes, confidence, label)), truth, (500, 500)))
    return pictures


@pytest.mark.parametrize("seed, classes", [(0, 1), (1, 3), (2, 6)])
def test_average_precisions_equal_those_of_pycocotools(seed, classes):
    pictures = noisy_pictures(seed, classes)
    truth, found = coco_records(pictures, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = coco_scores(pictures, classes)
    mine = [scores.mean(), scores.mean(iou=0), scores.mean(iou=5), *(scores.mean(area=area) for area in (1, 2, 3))]
    assert 0.05 < mine[0] < 0.95
    np.testing.assert_allclose(mine, evaluation.stats[:6], atol=1e-9)
    by_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(1)
    np.testing.assert_allclose(scores.ap[:, :, 0], by_class, atol=1e-9)


def one(detections: list[list[float]], truth: list[list[float]]) -> PictureBoxes:
    return PictureBoxes(np.array(detections, float).reshape(-1, 6), np.array(truth, float).reshape(-1, 5), (100, 100))


def test_a_class_without_ground_truth_is_left_out_of_the_mean():
    picture = one([[0, 0, 10, 10, 0.9, 0], [50, 50, 70, 70, 0.8, 1]], [[0, 0, 0, 10, 10]])
    scores = coco_scores([picture], 2)
    assert scores.mean() == pytest.approx(1.0)
    assert np.isnan(scores.ap[:, 1, 0]).all()


def test_no_detection_at_all_scores_zero():
    assert coco_scores([one([], [[0, 0, 0, 10, 10]])], 1).mean() == 0.0


def test_sizes_are_told_apart_by_area():
    picture = one([[0, 0, 31, 31, 0.9, 0]], [[0, 0, 0, 31, 31], [0, 40, 40, 90, 90]])
    scores = coco_scores([picture], 1)
    assert scores.mean(area=1) == pytest.approx(1.0), "small: found"
    assert scores.mean(area=2) == 0.0, "medium: missed"
    assert np.isnan(scores.mean(area=3)), "large: there is none"


def test_an_object_counts_once_for_the_most_confident_detection():
    picture = one([[0, 0, 10, 9, 0.6, 0], [0, 0, 10, 10, 0.5, 0], [0, 0, 10, 10, 0.9, 1]], [[0, 0, 0, 10, 10]])
    assert true_positives(picture).tolist() == [True, False, False]


def test_curves_count_what_is_kept_at_each_confidence():
    picture = one(
        [[0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.6, 0], [20, 20, 40, 40, 0.3, 0]],
        [[0, 0, 0, 10, 10], [0, 20, 20, 40, 40]],
    )
    lines = curves([picture], coco_scores([picture], 1))
    at = {conf: round(conf * 1000) for conf in (0.2, 0.5, 0.8, 0.95)}
    assert lines.precision[0, list(at.values())] == pytest.approx([2 / 3, 1 / 2, 1, 0])
    assert lines.recall[0, list(at.values())] == pytest.approx([1, 1 / 2, 1 / 2, 0])
    assert lines.f1[0, at[0.2]] == pytest.approx(0.8)
    assert 290 <= lines.best <= 300, "all three kept is the best F1"


def test_confusion_counts_misnamed_invented_and_missed_objects():
    picture = one(
        [[0, 0, 10, 10, 0.9, 0], [20, 20, 40, 40, 0.8, 0], [70, 70, 80, 80, 0.7, 1], [50, 50, 60, 60, 0.1, 1]],
        [[0, 0, 0, 10, 10], [1, 20, 20, 40, 40], [1, 50, 50, 60, 60]],
    )
    # detected as x truly: 0 right; one 1 called 0; one 1 invented; one 1 missed (found below the confidence)
    assert confusion_matrix([picture], 2).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
