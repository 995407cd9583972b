"""What the numbers of label lines are, told by all lines of a split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.columns import POLYGON, columns_of
from data.labels import CheckReport, check
from tests.data.made import write_set
from tests.shared import shared

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


# Several forms in one folder ---------------------------------------------------------------------------------------

TAKEN, AROUND_IT = "keypoints left out; the box before them is taken", "polygon turned into the box around it"
SPREAD = np.random.default_rng(7).uniform(-0.5, 0.5, (21, 2))


def of_two_kinds(found: np.ndarray, visible: object, counts: tuple[int, int]) -> list[str]:
    """Boxes with keypoints, as many as `counts` says by turns."""
    return [keypoint_lines(found[n : n + 1], visible, SPREAD[: counts[n % 2]])[0] for n in range(len(found))]


def outline(box: np.ndarray, points: int, seed: int) -> str:
    """A polygon around a box, of points on an ellipse."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False) + seed
    shares = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2
    return text(0, *map(float, around(box, shares).ravel()))


def in_order(found: np.ndarray) -> np.ndarray:
    return np.concatenate([found[number::4] for number in range(4)])


@pytest.mark.parametrize("counts", [(5, 21), (4, 6), (3, 4)], ids=str)
@pytest.mark.parametrize("visible", [None, 0, 1, 2], ids=["x y", "v 0", "v 1", "v 2"])
def test_keypoints_of_two_lengths_in_one_folder_leave_their_boxes(
    tmp_path: Path, visible: object, counts: tuple[int, int]
) -> None:
    found = boxes(60, 2)
    path = a_set(tmp_path, of_two_kinds(found, visible, counts))
    assert kinds(path) == {TAKEN}
    np.testing.assert_allclose(rows(path), in_order(found), atol=2e-6)


@pytest.mark.parametrize("visible", [None, 2], ids=["x y", "x y v"])
@pytest.mark.parametrize("every", [2, 4])
def test_keypoints_among_polygons_leave_their_boxes_and_polygons_stay(
    tmp_path: Path, visible: object, every: int
) -> None:
    found = boxes(120, 4)
    points = keypoint_lines(found, visible, SPREAD[:5])
    lines = [points[n] if n % every == 0 else outline(box, 4 + n % 6, n) for n, box in enumerate(found)]
    if visible is None:  # of as many numbers as the keypoints are no polygons
        lines = [outline(found[n], 8, n) if n % every and n % 6 == 3 else line for n, line in enumerate(lines)]
    path = a_set(tmp_path, lines)
    counts = Counter(problem.kind for problem in check(path, ["train"]).problems)
    assert counts == {TAKEN: 120 // every, AROUND_IT: 120 - 120 // every}
    wide = {n for n in range(120) if n % every == 0}
    order = [n for number in range(4) for n in range(number, 120, 4)]
    for n, row in zip(order, rows(path)):
        assert np.abs(row[:2] - found[n, :2]).max() < (1e-5 if n in wide else 0.1)


def test_keypoints_and_polygons_of_as_many_numbers_are_not_guessed(tmp_path: Path) -> None:
    found = boxes(80, 6) * [1, 1, 0.4, 0.4]
    points = keypoint_lines(found, None, SPREAD[:5])
    lines = [points[n] if n % 2 else outline(box, 7, n) for n, box in enumerate(found)]
    for more in ([], [outline(box, 6, n) for n, box in enumerate(boxes(40, 9))]):
        errors = check(a_set(tmp_path / str(len(more)), lines + more), ["train"]).errors
        assert len(errors) == 80
        assert all("keypoints" in error.detail and "polygon" in error.detail for error in errors)
        assert "kpt_shape: []" in errors[0].todo
        assert "keep the first five numbers" in errors[0].todo


def test_keypoints_of_two_lengths_that_lie_outside_their_boxes_are_not_guessed(tmp_path: Path) -> None:
    found = boxes(60, 2) * [1, 1, 0.4, 0.4]
    errors = check(a_set(tmp_path, of_two_kinds(found, None, (5, 21))), ["train"]).errors
    assert not errors, "points in their boxes are"
    wild = [keypoint_lines(found[n : n + 1], None, 3 * SPREAD[: (5, 21)[n % 2]])[0] for n in range(60)]
    errors = check(a_set(tmp_path / "wild", wild), ["train"]).errors
    assert len(errors) == 60
    assert all("a box with keypoints or a polygon" in error.detail for error in errors)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [6, 40, 400])
def test_polygons_of_all_lengths_are_polygons(tmp_path: Path, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    found = boxes(count, seed)
    path = a_set(tmp_path, [outline(box, int(rng.integers(3, 12)), int(rng.integers(99))) for box in found])
    assert kinds(path) == {AROUND_IT}


def test_real_polygons_are_polygons() -> None:
    """COCO's segmentations, all of them and few, as they are and of three to eight points."""
    source = shared("datasets/coco128/coco_annotations/instances_train2017.json")
    content = json.loads(source.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    parts = [
        np.array(part).reshape(-1, 2) / sizes[entry["image_id"]]
        for entry in content["annotations"]
        if isinstance(entry["segmentation"], list)
        for part in entry["segmentation"]
    ]
    rng = np.random.default_rng(0)
    fewer = [part[np.linspace(0, len(part), rng.integers(3, 9), endpoint=False).astype(int)] for part in parts]
    for points in (parts, fewer):
        lines = [[0.0, *part.ravel().tolist()] for part in points]
        for count in (len(lines), *[20, 80, 200] * 5):
            chosen = [lines[int(place)] for place in rng.choice(len(lines), count, replace=False)]
            found = columns_of(chosen)
            assert {found.of(len(line)).kind for line in chosen} == {POLYGON}


def test_files_of_another_form_among_good_ones_stop(tmp_path: Path) -> None:
    found = boxes(240)
    sides = [0, 2, 1, 3]
    for name, form in (("corners", corners), ("sides", lambda box: corners(box)[sides])):
        pictures: list[tuple[np.ndarray, str | None]] = []
        for number in range(60):
            several = [form(box) if number % 3 == 0 else box for box in found[number::60]]
            pictures.append((GREY + number, "\n".join(text(0, *map(float, box)) for box in several) + "\n"))
        (error,) = check(write_set(tmp_path / name, {"train": pictures}), ["train"]).errors
        assert error.kind.startswith(f"some label files look like the {name} ")
        assert int(error.file.stem[-3:]) % 3 == 0
        assert "w = x2 - x1, h = y2 - y1" in error.todo


def test_careless_boxes_of_large_objects_are_no_corners(tmp_path: Path) -> None:
    """Large objects make sense as corners; those that reach out do no more often than the others."""
    rng = np.random.default_rng(2)
    for name, low in (("large", 0.6), ("all", 0.1)):
        sides = rng.uniform(low, 0.95, (200, 2))
        found = np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=1)
        found[:30, :2] += rng.uniform(-0.15, 0.15, (30, 2))
        pictures: list[tuple[np.ndarray, str | None]] = [
            (GREY + number, text(0, *map(float, np.clip(found[number], 0, 1))) + "\n") for number in range(160)
        ]
        assert not check(write_set(tmp_path / name, {"train": pictures}), ["train"]).errors
