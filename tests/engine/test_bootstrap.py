"""Average precision of weighted pictures, and the interval made of it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from engine.bootstrap import match, mean_ap, paired_interval, paired_intervals
from engine.metrics import PictureBoxes, coco_scores

CLASSES = 3


def some_pictures(seed: int, noise: float, count: int = 60, sure: bool = False) -> list[PictureBoxes]:
    """Pictures with the same truth whatever the seed; detections around it, and some anywhere."""
    truths, rng = np.random.default_rng(0), np.random.default_rng(seed)
    made = []
    for _ in range(count):
        number = int(truths.integers(0, 6))
        corner, side = truths.uniform(0, 300, (number, 2)), truths.uniform(10, 120, (number, 2))
        truth = np.column_stack([truths.integers(0, CLASSES, number), corner, corner + side])
        near = truth[:, 1:].repeat(3, 0)
        near += rng.normal(0, noise, near.shape) * np.tile(side.repeat(3, 0), 2)
        corner, side = rng.uniform(0, 300, (30, 2)), rng.uniform(10, 120, (30, 2))
        boxes = np.concatenate([near, np.column_stack([corner, corner + side])])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        score = np.concatenate([rng.beta(4, 2, len(near)), rng.beta(1, 1 if sure else 8, 30)])
        label = np.concatenate([truth[:, 0].repeat(3), rng.integers(0, CLASSES, 30)])
        made.append(PictureBoxes(np.column_stack([boxes, score, label]), truth, (400, 400)))
    return made


@pytest.mark.parametrize("seed, noise, sure", [(1, 0.05, False), (2, 0.15, True), (3, 0.0, False)])
def test_unweighted_mean_is_cocos(seed: int, noise: float, sure: bool) -> None:
    pictures = some_pictures(seed, noise, sure=sure)
    assert mean_ap(match(pictures, CLASSES).class_ap())[0] == pytest.approx(
        coco_scores(pictures, CLASSES).mean(), abs=1e-9
    )


def test_picture_that_counts_twice_is_the_picture_and_its_copy() -> None:
    pictures = some_pictures(1, 0.08)
    weights = np.random.default_rng(3).multinomial(len(pictures), [1 / len(pictures)] * len(pictures))
    copied = [picture for picture, weight in zip(pictures, weights) for _ in range(weight)]
    assert len(set(weights)) > 2
    weighted = mean_ap(match(pictures, CLASSES).class_ap(weights[None]))[0]
    assert weighted == pytest.approx(coco_scores(copied, CLASSES).mean(), abs=1e-9)


def test_of_one_class_a_hundred_boxes_a_picture_count_as_in_coco() -> None:
    corners = np.array([(20.0 * (n % 20), 20.0 * (n // 20)) for n in range(130)])
    boxes = np.column_stack([corners, corners + 15])
    detections = np.column_stack([boxes, np.linspace(0.9, 0.3, 130), np.zeros(130)])
    pictures = [PictureBoxes(detections, np.column_stack([np.zeros(130), boxes]), (400, 400))]
    found = match(pictures, 1)
    assert found.right.all(1).sum() == 100
    assert mean_ap(found.class_ap())[0] == pytest.approx(coco_scores(pictures, 1).mean(), abs=1e-9)


def test_clear_difference_is_outside_the_interval_and_a_copy_is_none() -> None:
    good, bad = (match(some_pictures(seed, noise), CLASSES) for seed, noise in ((1, 0.03), (2, 0.12)))
    interval = paired_interval(bad, good, resamples=200)
    assert interval.low is not None
    assert interval.high is not None
    assert 0 < interval.low < interval.difference < interval.high
    assert (interval.sign, paired_interval(good, bad, resamples=200).sign) == (1, -1)
    same = paired_interval(good, good, resamples=50)
    assert (same.difference, same.low, same.high, same.sign) == (0, 0, 0, 0)


def test_the_same_seed_gives_the_same_interval_and_another_nearly_the_same() -> None:
    one, other = (match(some_pictures(seed, 0.08), CLASSES) for seed in (1, 2))
    first, again, another = (paired_interval(one, other, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != another
    assert first.low == pytest.approx(another.low, abs=0.01)


def test_interval_of_equals_covers_zero_about_as_often_as_it_says() -> None:
    missed = 0
    for number in range(20):
        one, other = (match(some_pictures(100 + 2 * number + which, 0.08, 30), CLASSES) for which in (0, 1))
        missed += paired_interval(one, other, resamples=100).sign != 0
    assert missed <= 4, "5 % are 1 of 20"


def test_few_pictures_give_no_interval() -> None:
    one, other = (match(some_pictures(seed, 0.08, count=9), CLASSES) for seed in (1, 2))
    interval = paired_interval(one, other)
    assert (interval.low, interval.sign) == (None, 0)
    assert str(interval) == "9 pictures are too few for an interval"


def test_pictures_without_any_object_or_detection_are_no_error() -> None:
    nothing = np.zeros((0, 6))
    empty = [PictureBoxes(nothing, np.zeros((0, 5)), (10, 10))] * 6
    full = [PictureBoxes(nothing, np.array([[1.0, 2, 2, 8, 8]]), (10, 10))] * 6
    assert np.isnan(mean_ap(match(empty, CLASSES).class_ap())[0])
    assert mean_ap(match(empty + full, CLASSES).class_ap())[0] == 0
    assert paired_interval(match(empty + full, CLASSES), match(empty + full, CLASSES), resamples=20).high == 0


def test_five_hundred_resamples_of_some_hundred_pictures_take_seconds() -> None:
    one, other = (match(some_pictures(seed, 0.08, 200), CLASSES) for seed in (1, 2))
    began = time.process_time()
    paired_interval(one, other, resamples=500)
    assert time.process_time() - began < 5


def test_intervals_of_classes_are_of_the_same_resamples_as_the_mean() -> None:
    before, after = (match(some_pictures(seed, noise), CLASSES) for seed, noise in ((1, 0.03), (2, 0.3)))
    mean, classes = paired_intervals(before, after)
    assert mean == paired_interval(before, after)
    assert mean.difference == pytest.approx(np.mean([each.difference for each in classes]), abs=1e-9)
    for label, each in enumerate(classes):
        alone = coco_scores(some_pictures(2, 0.3), CLASSES).ap[:, label, 0].mean()
        alone -= coco_scores(some_pictures(1, 0.03), CLASSES).ap[:, label, 0].mean()
        assert each.difference == pytest.approx(alone, abs=1e-9)
        assert each.low is not None
        assert each.high is not None
        assert each.low < each.difference < each.high < 0
        assert each.pictures == (before.truth[:, label] > 0).sum()


def test_a_class_that_few_pictures_show_has_no_interval() -> None:
    pictures = some_pictures(1, 0.05)
    rare = [
        replace(each, truth=each.truth[each.truth[:, 0] != 2] if number >= 9 else each.truth)
        for number, each in enumerate(pictures)
    ]
    mean, classes = paired_intervals(match(rare, CLASSES + 1), match(rare, CLASSES + 1))
    assert mean.low == 0
    assert [each.low for each in classes] == [0, 0, None, None]
    assert np.isnan(classes[3].difference), "nothing of it is there"
