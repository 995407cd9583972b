"""Labels that are not found must not become background without a word; pictures are counted once."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.dataset import Dataset
from data.labels import ERROR, WARNING, check, read_labels
from data.spec import find_label, label_places, load_spec
from tests.data.made import write_picture, write_set

GOOD = "0 .5 .5 .5 .5\n"


def pictures(folder: Path, labels: Path | None, count: int = 6, text: str = GOOD, first: int = 0) -> None:
    """`count` different pictures in `folder`, their label files in `labels` (None: none)."""
    for number in range(first, first + count):
        seed = zlib.crc32(f"{folder} {number}".encode())
        noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3))
        write_picture(folder / f"{number}.png", noise.astype(np.uint8))
        if labels is not None:
            labels.mkdir(parents=True, exist_ok=True)
            (labels / f"{number}.txt").write_text(text)


def described(root: Path, train: str, val: str = "images/val") -> Path:
    """The yaml of a set whose val is good."""
    pictures(root / "images/val", root / "labels/val", count=2)
    (root / "data.yaml").write_text(f"train: {train}\nval: {val}\nnames: [a]\n")
    return root / "data.yaml"


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("images/x.jpg", "labels/x.txt"),
        ("images/train/deep/x.jpg", "labels/train/deep/x.txt"),
        ("train/images/x.jpg", "train/labels/x.txt"),
        ("more/JPEGImages/x.jpg", "more/labels/x.txt"),
        ("VOCdevkit/VOC2007/JPEGImages/x.jpg", "VOCdevkit/VOC2007/labels/x.txt"),
        ("JPEGImages/day1/x.jpg", "labels/day1/x.txt"),
        ("raw/x.jpg", "labels/x.txt"),
        ("set/raw/train/x.jpg", "set/labels/train/x.txt"),
        ("images/set/JPEGImages/x.jpg", "images/set/labels/x.txt"),
        ("raw/set/images/x.jpg", "raw/set/labels/x.txt"),
        ("images/raw/x.jpg", "labels/raw/x.txt"),
        ("images/set/images/x.jpg", "labels/set/images/x.txt"),
        ("train_images/x.jpg", "train_labels/x.txt"),
        ("images_train/x.jpg", "labels_train/x.txt"),
        ("images/x.jpg", "images/x.txt"),
        ("JPEGImages/x.jpg", "JPEGImages/x.txt"),
        ("raw/set/x.jpg", "raw/set/x.txt"),
        ("photos/x.jpg", "photos/x.txt"),
    ],
)
def test_labels_are_found_where_darknet_finds_them(tmp_path: Path, picture: str, label: str) -> None:
    (tmp_path / label).parent.mkdir(parents=True)
    (tmp_path / label).write_text(GOOD)
    rows, problems = read_labels(tmp_path / picture, "a")
    assert (len(rows), problems) == (1, [])
    assert find_label(tmp_path / picture) == tmp_path / label


def test_the_labels_folder_goes_before_a_text_beside_the_picture(tmp_path: Path) -> None:
    for name in ("labels", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(GOOD)
    assert find_label(tmp_path / "images/x.jpg") == tmp_path / "labels/x.txt"
    (tmp_path / "labels/x.txt").unlink()
    assert find_label(tmp_path / "images/x.jpg") == tmp_path / "images/x.txt"
    assert find_label(tmp_path / "images/y.jpg") is None
    assert label_places(tmp_path / "images/y.jpg")[0] == tmp_path / "labels/y.txt", (
        "what is in neither belongs in labels"
    )


@pytest.mark.parametrize("folder", ["JPEGImages", "raw", "images", "VOC2012/JPEGImages"])
def test_several_sources_each_bring_their_labels(tmp_path: Path, folder: str) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train")
    pictures(tmp_path / "more" / folder, (tmp_path / "more" / folder).parent / "labels")
    report = check(described(tmp_path, f"[images/train, more/{folder}]"))
    assert not report.problems
    assert (report.scans["train"].boxes, report.scans["train"].background) == (12, 0)


SOURCES = {
    "two folders": "[images/train, {wrong}]",
    "a folder and a list file": "[images/train, wrong.txt]",
    "one list file of both": "both.txt",
    "one folder around both": "[images/train, .]",
}


@pytest.mark.parametrize("entries", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("wrong", ["more/JPEGImages", "more/images", "more/photos", "raw", "night_images"])
def test_a_source_without_any_label_stops_check_and_training(tmp_path: Path, entries: str, wrong: str) -> None:
    if entries == "[images/train, .]" and wrong == "more/photos":
        pytest.skip("a folder below a source that has labels: a warning (below)")
    pictures(tmp_path / "images/train", tmp_path / "labels/train")
    pictures(tmp_path / wrong, tmp_path / "annotations")
    lists = {
        "wrong": [f"{wrong}/{n}.png" for n in range(6)],
        "both": [f"{folder}/{n}.png" for folder in ("images/train", wrong) for n in range(6)],
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    path = described(tmp_path, entries.format(wrong=wrong))
    (error,) = check(path).errors
    assert error.kind == "no label file is found for any picture of this folder"
    assert error.file == tmp_path / wrong
    assert error.detail.startswith("6 pictures; labels of 0.png are looked for in ")
    assert all(str(place) in error.detail for place in label_places(tmp_path / wrong / "0.png"))
    with pytest.raises(UserError, match="empty label file") as caught:
        Dataset(path, "train", (32, 32))
    assert str(label_places(tmp_path / wrong / "0.png")[0]) in str(caught.value)
    with pytest.raises(UserError, match="no label file is found"):
        check(path).announce()


def test_the_same_holds_for_val_and_test(tmp_path: Path) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train")
    pictures(tmp_path / "more/JPEGImages", None)
    path = described(tmp_path, "images/train", "[images/val, more/JPEGImages]")
    path.write_text(path.read_text() + "test: [images/val, more/JPEGImages]\n")
    report = check(path)
    assert {error.file for error in report.errors} == {tmp_path / "more/JPEGImages"}
    for split in ("val", "test"):
        with pytest.raises(UserError, match="no label file is found"):
            Dataset(path, split, (32, 32))


@pytest.mark.parametrize(
    ("where", "name", "todo"),
    [
        ("labels", "0.txt", "belongs to {root}/labels/train/0.txt"),
        ("label/train", "0.txt", "belongs to {root}/labels/train/0.txt"),
        ("labels/train", "0.TXT", "belongs to {root}/labels/train/0.txt"),
        ("labels/train", "0.png.txt", "belongs to {root}/labels/train/0.txt"),
        ("xml", "0.xml", "thinyolo convert voc {root}/xml --images {root}/images/train"),
    ],
)
def test_labels_that_lie_elsewhere_are_told(tmp_path: Path, where: str, name: str, todo: str) -> None:
    pictures(tmp_path / "images/train", None)
    (tmp_path / where).mkdir(parents=True)
    (tmp_path / where / name).write_text(GOOD)
    (error,) = check(described(tmp_path, "images/train"), ["train"]).errors
    assert todo.format(root=tmp_path) in error.todo
    pictures(tmp_path / "other/images", tmp_path / "other/labels", first=10)
    (error,) = check(described(tmp_path, "[images/train, other/images]"), ["train"]).errors
    assert todo.format(root=tmp_path) in error.todo


def test_empty_label_files_make_a_source_background_on_purpose(tmp_path: Path) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train")
    pictures(tmp_path / "images/background", tmp_path / "labels/background", text="")
    report = check(described(tmp_path, "[images/train, images/background]"))
    assert not report.problems
    assert report.scans["train"].background == 6
    assert report.scans["train"].absent == []


def test_absent_and_empty_label_files_are_counted_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train", count=3)
    pictures(tmp_path / "images/train", tmp_path / "labels/train", count=1, first=3, text="\n")
    pictures(tmp_path / "images/train", None, count=2, first=4)
    path = described(tmp_path, "images/train")
    report = check(path)
    assert not report.errors
    assert [(problem.kind, problem.file.name) for problem in report.warnings] == [
        ("no label file: the picture counts as background", "4.png"),
        ("no label file: the picture counts as background", "5.png"),
    ]
    counts = "6 pictures (3 background), 3 boxes; background: 2 without a label file, 1 with an empty one"
    with caplog.at_level(logging.INFO, "thinyolo"):
        report.announce()
    assert f"train: {counts}" in caplog.text
    caplog.clear()
    monkeypatch.setattr("common.log._said", set())  # another command
    with caplog.at_level(logging.INFO, "thinyolo"):
        assert len(Dataset(path, "train", (32, 32))) == 6
    assert f"train: {counts}" in caplog.text
    assert "2 x no label file" in caplog.text


def test_a_folder_without_labels_below_a_source_with_some_is_named(tmp_path: Path) -> None:
    pictures(tmp_path / "images/train/day", tmp_path / "labels/train/day")
    pictures(tmp_path / "images/train/night", None)
    folder, *each = check(described(tmp_path, "images/train")).problems
    assert (folder.severity, folder.file) == (WARNING, tmp_path / "images/train/night")
    assert folder.detail.startswith("6 pictures; labels of 0.png are looked for in ")
    assert str(tmp_path / "labels/train/night/0.txt") in folder.detail
    assert [problem.severity for problem in each] == [WARNING] * 6


def test_a_label_that_is_there_but_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train", count=4)
    (tmp_path / "labels/train/0.txt").unlink()
    (tmp_path / "labels/train/0.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "labels/train/1.txt").unlink()
    (tmp_path / "labels/train/1.txt").mkdir()
    errors = check(described(tmp_path, "images/train")).errors
    assert [(error.kind, error.file.name) for error in errors] == [
        ("labels cannot be read", "0.txt"),
        ("labels cannot be read", "1.txt"),
    ]


def test_labels_of_two_picture_folders_in_one_are_no_orphans(tmp_path: Path) -> None:
    pictures(tmp_path / "images", tmp_path / "labels", count=3)
    pictures(tmp_path / "JPEGImages", tmp_path / "labels", count=3, first=3)
    (tmp_path / "labels/ghost.txt").write_text(GOOD)
    (tmp_path / "data.yaml").write_text("train: images\nval: JPEGImages\nnames: [a]\n")
    (orphan,) = check(tmp_path / "data.yaml").problems
    assert orphan.file.name == "ghost.txt"


@pytest.mark.parametrize(
    ("text", "severity", "message"),
    [
        ("train: images/train\n", ERROR, "names no 'val' split; it has train"),
        ("train: images/train\nval:\n", ERROR, "names no 'val' split"),
        ("train: images/train\nval: images/gone\n", ERROR, "'val' has no pictures: 'images/gone' is not in"),
        ("train: images/train\nval: hollow\n", ERROR, "'val' has no pictures: no picture in 'hollow'"),
        ("val: images/train\n", ERROR, "names no 'train' split; it has val"),
        ("train: images/gone\nval: images/train\n", ERROR, "'train' has no pictures: 'images/gone' is not in"),
        ("train: images/train\nval: images/val\ntest: gone\n", WARNING, "'test' has no pictures: 'gone' is not in"),
    ],
)
def test_check_says_of_each_split_what_training_would(tmp_path: Path, text: str, severity: str, message: str) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train", count=2)
    pictures(tmp_path / "images/val", tmp_path / "labels/val", count=2)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "data.yaml").write_text(text + "names: [a]\n")
    report = check(tmp_path / "data.yaml")
    (problem,) = report.problems
    assert problem.severity == severity
    assert problem.kind.startswith(message)
    if severity == ERROR:
        with pytest.raises(UserError, match=message.split(";")[0].split(":")[0]):
            report.announce()
    present = "val" if "'train'" in message else "train"
    assert not check(tmp_path / "data.yaml", [present]).problems, "a split asked for by name is looked at alone"


def test_both_splits_that_are_absent_are_named(tmp_path: Path) -> None:
    pictures(tmp_path / "images/test", tmp_path / "labels/test", count=2)
    (tmp_path / "data.yaml").write_text("test: images/test\nval: gone\nnames: [a]\n")
    assert [error.kind.split(" split")[0] for error in check(tmp_path / "data.yaml").errors] == [
        "names no 'train'",
        "'val' has no pictures: 'gone' is not in " + str(tmp_path),
    ]


def test_a_darknet_file_without_valid_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "JPEGImages", tmp_path / "labels", count=2)
    (tmp_path / "train.txt").write_text("JPEGImages/0.png\nJPEGImages/1.png\n")
    (tmp_path / "a.names").write_text("a\n")
    (tmp_path / "a.data").write_text("classes = 1\ntrain = train.txt\nnames = a.names\n")
    report = check(tmp_path / "a.data")
    assert report.scans["train"].boxes == 2
    assert [error.kind for error in report.errors] == ["names no 'val' split; it has train"]


LOOPS = {
    "to itself": {"images/train/again": "images/train"},
    "to the folder above": {"images/train/up": "images"},
    "to the set": {"images/train/deep/up": "."},
    "in a circle": {"images/train/a/to_b": "images/train/b", "images/train/b/to_a": "images/train/a"},
    "through another folder": {"images/train/out": "pool", "pool/back": "images/train"},
    "twice": {"images/train/one": "images/train/deep", "images/train/two": "images/train/deep"},
}


@pytest.mark.parametrize("links", LOOPS.values(), ids=LOOPS)
def test_links_in_a_circle_count_no_picture_twice(tmp_path: Path, links: dict[str, str]) -> None:
    pictures(tmp_path / "images/train/deep", tmp_path / "labels/train/deep", count=3)
    (tmp_path / "pool").mkdir()
    for link, target in links.items():
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / target)
    path = described(tmp_path, "images/train")
    names = [f"images/train/deep/{number}.png" for number in range(3)]
    assert [str(one.relative_to(tmp_path)) for one in load_spec(path).splits["train"]] == names
    assert check(path).scans["train"].boxes == 3
    assert not check(path).problems


def test_a_link_to_another_folder_is_followed_once(tmp_path: Path) -> None:
    pictures(tmp_path / "images/train", tmp_path / "labels/train", count=2)
    pictures(tmp_path / "pool/images/old", tmp_path / "pool/labels/old", count=3)
    (tmp_path / "images/train/old").symlink_to(tmp_path / "pool/images/old")
    (tmp_path / "labels/train/old").symlink_to(tmp_path / "pool/labels/old")
    report = check(described(tmp_path, "[images/train, pool/images/old, images/train/old]"))
    assert report.scans["train"].boxes == 5
    assert not report.problems


def test_labels_in_two_places_that_contradict_are_told(tmp_path: Path) -> None:
    pictures: list[tuple[np.ndarray, str | None]] = [(np.full((8, 12, 3), 40 + n, np.uint8), GOOD) for n in range(5)]
    path = write_set(tmp_path, {"train": pictures})
    folder = tmp_path / "images/train"
    (folder / "train000.txt").write_text("0 0.5000 0.5 0.5 0.5\n")
    assert not check(path, ["train"]).problems, "the same, written otherwise"
    (folder / "train001.txt").write_text("1 .5 .5 .5 .5\n")
    (folder / "train002.txt").write_text("")
    (folder / "train003.txt").write_text("0 2 2 4 4\n")
    (problem,) = check(path, ["train"]).problems
    read = tmp_path / "labels/train"
    assert problem.kind == f"labels in two places: read are those in {read}, not those in {folder}, and they differ"
    assert (problem.file, problem.detail) == (folder / "train001.txt", "3 of 4 pictures; the first: other classes")
