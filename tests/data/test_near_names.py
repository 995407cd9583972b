"""Labels under nearly the right name are told with the picture they seem to belong to, and do not become background."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.convert import yolo_to_yolo
from data.labels import ERROR, WARNING, check
from data.near_names import nearly_named
from tests.data.made import write_picture, write_set

GOOD = "0 .5 .5 .5 .5\n"
ERRED = "labels under nearly the names of pictures, which would count as background"
DOUBTED = "labels that may be those of pictures without any, which count as background"


def a_set(tmp_path: Path, names: dict[str, str | None]) -> Path:
    """Four pictures with labels, and those of `names` -> the file with their labels (None: none)."""
    pictures: list[tuple[np.ndarray, str | None]] = [(np.full((8, 12, 3), 40 + n, np.uint8), GOOD) for n in range(4)]
    path = write_set(tmp_path, {"train": pictures})
    for number, (name, label) in enumerate(names.items()):
        write_picture(tmp_path / f"images/train/{name}", np.full((8, 12, 3), 90 + number, np.uint8))
        if label is not None:
            (tmp_path / "labels/train" / label).write_text(GOOD)
    return path


NEARLY = {
    "capitals at the end": ("a.png", "a.TXT"),
    "capitals": ("Street_1.png", "street_1.txt"),
    "capitals of both": ("STREET.PNG", "Street.Txt"),
    "the picture's ending": ("a.png", "a.png.txt"),
    "another picture's ending": ("a.png", "a.JPG.txt"),
    "the ending twice": ("a.png", "a.txt.txt"),
    "a blank": ("a.png", "a .txt"),
    "a blank before": ("a.png", " a.txt"),
    "a blank behind": ("a.png", "a.txt "),
    "Unicode": (unicodedata.normalize("NFC", "h\u00e9.png"), unicodedata.normalize("NFD", "h\u00e9.txt")),
    "Unicode, the other way": (
        unicodedata.normalize("NFD", "h\u00e9.png"),
        unicodedata.normalize("NFC", "h\u00e9.txt"),
    ),
}


@pytest.mark.parametrize("case", NEARLY)
def test_labels_under_nearly_the_right_name_stop_and_are_paired(tmp_path: Path, case: str) -> None:
    picture, label = NEARLY[case]
    (problem,) = check(a_set(tmp_path, {picture: label, "plain.png": None}), ["train"]).errors
    assert (problem.severity, problem.kind, problem.file.name) == (ERROR, ERRED, label)
    assert problem.detail.startswith(f"1 picture; the labels of {picture} seem to be in {label!r}")
    assert ("Unicode" in problem.detail) == ("Unicode" in case)
    right = tmp_path / "labels/train" / f"{picture.rpartition('.')[0]}.txt"
    assert str(right) in problem.todo
    rest = [each for each in check(tmp_path / "data.yaml", ["train"]).problems if each.severity == WARNING]
    assert [(each.kind, each.file.name) for each in rest] == [
        ("no label file: the picture counts as background", "plain.png")
    ], "neither of the pair is told a second time"
    (tmp_path / "labels/train" / label).rename(right)
    assert not check(tmp_path / "data.yaml", ["train"]).errors


def test_many_are_told_once_with_their_number(tmp_path: Path) -> None:
    path = a_set(tmp_path, {f"{n}.png": f"{n}.TXT" for n in range(7)})
    (problem,) = check(path, ["train"]).problems
    assert problem.detail.startswith("7 pictures; the labels of 0.png seem to be in '0.TXT'")
    assert problem.todo.endswith("and the others alike")


@pytest.mark.parametrize(("picture", "label"), [("img_001.png", "img_1.txt"), ("a b-c.png", "a_b_c.txt")])
def test_what_may_be_another_picture_is_a_warning(tmp_path: Path, picture: str, label: str) -> None:
    (problem,) = check(a_set(tmp_path, {picture: label}), ["train"]).problems
    assert (problem.severity, problem.kind, problem.file.name) == (WARNING, DOUBTED, label)
    assert problem.todo.startswith("look whether they are; if so, rename them")


def test_files_that_belong_to_a_picture_or_may_belong_to_two_are_paired_with_none(tmp_path: Path) -> None:
    path = a_set(tmp_path, {"a.png": "a.txt", "A.png": None, "b.png": None, "B.png": "b.png.txt", "c.png": "d.txt"})
    (tmp_path / "labels/train/notes.TXT").write_text("mine")
    problems = check(path, ["train"]).problems
    assert not [problem for problem in problems if problem.kind in (ERRED, DOUBTED)]
    assert {problem.file.name for problem in problems} == {"A.png", "b.png", "B.png", "b.png.txt", "c.png", "d.txt"}
    assert nearly_named([tmp_path / "gone/images/x.png"]) == []


def test_where_no_label_has_the_right_name_the_error_says_how_to_rename(tmp_path: Path) -> None:
    path = a_set(tmp_path, {})
    for file in sorted((tmp_path / "labels/train").iterdir()):
        file.rename(file.with_name(file.name.upper().replace(".TXT", ".txt")))
    (problem,) = check(path, ["train"]).errors
    assert "mv " in problem.todo
    assert "TRAIN000.txt" in problem.todo


def test_pictures_are_not_divided_without_such_labels(tmp_path: Path) -> None:
    a_set(tmp_path, {"a.png": "a.TXT"})
    with pytest.raises(UserError, match="labels under nearly the names of pictures"):
        yolo_to_yolo(tmp_path, tmp_path / "out", ["a", "b"])


def test_a_note_beside_a_picture_is_no_label_file(tmp_path: Path) -> None:
    path = a_set(tmp_path, {"notes.png": "NOTES.TXT"})
    (tmp_path / "labels/train/NOTES.TXT").write_text("taken on a rainy day by the old bridge\n")
    report = check(path, ["train"])
    assert not report.errors
    assert DOUBTED in {problem.kind for problem in report.problems}
    (tmp_path / "labels/train/NOTES.TXT").write_text("")
    assert [error.kind for error in check(path, ["train"]).errors] == [ERRED]
