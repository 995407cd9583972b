"""Which objects two networks see, and which pictures show the difference."""

from __future__ import annotations

import numpy as np

from engine.metrics import PictureBoxes, claimed
from reporting.disagreement import LARGEST, seen, shrunk, tally, worst

TRUTH = np.array([[0, 0, 0, 10, 10], [1, 20, 20, 40, 40.0]])


def boxes(*rows: tuple[float, ...]) -> PictureBoxes:
    return PictureBoxes(np.array(rows, dtype=float).reshape(-1, 6), TRUTH, (50, 50))


FIRST, SECOND = (0, 0, 10, 10, 0.9, 0), (20, 20, 40, 40, 0.8, 1)
ALARM = (20, 20, 40, 40, 0.7, 0)  # in the right place, of another class


def test_each_object_says_who_has_found_it() -> None:
    found = seen(boxes(FIRST, SECOND), boxes(SECOND, ALARM))
    assert [(each["first"], each["second"]) for each in found.objects] == [(0.9, None), (0.8, 0.8)]
    assert [(each["by"], each["label"]) for each in found.false] == [("second", 0)]
    assert found.lost == [found.objects[0]]
    assert found.won == []


def test_an_object_is_found_once() -> None:
    twice = boxes(FIRST, (0, 0, 10, 9, 0.95, 0))
    assert claimed(twice).tolist() == [-1, 0], "the most confident takes it"
    assert len(seen(twice, boxes()).false) == 1


def test_of_two_objects_overlapped_alike_the_last_is_found_as_in_the_score() -> None:
    between = np.array([[0, 0, 0, 10, 10], [0, 0, 4, 10, 14.0]])
    picture = PictureBoxes(np.array([[0, 2, 10, 12, 0.9, 0.0]]), between, (50, 50))
    assert picture.overlaps[0, 0] == picture.overlaps[0, 1] >= 0.5
    assert claimed(picture).tolist() == [1]


def test_all_objects_are_counted_once() -> None:
    pairs = [(boxes(FIRST), boxes()), (boxes(SECOND), boxes(SECOND)), (boxes(), boxes(FIRST, ALARM))]
    found = tally([seen(*pair) for pair in pairs])
    assert found == {
        "objects": 6,
        "both": 1,
        "first": 1,
        "second": 1,
        "neither": 3,
        "false_first": 0,
        "false_second": 1,
    }
    assert found["both"] + found["first"] + found["second"] + found["neither"] == found["objects"]


def test_the_worst_for_the_second_network_come_first() -> None:
    alike = seen(boxes(FIRST, SECOND), boxes(FIRST, SECOND))
    lost_both, lost_one = seen(boxes(FIRST, SECOND), boxes()), seen(boxes(SECOND), boxes())
    alarm, won = seen(boxes(), boxes(ALARM)), seen(boxes(), boxes(FIRST))
    assert worst([alike, won, alarm, lost_one, lost_both], 4) == [4, 3, 2, 1]
    assert worst([alike, lost_one, alike, alike], 3) == [1, 0, 3], "then evenly spaced ones"
    assert worst([alike] * 9, 3) == [0, 4, 8]
    assert worst([], 3) == []


def test_only_pictures_that_a_page_cannot_hold_become_smaller() -> None:
    small = np.zeros((100, 200, 3), np.uint8)
    assert shrunk(small) is small
    assert shrunk(np.zeros((100, 2 * LARGEST, 3), np.uint8)).shape == (50, LARGEST, 3)
