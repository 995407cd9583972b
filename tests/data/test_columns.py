"""What the numbers of label lines are, told by all lines of a split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.labels import CheckReport, check
from tests.data.made import write_set

GREY = np.full((8, 12, 3), 90, np.uint8)


def boxes(count: int, seed: int = 0) -> np.ndarray:
    """(count, 4) cx, cy, w, h of boxes inside the picture."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.05, 0.4, (count, 2))
    return np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=1)


def around(box: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Points of a box, from shares of its size counted from its centre."""
    return box[:2] + shares * box[2:]


def a_set(tmp_path: Path, lines: list[str], more: str = "") -> Path:
    pictures: list[tuple[np.ndarray, str | None]] = [
        (GREY + number, "\n".join(lines[number::4]) + "\n") for number in range(4)
    ]
    path = write_set(tmp_path, {"train": pictures, "val": pictures})
    path.write_text(path.read_text() + more)
    return path


def text(*numbers: object) -> str:
    return " ".join(f"{number:.6f}" if isinstance(number, float) else str(number) for number in numbers)


def rows(path: Path) -> np.ndarray:
    return np.concatenate(check(path, ["train"]).scans["train"].labels)[:, 1:]


def kinds(path: Path) -> set[str]:
    return {problem.kind for problem in check(path, ["train"]).problems}


OUTLYING = np.array([[-0.9, -0.6], [0.7, -0.9], [1.2, 0.3]])
QUARTERS = np.array([[-0.3, -0.4], [0.2, -0.1], [0.0, 0.3]])


def keypoint_lines(found: np.ndarray, visible: object = None, shares: np.ndarray = QUARTERS) -> list[str]:
    lines = []
    for box in found:
        points = [list(map(float, point)) + ([] if visible is None else [visible]) for point in around(box, shares)]
        lines.append(text(0, *map(float, box), *(value for point in points for value in point)))
    return lines


@pytest.mark.parametrize("visible", [None, 2], ids=["x y", "x y v"])
def test_of_a_box_with_keypoints_the_box_is_taken(tmp_path: Path, visible: object) -> None:
    found = boxes(8)
    path = a_set(tmp_path, keypoint_lines(found, visible))
    assert kinds(path) == {"keypoints left out; the box before them is taken"}
    order = np.concatenate([found[number::4] for number in range(4)])
    np.testing.assert_allclose(rows(path), order, atol=2e-6)


def test_the_yaml_may_say_how_many_keypoints_there_are(tmp_path: Path) -> None:
    lines = keypoint_lines(boxes(8), 0.37)  # a confidence where others have a flag
    assert len(rows(a_set(tmp_path / "said", lines, "kpt_shape: [3, 3]\n"))) == 8
    (kind,) = kinds(a_set(tmp_path / "wrong", lines, "kpt_shape: [17, 3]\n"))
    assert kind == "needs 5 numbers: class cx cy w h"


@pytest.mark.parametrize("visible", [0, 1, 2])
def test_keypoints_outside_their_boxes_are_known_by_their_visibilities(tmp_path: Path, visible: int) -> None:
    found = boxes(8)
    path = a_set(tmp_path, keypoint_lines(found, visible, OUTLYING))
    assert kinds(path) == {"keypoints left out; the box before them is taken"}
    np.testing.assert_allclose(rows(path), np.concatenate([found[number::4] for number in range(4)]), atol=2e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_keypoints_outside_their_boxes_are_not_taken_for_polygons(tmp_path: Path, count: int) -> None:
    lines = keypoint_lines(boxes(8), None, OUTLYING[-count:])
    errors = check(a_set(tmp_path / "unsaid", lines), ["train"]).errors
    assert len(errors) == 8
    assert all("a box with keypoints or a polygon" in error.detail for error in errors)
    assert "kpt_shape" in errors[0].todo
    said = a_set(tmp_path / "said", lines, f"kpt_shape: [{count}, 2]\n")
    assert kinds(said) == {"keypoints left out; the box before them is taken"}
    polygons = check(a_set(tmp_path / "none", lines, "kpt_shape: []\n"), ["train"])
    assert "polygon turned into the box around it" in {problem.kind for problem in polygons.problems}


@pytest.mark.parametrize("labelled", [0.0, 0.4])
def test_keypoints_that_nobody_labelled_are_no_corners_of_polygons(tmp_path: Path, labelled: float) -> None:
    rng = np.random.default_rng(1)
    found = boxes(40) * [1, 1, 0.5, 0.5]
    points = [around(box, rng.uniform(-0.5, 0.5, (5, 2))) * (rng.random((5, 1)) < labelled) for box in found]
    lines = [text(0, *map(float, box), *map(float, row.ravel())) for box, row in zip(found, points)]
    path = a_set(tmp_path, lines)
    assert kinds(path) == {"keypoints left out; the box before them is taken"}
    np.testing.assert_allclose(rows(path), np.concatenate([found[number::4] for number in range(4)]), atol=2e-6)


def test_top_left_corners_of_small_boxes_are_known_by_the_sides_they_leave(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sides = rng.uniform(0.02, 0.1, (200, 2))
    found = np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=1)
    lines = [text(0, *map(float, np.concatenate([box[:2] - box[2:] / 2, box[2:]]))) for box in found]
    (error,) = check(a_set(tmp_path / "top left", lines), ["train"]).errors
    assert "the numbers look like the top left corner, width and height" in error.kind
    careless = found + [0.02, 0.02, 0, 0] * np.sign(found - 0.5)
    lines = [text(0, *map(float, box)) for box in careless]
    assert not check(a_set(tmp_path / "careless", lines), ["train"]).errors


def test_corners_of_turned_boxes_may_leave_the_picture(tmp_path: Path) -> None:
    lines = ["0 .95 .5 1.04 .6 .95 .7 .86 .6", "0 .1 -.05 .2 .05 .1 .15 .0 .05"] * 2
    report = check(a_set(tmp_path, lines), ["train"])
    assert not report.errors
    np.testing.assert_allclose(report.scans["train"].labels[0], [[0, 0.93, 0.6, 0.14, 0.2]], atol=1e-6)


def test_one_broken_line_does_not_make_polygons_of_boxes_with_keypoints(tmp_path: Path) -> None:
    lines = keypoint_lines(boxes(12))
    lines[5] = lines[5].rsplit(" ", 2)[0]
    report = check(a_set(tmp_path, lines), ["train"])
    assert len(report.errors) == 1
    assert report.scans["train"].boxes == 11


def test_polygons_and_turned_boxes_stay_polygons(tmp_path: Path) -> None:
    found = boxes(8)
    quarters = np.array([[-0.5, 0.1], [0.1, 0.5], [0.5, -0.1], [-0.1, -0.5]])
    turned = [text(0, *map(float, around(box, quarters).ravel())) for box in found]
    path = a_set(tmp_path / "turned", turned)
    assert kinds(path) == {"polygon turned into the box around it"}
    np.testing.assert_allclose(rows(path), np.concatenate([found[number::4] for number in range(4)]), atol=2e-6)
    varied = [text(0, *map(float, around(box, quarters[: 3 + number % 2]).ravel())) for number, box in enumerate(found)]
    assert kinds(a_set(tmp_path / "varied", varied)) == {"polygon turned into the box around it"}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda number: (0.5 + number / 100,), "class cx cy w h confidence"),
        (lambda number: (number,), "class cx cy w h id"),
        (lambda number: (0.9 - number / 100, number % 2), "class cx cy w h confidence id"),
        (lambda number: (number + 10, 0.9), "class cx cy w h id confidence"),
    ],
)
def test_columns_of_trackers_are_refused(tmp_path: Path, after, words: str) -> None:
    lines = [text(0, *map(float, box), *after(number)) for number, box in enumerate(boxes(8))]
    problems = check(a_set(tmp_path, lines), ["train"]).problems
    assert {problem.severity for problem in problems} == {"error"}
    assert {problem.kind for problem in problems} == {f"is not `class cx cy w h`; looks like {words}"}
    assert "awk '{print $1,$2,$3,$4,$5}'" in problems[0].todo


def corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


@pytest.mark.parametrize(
    ("form", "guess"),
    [
        (corners, "the corners x1 y1 x2 y2"),
        (lambda box: corners(box)[[1, 0, 3, 2]], "the corners x1 y1 x2 y2"),
        (lambda box: np.concatenate([box[:2] - box[2:] / 2, box[2:]]), "the top left corner, width and height"),
        (lambda box: corners(box)[[0, 2, 1, 3]], "the sides x1 x2 y1 y2"),
        (lambda box: 1 - corners(box) / 3, "something else than centre and size"),
    ],
)
def test_corners_are_not_taken_for_centres(tmp_path: Path, form, guess: str) -> None:
    path = a_set(tmp_path, [text(0, *map(float, form(box))) for box in boxes(40)])
    with pytest.raises(UserError, match=f"reach outside the picture: the numbers look like {guess}") as caught:
        check(path, ["train"]).announce()
    assert " looks the same: then exchange x and y" in caught.value.todo or "something else" in guess


def test_boxes_that_touch_the_edge_are_boxes(tmp_path: Path) -> None:
    found = boxes(40)
    found[:5, 0] = 1 - found[:5, 2] / 2 + 0.02
    assert kinds(a_set(tmp_path, [text(0, *map(float, box)) for box in found])) == {
        "box reaches outside the picture; cut at its edge"
    }


def test_what_the_columns_are_is_told_by_each_source_for_itself(tmp_path: Path) -> None:
    found = boxes(40)
    good = [text(0, *map(float, box)) for box in found]
    wrong = [text(0, *map(float, corners(box))) for box in found[:8]]
    polygons = [
        text(0, *map(float, around(box, QUARTERS).ravel()), *[0.5] * (2 * (n % 3))) for n, box in enumerate(found)
    ]
    for name, lines in (("good", good), ("wrong", wrong), ("polygons", polygons), ("points", keypoint_lines(found))):
        a_set(tmp_path / name, lines)
    path = tmp_path / "data.yaml"

    def of(*names: str) -> CheckReport:
        folders = ", ".join(f"{name}/images/train" for name in names)
        path.write_text(f"train: [{folders}]\nval: good/images/val\nnames: [a, b]\n")
        return check(path, ["train"])

    assert not of("good").errors
    (error,) = of("good", "wrong").errors
    assert "the numbers look like the corners" in error.kind
    assert "wrong" in error.file.parts
    report = of("polygons", "points")
    assert not report.errors
    counts = Counter(problem.kind for problem in report.problems)
    assert counts["keypoints left out; the box before them is taken"] == 40
    assert counts["polygon turned into the box around it"] == 40
