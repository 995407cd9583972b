"""Folders as labelling programs export them: they are read, or one message says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.convert import yolo_to_yolo
from data.labels import check
from data.spec import load_spec
from tests.data.made import write_picture
from thinyolo.main import main

ONE = "0 .5 .5 .5 .5\n1 .25 .25 .1 .1\n"
NAMES = "cat\ndog\n"


def pictures(images: Path, labels: Path | None = None, count: int = 4, first: int = 0) -> list[str]:
    """Pictures and labels; their names."""
    names = [f"{number:03}.png" for number in range(first, first + count)]
    (labels or images).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, first):
        write_picture(images / name, np.full((8, 12, 3), 60 + number, np.uint8))
        ((labels or images) / name).with_suffix(".txt").write_text(ONE)
    return names


def listed(path: Path, front: str, names: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(front + name + end for name in names).encode())


def cvat(root: Path) -> Path:
    """CVAT's "YOLO 1.1": paths begin with data/, which is the name of no folder in the archive."""
    for number, split in enumerate(("train", "valid")):
        folder = f"obj_{split}_data"
        listed(root / f"{split}.txt", f"data/{folder}/", pictures(root / folder, first=4 * number))
    (root / "obj.names").write_text(NAMES)
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    (root / "obj.data").write_text(text)
    return root / "obj.data"


def cvat_ultralytics(root: Path) -> Path:
    for number, split in enumerate(("train", "val")):
        names = pictures(root / "images" / split, root / "labels" / split, first=4 * number)
        listed(root / f"{split}.txt", f"data/images/{split}/", names)
    (root / "data.yaml").write_text("path: .\ntrain: train.txt\nval: val.txt\nnames:\n  0: cat\n  1: dog\n")
    return root / "data.yaml"


def roboflow(root: Path, front: str = "../") -> Path:
    for number, part in enumerate(("train", "valid")):
        pictures(root / part / "images", root / part / "labels", first=4 * number)
    text = f"train: {front}train/images\nval: {front}valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
    (root / "data.yaml").write_text(text + "roboflow:\n  workspace: w\n  version: 1\n")
    return root / "data.yaml"


def yolov5_lists(root: Path) -> Path:
    for number, split in enumerate(("train", "val")):
        names = pictures(root / "images" / split, root / "labels" / split, first=4 * number)
        listed(root / f"{split}.txt", f"./images/{split}/", names)
    (root / "set.yaml").write_text("path: ../datasets/set\ntrain: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    return root / "set.yaml"


def darknet(root: Path, front: str = "data/obj/") -> Path:
    """Paths start where Darknet itself is started, above the folder of the .data file."""
    listed(root / "data/train.txt", front, pictures(root / "data/obj"))
    listed(root / "data/valid.txt", front, pictures(root / "data/obj", first=4))
    (root / "data/obj.names").write_text(NAMES)
    text = "classes=2\ntrain=data/train.txt\nvalid=data/valid.txt\nnames=data/obj.names\n"
    (root / "data/obj.data").write_text(text)
    return root / "data/obj.data"


READ: dict[str, Callable[[Path], Path]] = {
    "CVAT's YOLO 1.1": cvat,
    "CVAT's Ultralytics": cvat_ultralytics,
    "Roboflow": roboflow,
    "Roboflow, without ups": lambda root: roboflow(root, ""),
    "YOLOv5's lists": yolov5_lists,
    "Darknet": darknet,
    "AlexeyAB's build folder": lambda root: darknet(root, "build/darknet/x64/data/obj/"),
}


@pytest.mark.parametrize("layout", READ)
def test_layouts_of_exporters_are_read(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    report = check(READ[layout](tmp_path / "set"))
    assert not report.problems
    assert {split: (len(found.pictures), found.boxes) for split, found in report.scans.items()} == {
        "train": (4, 8),
        "val": (4, 8),
    }
    if "CVAT" in layout:
        assert "the folders that paths begin with are not there; what lies here is taken ('data/" in caplog.text


def test_a_part_of_a_path_that_names_a_split_is_never_left_out(tmp_path: Path) -> None:
    pictures(tmp_path / "images", tmp_path / "labels")
    listed(tmp_path / "list.txt", "images/", ["000.png"])
    for val in ("valid/images", "validation/list.txt", "x/val/images", "x/images"):
        (tmp_path / "data.yaml").write_text(f"train: images\nval: {val}\nnames: [a, b]\n")
        assert "val" not in load_spec(tmp_path / "data.yaml").splits, "pictures that are trained on, or any"


@pytest.mark.parametrize("front", ["/content/set/", "/home/ann/x/", "C:\\Users\\ann\\set\\"])
def test_paths_of_another_machine_are_told_with_what_to_write(tmp_path: Path, front: str) -> None:
    path = roboflow(tmp_path / "a", front)
    with pytest.raises(UserError, match="-> train/images lies here: write `train/images` in the place of"):
        load_spec(path).require("train")
    path = yolov5_lists(tmp_path / "b")
    for split in ("train", "val"):
        listed(path.parent / f"{split}.txt", f"{front}images/{split}/", ["000.png", "001.png"])
    with pytest.raises(UserError, match=r"train\.txt:1: none of the 2 pictures listed is there.*\n  -> .*leave out"):
        load_spec(path).require("train")


def test_a_list_with_boxes_is_told(tmp_path: Path) -> None:
    listed(tmp_path / "list.txt", "", [f"{name} 1,2,3,4,0" for name in pictures(tmp_path)])
    (tmp_path / "data.yaml").write_text("train: list.txt\nval: list.txt\nnames: [a, b]\n")
    with pytest.raises(UserError, match="the line looks like a picture and its boxes"):
        load_spec(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["000.png"], "images/000.png lies here: write each line so"),
        (["images/000"], "images/000.png lies here: write each line so"),
        (["labels/000.txt"], "their labels are found from them"),
        (['"images/000.png"'], "take the quotes away"),
        (["gone/a.png"], "correct the paths"),
    ],
)
def test_lists_of_something_else_are_told(tmp_path: Path, lines: list[str], words: str) -> None:
    pictures(tmp_path / "images", tmp_path / "labels")
    listed(tmp_path / "list.txt", "", lines)
    (tmp_path / "data.yaml").write_text("train: list.txt\nval: images\nnames: [a, b]\n")
    with pytest.raises(UserError, match=f"(?s)list.txt:1: .*-> .*{words}"):
        load_spec(tmp_path / "data.yaml").require("train")


@pytest.mark.parametrize(
    ("train", "words"),
    [("images/*.png", "name the folder, images"), ("labels", "there are pictures in images"), ("*", r"folder, \.")],
)
def test_places_without_pictures_are_told(tmp_path: Path, train: str, words: str) -> None:
    pictures(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "data.yaml").write_text(f"train: '{train}'\nval: images\nnames: [a, b]\n")
    with pytest.raises(UserError, match=f"(?s)has no pictures.*-> .*{words}"):
        load_spec(tmp_path / "data.yaml").require("train")


def test_a_test_list_of_which_nothing_is_there_is_a_warning(tmp_path: Path) -> None:
    path = yolov5_lists(tmp_path)
    listed(tmp_path / "test.txt", "gone/", ["a.png"])
    path.write_text(path.read_text() + "test: test.txt\n")
    report = check(path)
    assert not report.errors
    assert ["none of the 1 pictures listed is there" in problem.kind for problem in report.warnings] == [True]


def told(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_spec(path)
    return caught.value.todo


def test_a_folder_without_a_yaml_is_told_the_yaml_to_write(tmp_path: Path) -> None:
    roboflow(tmp_path).unlink()
    (tmp_path / "classes.txt").write_text(NAMES)
    todo = told(tmp_path)
    assert str(tmp_path / "data.yaml") in todo
    text = "\n".join(line.strip() for line in todo.split("\n")[1:])
    (tmp_path / "data.yaml").write_text(text)
    assert load_spec(tmp_path / "data.yaml").names == ("cat", "dog")
    assert not check(tmp_path / "data.yaml").problems


def label_studio(root: Path) -> None:
    pictures(root / "images", root / "labels", 20)
    (root / "classes.txt").write_text(NAMES)
    (root / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {}}')


@pytest.mark.parametrize("given", [".", "classes.txt", "notes.json"])
def test_a_folder_without_parts_is_told_the_command_that_makes_them(tmp_path: Path, given: str) -> None:
    label_studio(tmp_path / "set")
    command = f"thinyolo convert yolo {tmp_path / 'set'} --out NEW --shares 80 10 10"
    assert command in told(tmp_path / "set" / given)
    assert main([*command.replace("NEW", str(tmp_path / "new")).split()[1:]]) == 0
    report = check(tmp_path / "new/data.yaml")
    assert not report.errors
    assert report.spec.names == ("cat", "dog")
    assert sum(found.boxes for found in report.scans.values()) == 40
    assert sorted(report.scans) == ["test", "train", "val"]


def test_files_that_are_no_yaml_are_told_what_they_are_for(tmp_path: Path) -> None:
    for name, todo in (("a.zip", "unpack"), ("a.json", "convert coco"), ("a.xml", "convert voc"), ("a.jpg", "predict")):
        (tmp_path / name).write_bytes(b"x")
        assert todo in told(tmp_path / name)
    (tmp_path / "obj.data").write_text("x")
    assert told(tmp_path) == f"name the file: {tmp_path / 'obj.data'}"


@pytest.mark.parametrize("name", ["data.txt", "data.json", "data", "DATA.YAML"])
def test_a_yaml_may_be_called_otherwise(tmp_path: Path, name: str) -> None:
    pictures(tmp_path / "images", tmp_path / "labels")
    (tmp_path / name).write_text('{"train": "images", "val": "images", "names": ["cat", "dog"]}')
    assert load_spec(tmp_path / name).names == ("cat", "dog")


def test_names_and_classes_of_a_data_file_that_disagree_are_told_what_to_write(tmp_path: Path) -> None:
    path = darknet(tmp_path)
    path.write_text(path.read_text().replace("classes=2", "classes=3"))
    with pytest.raises(UserError, match=r"obj\.data:1: `classes = 3` disagrees.*\n  -> write `classes = 2`"):
        load_spec(path)
    path.write_text(path.read_text().replace("classes=3", "classes=2").replace("valid=", "val="))
    with pytest.raises(UserError, match=r"obj\.data:3: names no 'val' split.*key `val`\n  -> call it `valid`"):
        load_spec(path).require("val")


def test_yolo_labels_are_divided(tmp_path: Path) -> None:
    label_studio(tmp_path / "set")
    done = yolo_to_yolo(tmp_path / "set", tmp_path / "new", splits=(50, 50, 0), names=["x", "y"])
    assert done.names == ("x", "y")
    assert sum(done.pictures.values()) == 20
    assert sum(done.boxes.values()) == 40
    written = sorted((tmp_path / "new/labels").rglob("*.txt"))[0].read_text()
    assert written == "0 0.500000 0.500000 0.500000 0.500000\n1 0.250000 0.250000 0.100000 0.100000\n"
    kept = yolo_to_yolo(cvat(tmp_path / "cvat").parent, tmp_path / "newer")
    assert kept.pictures == {"train": 4, "val": 4}, "folders tell the parts"


def test_what_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    for prepare, words in (
        (lambda root: None, "there is no such folder"),
        (lambda root: root.mkdir(), "there is no picture"),
        (lambda root: pictures(root), "names the classes"),
        (lambda root: (label_studio(root), shutil.rmtree(root / "labels")), "no picture has a label file"),
        (lambda root: (label_studio(root), (root / "labels/003.txt").write_text("x")), r"003\.txt:1"),
    ):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        prepare(root)
        with pytest.raises(UserError, match=f"(?s){words}.*-> "):
            yolo_to_yolo(root, tmp_path / "out")
        assert not (tmp_path / "out").exists()
