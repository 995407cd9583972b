from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data import label_files, remembered
from data.dataset import Dataset
from data.label_lines import Reading, read_label_file
from data.labels import check, read_labels
from data.pictures import picture_shapes
from data.problems import ERROR, LEFT_OUT, WARNING, Problem
from data.spec import load_spec
from tests.data.made import write_picture, write_set
from tests.shared import shared

GREY = np.full((40, 60, 3), 90, np.uint8)
GOOD = "0 .5 .5 .5 .5\n"


def noisy(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3)).astype(np.uint8)


def read(tmp_path: Path, text: str) -> tuple[np.ndarray, list[Problem]]:
    (tmp_path / "x.txt").write_text(text)
    return read_labels(tmp_path / "x.jpg", "ab")


@pytest.mark.parametrize(
    ("wrong", "kind", "detail"),
    [
        ("2 .5 .5 .5 .5", "class out of range", "class 2; 0 to 1 allowed"),
        ("-1 .5 .5 .5 .5", "class out of range", "class -1"),
        ("0.5 .5 .5 .5 .5", "class out of range", "class 0.5"),
        ("0 1.2 .5 .1 .1", "coordinates outside 0..1", "1.2"),
        ("0 -.2 .5 .1 .1", "coordinates outside 0..1", "-.2"),
        ("0 320 240 50 50", "coordinates outside 0..1", "320 240 50 50"),
        ("0 nan .5 .1 .1", "not a finite number", "nan"),
        ("0 .5 inf .1 .1", "not a finite number", "inf"),
        ("nan .5 .5 .1 .1", "not a finite number", "nan"),
        ("0 .5 .5 .1 wide", "not a number", "'wide'"),
        ("0 .5 .5 .1", "needs 5 numbers", "4 given"),
        ("0 .5 .5 .1 .1 .9", "needs 5 numbers", "6 given"),
        ("0 .5 .5 -.1 .1", "negative size", "-.1"),
        ("0 .1 .1 .9 .1 3 .2", "coordinates outside 0..1", "3 .2"),
    ],
)
def test_a_wrong_line_is_an_error_with_its_line_and_value(tmp_path: Path, wrong: str, kind: str, detail: str) -> None:
    rows, problems = read(tmp_path, GOOD + "\n" + wrong + "\n1 .5 .5 .2 .2\n")
    assert rows[:, 0].tolist() == [0, 1], "the good lines are still read"
    (error,) = [problem for problem in problems if problem.severity == ERROR]
    assert kind in error.kind
    assert detail in error.detail
    assert (error.file, error.line) == (tmp_path / "x.txt", 3)
    assert f"{tmp_path / 'x.txt'}:3: " in str(error)


def test_rounding_past_the_edge_is_cut_with_a_warning(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, "0 .9 .5 .22 .5\n0 .5 .5 1.002 .5\n1 .25 .25 .500001 .5\n")
    assert [(problem.severity, problem.line) for problem in problems] == [(WARNING, 1), (WARNING, 2)]
    corners = np.concatenate([rows[:, 1:3] - rows[:, 3:5] / 2, rows[:, 1:3] + rows[:, 3:5] / 2], axis=1)
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6
    np.testing.assert_allclose(corners[0], [0.79, 0.25, 1.0, 0.75], atol=1e-6)


def test_zero_size_and_duplicates_are_dropped_with_a_warning(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, GOOD + "0 .2 .2 0 .1\n" + GOOD + "1 .5 .5 .5 .5\n")
    assert rows[:, 0].tolist() == [0, 1], "the same box under another class is another object"
    assert [(problem.severity, problem.line) for problem in problems] == [(WARNING, 2), (WARNING, 3)]


def test_polygons_become_the_box_around_them(tmp_path: Path) -> None:
    rows, problems = read(tmp_path, "1 .1 .2 .5 .3 .4 .8\n")
    np.testing.assert_allclose(rows, [[1, 0.3, 0.5, 0.4, 0.6]], atol=1e-6)
    assert [problem.severity for problem in problems] == [WARNING]


def test_no_file_an_empty_file_and_a_byte_order_mark(tmp_path: Path) -> None:
    for text in (None, "", " \n\n"):
        if text is not None:
            (tmp_path / "x.txt").write_text(text)
        rows, problems = read_labels(tmp_path / "x.jpg", "ab")
        assert rows.shape == (0, 5)
        assert not problems
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbf1 .5 .5 .1 .1\r\n")
    rows, problems = read_labels(tmp_path / "x.jpg", "ab")
    assert rows[:, 0].tolist() == [1]
    assert not problems


WORDS = st.sampled_from(["0", "1", ".5", "x", "1e999", "nan"])
NUMBERS = st.one_of(st.floats(-0.1, 1.1).map(str), st.floats().map(str), WORDS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.lists(st.lists(NUMBERS, min_size=4, max_size=7).map(" ".join)).map("\n".join)))
def test_whatever_a_file_holds_only_good_boxes_come_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    rows, problems = read_labels(tmp_path / "x.jpg", "ab")
    assert rows.shape[1] == 5
    assert np.isin(rows[:, 0], [0, 1]).all()
    assert ((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1)).all()
    assert (rows[:, 3:] > 0).all()
    dropped = {problem.line for problem in problems if problem.severity == ERROR or "dropped" in problem.kind}
    lines = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff").split("\n")
    assert len(rows) + len(dropped) == sum(bool(line.split()) for line in lines), "each line is a box or is named"


def test_errors_stop_the_loading_with_counts_and_places(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(GREY, GOOD + "7 .5 .5 .1 .1\n"), (GREY, "0 .5 .5 .1\n8 .5 .5 .1 .1\n")]})
    with pytest.raises(UserError) as caught:
        Dataset(path, "train", (32, 32))
    message = str(caught.value)
    assert "2 x class out of range" in message
    assert "1 x needs 5 numbers" in message
    assert "train000.txt:2" in message
    assert "train001.txt:1" in message
    assert "train001.txt:2" in message
    (tmp_path / "labels/train/train001.txt").write_text(GOOD)
    with pytest.raises(UserError, match=r"train000\.txt:2: class out of range \(class 7; 0 to 1 allowed: .7 "):
        Dataset(path, "train", (32, 32))


def test_warnings_are_one_summary_with_counts_and_examples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(tmp_path, {"train": [(GREY, GOOD + GOOD)] * 9})
    with caplog.at_level(logging.WARNING, "thinyolo"):
        assert len(Dataset(path, "train", (32, 32))) == 9
    (record,) = caplog.records
    text = record.getMessage()
    assert "9 x the same box twice" in text
    assert "train000.txt:2" in text
    assert "and 4 more" in text


def test_damaged_pictures_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(tmp_path, {"train": [(noisy(number), GOOD) for number in range(5)]}, suffix=".jpg")
    folder = tmp_path / "images/train"
    whole = (folder / "train001.jpg").read_bytes()
    (folder / "train001.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "train002.jpg").write_bytes(b"no picture at all")
    (folder / "train003.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "thinyolo"):
        dataset = Dataset(path, "train", (32, 32))
    assert [picture.name for picture in dataset.pictures] == ["train000.jpg", "train004.jpg"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "3 x picture left out" in record.getMessage()
    assert all(f"train00{number}.jpg" in record.getMessage() for number in (1, 2, 3))


def test_a_truncated_png_is_found(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", noisy(0))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    shape, reason = picture_shapes([tmp_path / "a.png", tmp_path / "b.png"])
    assert shape == (64, 96)
    assert isinstance(reason, str)
    assert "truncated" in reason


def test_listed_pictures_that_are_absent_are_left_out(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(GREY, GOOD)]})
    (tmp_path / "list.txt").write_text("images/train/train000.png\nimages/train/gone.png\n")
    path.write_text("train: list.txt\nnames: [a]\n")
    (problem,) = check(path, ["train"]).problems
    assert (problem.severity, problem.file.name) == (LEFT_OUT, "gone.png")
    assert "does not exist" in problem.detail


def test_what_was_found_about_pictures_is_remembered_until_they_change(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "YOUNG", 0)
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    write_picture(pictures[0], GREY)
    pictures[1].write_bytes(b"no picture")
    shape, reason = picture_shapes(pictures)
    assert shape == (40, 60)
    assert isinstance(reason, str)
    (memory,) = (path for path in (own_cache / "checked").iterdir() if b"height" in path.read_bytes())
    with np.load(memory) as parts:
        rows, more = parts["rows"], parts["more"]

    def altered(more: bytes = more.tobytes(), **fields: object) -> list[object]:
        changed = rows.copy()
        for name, value in fields.items():
            changed[name][0] = value
        np.savez(memory, rows=changed, more=np.frombuffer(more, np.uint8))
        return list(picture_shapes(pictures))

    assert altered(height=41, width=61) == [(41, 61), reason], "the second look comes from the memory"
    for fields in ({"height": -1}, {"bits": 0}, {"notes": 255}, {"low": 1.0}, {"height": 0, "width": 0, "bits": 0}):
        assert altered(**fields) == [(40, 60), reason]
    for damage in (b"", b"{", b"[]", b'{"1": 2}', b"[" * 100_000, b"\xff"):
        assert altered(damage) == [(40, 60), reason]
    write_picture(pictures[0], noisy(0))
    assert picture_shapes(pictures) == [(64, 96), reason]


def test_what_label_files_hold_is_remembered_until_they_change(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "YOUNG", 0)
    files = [str(tmp_path / f"{name}.txt") for name in "abc"]
    texts = ("0 .5 .5 .2 .2\n1 .25 .5 .125 .5\n", "0 .5 .5 .2 nan\n", "")
    for file, text in zip(files, texts, strict=True):
        Path(file).write_text(text)

    def found() -> list[object]:
        return [None if rows is None else rows.tolist() for rows in label_files.read_label_files(files).boxes]

    before = found()
    assert [None if rows is None else len(rows) for rows in before] == [2, None, 0]  # type: ignore[arg-type]
    (memory,) = (own_cache / "checked").iterdir()
    with np.load(memory) as parts:
        rows, more = parts["rows"], parts["more"]
    boxes = more.view(np.float32).reshape(-1, 5)

    def altered(counts: tuple[int, ...] = (2, -1, 0), **cells: float) -> list[object]:
        changed, others = rows.copy(), boxes.copy()
        changed["boxes"] = counts
        for name, value in cells.items():
            others[0, "cxywh".index(name)] = value
        np.savez(memory, rows=changed, more=np.frombuffer(others.tobytes(), np.uint8))
        return found()

    assert altered(x=0.375)[0] == [[0, 0.375, 0.5, boxes[0, 3], boxes[0, 4]], boxes[1].tolist()]
    for cells in ({"c": -1}, {"c": 0.5}, {"x": 1.5}, {"w": np.nan}, {"h": -0.1}, {"c": np.inf}):
        assert altered(**cells) == before
    for counts in ((1, -1, 0), (2, 1, 0), (2**31 - 1, -1, 0)):
        assert altered(counts) == before
    Path(files[0]).write_text(texts[0].replace("0 ", "2 ", 1))
    assert found()[0] != before[0]


@pytest.mark.parametrize(
    "text",
    [
        "0 .5 .5 .2 .2\n",
        "0 .5 .5 .2 .2\r\n\r\n1 .1 .1 .1 .1",
        " 1\t1e-1 .5\f.2 .2 \n\n",
        "\ufeff0 .5 .5 .2 .2\n",
        "0 .5 .5 .2 .2\n0 .5 .5000001 .2 .2\n",
        "0 .5 .5 .2 .2\n0 .5 .500001 .2 .2\n",
        "0 .1 .5 .2000001 .2\n",
        "0 .1 .5 .2 .2\n",
        "0 .5 .5 1e-6 .2\n",
        "0 .5 .5 9e-7 .2\n",
        "1_0 .5 .5 .2 .2\n",
        "9 .5 .5 .2 .2\n",
        "0.5 .5 .5 .2 .2\n",
        "-0 .5 .5 .2 .2\n",
        "0 .5 .5 nan .2\n",
        "inf .5 .5 .2 .2\n",
        "0 .5 .5 .2 .2 .9\n",
        "0 .1 .1 .2 .1 .3 .4\n",
        "0 .5 .5 -.2 .2\n",
        "\u0663 .5 .5 .2 .2\n",
        "0 .5\x1c.5 .2 .2\n",
        "0 .5 .5 .2 .2\x85 0 .1 .1 .1 .1\n",
        "0 .5 .5 .2 .2\r1 .1 .1 .1 .1\n",
        "",
        "\n \n",
    ],
)
def test_the_short_way_through_label_files_is_that_of_every_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    (short,) = label_files.read_label_files([str(path)]).boxes
    labels, problems = read_label_file(path, 2, Reading())
    if short is not None and (not len(short) or short[:, 0].max() < 2):
        assert not problems
        np.testing.assert_array_equal(short, labels)
        assert short.dtype == labels.dtype
    elif not problems:
        assert not text.isascii() or "\x1c" in text, "plain files are read the short way"


def test_background_pictures_are_counted_and_empty_sets_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(GREY, GOOD), (GREY, ""), (GREY, None)], "val": [(GREY, None)]})
    report = check(path)
    assert report.scans["train"].background == 2
    assert report.scans["train"].boxes == 1
    assert report.scans["train"].per_class(2).tolist() == [1, 0]
    assert [problem.kind for problem in report.errors] == ["no picture of 'val' has a box"]
    with pytest.raises(UserError, match=r"no picture of 'val' has a box .*val000\.txt"):
        report.announce()
    assert len(Dataset(path, "train", (32, 32))) == 3


def test_the_report_logs_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(tmp_path, {"train": [(GREY, GOOD), (GREY, "")]})
    with caplog.at_level(logging.INFO, "thinyolo"):
        check(path, ["train"]).announce()
    assert "train: 2 pictures (1 background), 1 boxes" in caplog.text


def test_labels_without_a_picture_are_named(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(GREY, GOOD)]})
    (tmp_path / "labels/train/ghost.txt").write_text(GOOD)
    (problem,) = check(path).warnings
    assert problem.file.name == "ghost.txt"
    assert problem.kind == "labels without a picture"


def test_validating_on_training_pictures_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(
        tmp_path, {"train": [(noisy(1), GOOD), (noisy(2), GOOD)], "val": [(noisy(2), GOOD), (noisy(3), GOOD)]}
    )
    (same_bytes,) = check(path).warnings
    assert same_bytes.file.name == "val000.png"
    assert "train001.png" in same_bytes.detail
    path.write_text("train: images/train\nval: images/train\nnames: [a]\n")
    same_files = check(path).warnings
    assert [problem.detail for problem in same_files] == ["the same file"] * 2
    assert not check(path).errors
    Dataset(path, "val", (32, 32))
    assert "2 x picture of 'val' is also trained on" in caplog.text


def test_single_class_accepts_every_class_of_the_files_and_no_other(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(GREY, "1 .5 .5 .5 .5\n")]})
    assert Dataset(load_spec(path, single_cls=True), "train", (32, 32))[0].boxes[:, 0].tolist() == [0]
    (tmp_path / "labels/train/train000.txt").write_text("2 .5 .5 .5 .5\n")
    with pytest.raises(UserError, match="class out of range"):
        Dataset(load_spec(path, single_cls=True), "train", (32, 32))


@pytest.mark.parametrize("name", ["bccd", "coco128"])
def test_every_line_of_the_real_data_sets_is_a_box(name: str) -> None:
    root = shared(f"datasets/{name}")
    report = check(root / "data.yaml")
    assert not report.errors
    lines = sum(len(path.read_text().split("\n")) - 1 for path in (root / "labels").rglob("*.txt"))
    dropped = sum(problem.severity == WARNING and "dropped" in problem.kind for problem in report.problems)
    assert sum(found.boxes for found in report.scans.values()) + dropped == lines
