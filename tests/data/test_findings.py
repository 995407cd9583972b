"""What shows only when many pictures or all splits are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data import contents, remembered
from data.copies import copies
from data.findings import all_alike, below_a_pixel
from data.folds import folds_of, without_fold
from data.labels import CheckReport, check
from data.problems import Problem
from data.spec import DataSpec
from tests.data.made import write_picture, write_set

ONE = "0 .5 .5 .5 .5\n"


def grey(value: int) -> np.ndarray:
    return np.full((8, 12, 3), 40 + value, np.uint8)


def found(report: CheckReport, kind: str) -> list[Problem]:
    return [problem for problem in [*report.problems, *report.notes] if problem.kind.startswith(kind)]


def crowd(count: int, label: int = 0) -> str:
    return "".join(f"{label} {(number + 0.5) / count:.6f} .5 {0.5 / count:.6f} .5\n" for number in range(count))


def test_more_objects_of_a_class_than_are_scored_are_told(tmp_path: Path) -> None:
    pictures: list[tuple[np.ndarray, str | None]] = [(grey(1), crowd(130)), (grey(2), crowd(70) + crowd(70, 1))]
    path = write_set(tmp_path, {"train": [(grey(3), ONE)], "val": pictures})
    (problem,) = found(check(path), "more than 100 objects of a class")
    assert (problem.file.name, problem.detail) == ("val000.png", "130 of a")
    assert "max_det: 130" in problem.todo
    path.write_text(path.read_text() + "max_det: 130\n")
    assert check(path).spec.max_det == 130
    assert not found(check(path), "more than")


def test_pictures_that_share_a_label_file_are_named(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(grey(1), ONE), (grey(2), ONE)]})
    write_picture(tmp_path / "images/train/train000.bmp", grey(3))
    (problem,) = found(check(path, ["train"]), "label file of several pictures")
    assert (problem.file.name, problem.detail) == ("train000.txt", "train000.bmp, train000.png")


def test_classes_without_objects_are_told_by_split(tmp_path: Path) -> None:
    pictures = {
        "train": [(grey(1), ONE), (grey(2), "2 .5 .5 .5 .5\n")],
        "val": [(grey(3), "0 .5 .5 .5 .5\n1 .5 .5 .1 .1\n")],
    }
    report = check(write_set(tmp_path, pictures, "[a, b, c, d]"))
    assert not report.problems
    said = {(problem.kind.rsplit(" ", 1)[-1], problem.detail) for problem in found(report, "class without")}
    assert said == {("train", "class 1, b"), ("val", "class 2, c"), ("object", "class 3, d")}


def test_leaks_are_found_between_all_splits(tmp_path: Path) -> None:
    pictures = {
        "train": [(grey(1), ONE)],
        "val": [(grey(2), ONE), (grey(1), ONE)],
        "test": [(grey(2), ONE), (grey(4), ONE)],
    }
    report = check(write_set(tmp_path, pictures))
    assert [problem.file.name for problem in found(report, "picture of 'val' is also trained on")] == ["val001.png"]
    assert [problem.file.name for problem in found(report, "picture of 'test' is also in 'val'")] == ["test000.png"]


def test_copies_read_each_file_once_however_many_are_of_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures without compression are all of one size; comparing each with each would take minutes."""
    monkeypatch.setattr(remembered, "YOUNG", 0)
    for number in range(60):
        (tmp_path / f"a{number}").write_bytes(number.to_bytes(4, "big"))
        (tmp_path / f"b{number}").write_bytes((number + 30).to_bytes(4, "big"))
    read: list[Path] = []
    digest = contents._read
    monkeypatch.setattr(contents, "_read", lambda path, *how: read.append(path) or digest(path, *how))
    for _ in range(2):  # the second look reads none
        same = copies(sorted(tmp_path.glob("b*")), sorted(tmp_path.glob("a*")))
        expected = {f"b{n}": f"a{n + 30}" for n in range(30)}
        assert {copy.name: original.name for copy, original in same.items()} == expected
        assert len(read) == len(set(read)) == 120


def test_large_files_of_one_size_are_glimpsed_at_and_only_those_that_seem_alike_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(100_000)
    for number in range(20):
        (tmp_path / f"a{number}").write_bytes(body + bytes([number]) + body)
        (tmp_path / f"b{number}").write_bytes(body + bytes([number + 15]) + body)
    (tmp_path / "b99").write_bytes(body[:60_000] + b"!" + body[60_001:] + bytes([3]) + body)
    read: list[Path] = []
    digest = copies.__globals__["_digest"]
    monkeypatch.setitem(copies.__globals__, "_digest", lambda path: read.append(path) or digest(path))
    same = copies(sorted(tmp_path.glob("b*")), sorted(tmp_path.glob("a*")))
    assert {copy.name: original.name for copy, original in same.items()} == {f"b{n}": f"a{n + 15}" for n in range(5)}
    assert {path.name for path in read} == {
        *(f"b{n}" for n in range(5)),
        *(f"a{n + 15}" for n in range(5)),
        "b99",
        "a3",
    }


def test_loops_of_links_and_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(grey(1), ONE)], "val": [(grey(2), ONE)]})
    (tmp_path / "images/train/round").symlink_to(tmp_path / "images")
    (tmp_path / "images/train/phone.HEIC").write_bytes(b"x")
    report = check(path)
    assert len(report.scans["train"].pictures) == 1
    assert [problem.file.name for problem in found(report, "link that leads back")] == ["round"]
    assert [problem.file.name for problem in found(report, "picture of a kind that is not read")] == ["phone.HEIC"]


def test_files_without_a_line_that_is_a_box_are_not_called_empty(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(grey(1), ONE), (grey(2), "0 1 2 3 4 5\n"), (grey(3), ""), (grey(4), None)]})
    counts = check(path, ["train"]).scans["train"].counts
    assert counts.endswith("1 without a label file, 1 with an empty one, 1 without a line that is a box")


def rows(*boxes: tuple[float, float, float, float]) -> np.ndarray:
    return np.array([(0, *box) for box in boxes], np.float32).reshape(-1, 5)


def test_boxes_of_another_unit_are_smaller_than_a_pixel() -> None:
    pictures, shapes = [Path("a.jpg"), Path("b.jpg")], np.array([[100, 200], [100, 200]])
    tiny, right = rows((0.005, 0.005, 0.002, 0.002)), rows((0.5, 0.5, 0.2, 0.2))
    assert not below_a_pixel(pictures, shapes, [right, tiny])
    (first, *_) = below_a_pixel(pictures, shapes, [tiny, np.concatenate([tiny, right])])
    assert (first.file, first.detail) == (Path("a.jpg"), "1 of 1")
    assert "smaller than a pixel" in first.kind
    assert not below_a_pixel(pictures, shapes, [rows(), rows()])


def test_one_label_file_over_all_others_is_told() -> None:
    pictures = [Path(f"{number}.jpg") for number in range(20)]
    same, other, whole = rows((0.5, 0.5, 0.2, 0.2)), rows((0.4, 0.5, 0.2, 0.2)), rows((0.5, 0.5, 1, 1))
    (found,) = all_alike(pictures, [rows(), *[same] * 18, other])
    assert found.detail == "18 of 19 pictures"
    assert not all_alike(pictures, [*[same] * 17, *[other] * 3])
    assert not all_alike(pictures, [whole] * 20), "a set of classes, converted"
    assert not all_alike(pictures[:4], [same] * 4)


def test_copies_in_a_split_with_other_labels_are_a_contradiction(tmp_path: Path) -> None:
    two = ONE + "1 .2 .2 .1 .1\n"
    pictures: list[tuple[np.ndarray, str | None]] = [
        (grey(1), ONE),
        (grey(1), "1 .5 .5 .5 .5\n"),
        (grey(1), ONE),
        (grey(1), "0 .5 .5 .504 .5\n"),
        (grey(2), two),
        (grey(2), ONE),
        (grey(2), None),
        (grey(2), "0 .4 .5 .5 .5\n1 .2 .2 .1 .1\n"),
        (grey(3), ONE),
    ]
    path = write_set(tmp_path, {"train": pictures, "val": [(grey(4), ONE), (grey(4), "")]})
    report = check(path)
    said = {(problem.file.name, problem.detail) for problem in found(report, "copy of another picture of 'train' with")}
    first, second = (tmp_path / f"images/train/train00{number}.png" for number in (0, 4))
    assert said == {
        ("train001.png", f"same bytes as {first}, other classes"),
        ("train005.png", f"same bytes as {second}, 2 and 1 boxes"),
        ("train006.png", f"same bytes as {second}, 2 and 0 boxes"),
        ("train007.png", f"same bytes as {second}, other boxes"),
    }
    (count,) = found(report, "2 copies of other pictures of 'train', with the same labels")
    assert (count.file.name, count.detail) == ("train002.png", f"the first; same bytes as {first}")
    assert [each.file.name for each in found(report, "copy of another picture of 'val'")] == ["val001.png"]
    assert found(check(path, ["train"]), "copy of another"), "a training says it too"


def test_one_copy_is_told_as_one(tmp_path: Path) -> None:
    (problem,) = check(write_set(tmp_path, {"train": [(grey(1), ONE), (grey(1), ONE)]}), ["train"]).problems
    assert problem.kind == "a copy of another picture of 'train', with the same labels"


def test_leaks_with_other_labels_are_told_so(tmp_path: Path) -> None:
    pictures = {"train": [(grey(1), ONE)], "val": [(grey(2), ONE), (grey(1), "")], "test": [(grey(2), ONE + ONE)]}
    report = check(write_set(tmp_path, pictures))
    (leak,) = found(report, "picture of 'val' is also trained on")
    assert leak.detail.endswith("train000.png, and other labels: 1 and 0 boxes")
    (leak,) = found(report, "picture of 'test' is also in 'val'")
    assert leak.detail.endswith("val000.png"), "the same box twice is one box"


def test_a_line_of_a_list_that_comes_again_counts_again_in_train_only(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(grey(n), ONE) for n in range(3)], "val": [(grey(9), ONE), (grey(8), ONE)]})
    (tmp_path / "train.txt").write_text("images/train/train000.png\n./images/train/train001.png\n" * 2)
    (tmp_path / "val.txt").write_text("images/val/val000.png\n" * 3)
    path.write_text("names: [a]\ntrain: [images/train, train.txt]\nval: val.txt\n")
    report = check(path)
    assert [each.name for each in report.scans["train"].pictures] == [
        "train000.png",
        "train001.png",
        "train002.png",
        "train000.png",
        "train001.png",
    ]
    assert (report.scans["train"].boxes, len(report.scans["train"].shapes), len(report.scans["val"].pictures)) == (
        5,
        5,
        1,
    )
    said = {problem.kind: (problem.file.name, problem.detail) for problem in found(report, "lines of the lists")}
    assert said == {
        "lines of the lists of 'train' name pictures again; each is trained on as often as it is named": (
            "train000.png",
            "the first of 2",
        ),
        "lines of the lists of 'val' name pictures again; each picture counts once": ("val000.png", "the first of 2"),
    }
    assert len(report.problems) == 2, "a picture is no copy of itself, nor a label file that of two"


def test_a_teacher_of_a_fold_has_seen_no_picture_of_it_however_often_it_is_listed() -> None:
    pictures = tuple(Path(name) for name in "abcdeabcde")
    spec = DataSpec(("a",), {"train": pictures}, Path("data.yaml"))
    for fold in range(2):
        left = without_fold(spec, pictures, fold, 2).splits["train"]
        held = {path for path, own in zip(pictures, folds_of(10, 2), strict=True) if own == fold}
        assert not held & set(left)
