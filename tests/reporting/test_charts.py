"""Where the marks of figures lie: labels over nothing, honest axes."""

from __future__ import annotations

import numpy as np
import pytest

from reporting.charts import (
    GUTTER,
    WIDEST,
    Axis,
    accuracy_and_cost,
    annotated,
    beside,
    forest,
    overlapping,
    panel,
    spread,
    ticks,
)
from tests.reporting.material import AGAINST, point


@pytest.mark.parametrize("seed", range(20))
def test_labels_lie_over_no_point_and_no_other_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.uniform((150, 40), (470, 300), (7, 2))]
    places = beside(points, [f"network {number}" for number in range(7)], (0, 0, 620, 340))
    for number, place in enumerate(places):
        assert not any(overlapping(place, other) for other in places[:number])
        assert not any(overlapping(place, (x - 6, y - 6, x + 6, y + 6)) for x, y in points)
        assert place[0] >= 0
        assert place[2] <= 620


@pytest.mark.parametrize("seed", range(5))
def test_rows_keep_their_distance_and_their_order(seed: int) -> None:
    wanted = np.random.default_rng(seed).uniform(0, 200, 10).tolist()
    found = spread(wanted, 17, 9, 250)
    assert np.diff(sorted(found)).min() >= 17 - 1e-9
    assert np.argsort(found).tolist() == np.argsort(wanted).tolist()
    assert min(found) >= 9
    assert max(found) <= 250
    assert spread([10, 100], 17, 0, 200) == [10, 100], "what has room stays where it is"


def test_ticks_are_round_and_few() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.31, 0.39) == [0.32, 0.34, 0.36, 0.38]
    assert ticks(2, 2) == [2]
    assert Axis(1, 100, 0, 200, log=True)(10) == pytest.approx(100)


def test_times_that_are_withheld_leave_multiply_adds() -> None:
    timed = [point("baseline", "fat", 10.0, 0.6), point("student", "cut", 4.0, 0.5), point("file", "file", 2.0, 0.5)]
    figure = accuracy_and_cost(timed)
    assert figure
    assert figure["x_name"] == "milliseconds a picture"
    assert [mark["kind"] for mark in figure["marks"]] == ["fat", "cut", "file"]
    assert figure["marks"][0]["x"] > figure["marks"][1]["x"] > figure["marks"][2]["x"]
    assert figure["marks"][0]["y"] < figure["marks"][1]["y"], "better is higher"
    figure = accuracy_and_cost([*timed[:2], point("file", "file", None, 0.5)])
    assert figure
    assert figure["x_name"] == "multiply-adds a picture (G)"
    assert [mark["kind"] for mark in figure["marks"]] == ["fat", "cut"], "a file has as many as its network"
    assert accuracy_and_cost(timed[:1]) is None


def test_the_rival_is_a_line_through_the_uncut_network() -> None:
    points = [point("fat", "fat", 9.0, 0.6), point("s", "smaller", 3.0, 0.4), point("m", "smaller", 5.0, 0.5)]
    figure = accuracy_and_cost(points)
    assert figure
    ends = [float(each.split(",")[0]) for each in figure["rival"].split()]
    assert ends == sorted(ends)
    assert len(ends) == 3


def test_a_class_without_an_interval_has_only_its_difference() -> None:
    rows = [{"against": AGAINST}, {"against": {**AGAINST, "low": None, "high": None}}, {"against": None}]
    figure = forest(rows)
    low, middle, high = figure["marks"][0]
    assert low < middle < high < figure["zero"]
    assert figure["marks"][1][0] is None
    assert figure["marks"][2] == [None, None, None]


def test_a_teacher_that_was_scored_once_is_a_line_right_across() -> None:
    nan = float("nan")
    lines = {
        "student/mAP50": np.array([nan, 0.2]),
        "teacher/mAP50": np.array([nan, 0.5]),
        "empty": np.array([nan, nan]),
    }
    drawn = panel("mAP50", np.array([1.0, 2.0]), lines)
    assert drawn
    assert [line["name"] for line in drawn["lines"]] == ["student/mAP50", "teacher/mAP50"]
    assert len(drawn["lines"][1]["path"].split()) == 2
    assert all(line["end"][0] <= drawn["right"] for line in drawn["lines"]), "names stand behind the data"
    assert panel("nothing", np.array([1.0]), {"a": np.array([nan])}) is None


@pytest.mark.parametrize(("size", "zoom"), [((128, 128), 2), ((90, 160), 3), ((500, 600), 1), ((1000, 1400), 0.5)])
def test_pictures_have_their_own_size_and_labels_cover_no_object(size: tuple[int, int], zoom: float) -> None:
    high, wide = size
    rng = np.random.default_rng(0)
    boxes = [[x, y, x + wide / 4, y + high / 4] for x, y in rng.uniform(0, 0.7, (30, 2)) * (wide, high)]
    objects = [
        {"label": 5 * (number % 2), "box": box, "first": 0.9 if number % 3 else None, "second": None}
        for number, box in enumerate(boxes)
    ]
    picture = {"file": "a", "name": "b", "size": size, "objects": objects, "false": []}
    drawn = annotated(picture, ["cat"], "fat", "thin")
    assert drawn["zoom"] == zoom
    assert drawn["width"] == wide * zoom <= WIDEST
    assert drawn["whole"][0] > drawn["width"] + GUTTER + 60, "labels have a margin of their own"
    rows = sorted(box["row"] for box in drawn["boxes"] if "row" in box)
    assert np.diff(rows).min() >= 17 - 1e-9
    assert rows[-1] <= drawn["whole"][1]
    assert drawn["untold"] == 30 - len(rows)
    assert {box["label"].split(":")[0] for box in drawn["boxes"]} == {"cat", "5"}, "a class without a name is a number"
    assert all("row" in box for box in drawn["boxes"][-len(rows) :]), "what is told lies on top"
