"""Annotations that are damaged, or not what they seem: told by name, and the rest is converted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from common.errors import UserError
from data.convert import coco_to_yolo, hand_to_yolo, read_names, voc_to_yolo
from tests.data.made import write_picture

GREY = np.full((12, 16, 3), 90, np.uint8)


def write_hand(path: Path) -> None:
    corners = [np.array([[2.0 + place, 3.0 + place]]) for place in range(4)]
    hands = np.empty((1, 1), object)
    hands[0, 0] = np.array([[tuple(corners)]], dtype=[(name, object) for name in "abcd"])
    savemat(path, {"boxes": hands})
    write_picture(path.with_suffix(".png"), GREY)


def test_a_file_that_ends_the_process_that_reads_it_is_left_out_and_named(tmp_path: Path) -> None:
    """The array's class in the header changed to another: scipy's reader in C follows it out of the file."""
    (tmp_path / "set").mkdir()
    for name in ("a", "b", "c"):
        write_hand(tmp_path / f"set/{name}.mat")
    raw = bytearray((tmp_path / "set/b.mat").read_bytes())
    raw[144] = 14
    (tmp_path / "set/b.mat").write_bytes(raw)
    done = hand_to_yolo(tmp_path / "set", None, tmp_path / "out")
    assert done.boxes == {"train": 2}
    assert [problem.file.name for problem in done.problems] == ["b.mat"]
    assert "not a MATLAB file scipy can read" in done.problems[0].kind


COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 5, 5]}],
    "categories": [{"id": 1, "name": "cat"}],
}


def convert(tmp_path: Path, text: str) -> list[str]:
    write_picture(tmp_path / "images/a.png", GREY)
    (tmp_path / "a.json").write_text(text)
    return [
        problem.kind for problem in coco_to_yolo(tmp_path / "a.json", tmp_path / "images", tmp_path / "out").problems
    ]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "9" * 400, '"x"', "null", "[]", "{}", "true"])
@pytest.mark.parametrize("key", ["category_id", "image_id"])
def test_an_annotation_with_a_number_that_is_no_id_is_left_out(tmp_path: Path, key: str, number: str) -> None:
    more = json.dumps({**COCO["annotations"][0], key: "?"}).replace('"?"', number)
    (kind,) = convert(tmp_path, json.dumps(COCO).replace('"annotations": [', f'"annotations": [{more}, '))
    assert kind in ("annotation of an unknown category", "annotation of an unknown image")


@pytest.mark.parametrize("number", ["1e999", "9" * 400, "NaN", '"x"', "null"])
def test_a_box_of_numbers_that_are_none_is_left_out(tmp_path: Path, number: str) -> None:
    more = json.dumps({**COCO["annotations"][0], "bbox": [2, 2, 5, "?"]}).replace('"?"', number)
    (kind,) = convert(tmp_path, json.dumps(COCO).replace('"annotations": [', f'"annotations": [{more}, '))
    assert kind in ("annotation whose bbox is not four numbers", "box that is not of finite numbers")


@pytest.mark.parametrize("number", ["9" * 400, "1e300", "-5", "0"])
def test_a_size_that_no_picture_has_does_not_count(tmp_path: Path, number: str) -> None:
    text = json.dumps(COCO).replace('"file_name"', f'"width": {number}, "height": {number}, "file_name"')
    assert convert(tmp_path, text) == []
    assert (tmp_path / "out/labels/train/a.txt").read_text() == "0 0.281250 0.375000 0.312500 0.416667\n"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(COCO).replace('"categories": [{"id": 1', '"categories": [{"id": 1e999'),
        json.dumps(COCO).replace('"categories": [{"id": 1', '"categories": [{"id": ' + "9" * 5000),
        json.dumps(COCO).replace('"cat"', '"\\ud800"'),
        "[" * 200_000,
        '{"images": "\xff',
    ],
)
def test_a_file_that_is_no_coco_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"a\.json"):
        convert(tmp_path, text)


VOC = (
    "<annotation><object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    "</object></annotation>"
)


def test_annotations_that_cannot_be_read_are_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    for name in ("a", "b", "c", "d"):
        write_picture(tmp_path / f"images/{name}.png", GREY)
    (tmp_path / "xml/a.xml").write_text(VOC)
    (tmp_path / "xml/b.xml").mkdir()
    os.mkfifo(tmp_path / "xml/c.xml")
    (tmp_path / "xml/d.xml").write_text('<?xml version="1.0" encoding="nobody-knows"?>' + VOC)
    done = voc_to_yolo(tmp_path / "xml", tmp_path / "images", tmp_path / "out")
    kinds = {problem.file.name: problem.kind for problem in done.problems if problem.file.suffix == ".xml"}
    assert kinds["b.xml"] == kinds["c.xml"] == "annotation that cannot be read"
    assert kinds["d.xml"] in ("annotation that cannot be read", "not valid XML")
    assert done.boxes == {"train": 1}
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/train.txt").write_bytes(b"a\nch\xe9\n")
    with pytest.raises(UserError, match=r"train\.txt:2: is not a text file in UTF-8"):
        voc_to_yolo(tmp_path / "xml", tmp_path / "images", tmp_path / "more", splits=tmp_path / "sets")


def test_names_on_the_command_line_may_be_longer_than_a_file_name(tmp_path: Path) -> None:
    names = [f"class number {number}" for number in range(80)]
    assert read_names(",".join(names)) == names
    for wrong in ("~nobody_of_this_name/x.txt", "a\0b", str(tmp_path)):
        with pytest.raises(UserError):
            read_names(wrong)
    (tmp_path / "c.yaml").write_text("names: [no, yes]\n")
    assert read_names(str(tmp_path / "c.yaml")) == ["no", "yes"]


def test_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/a.xml").write_text(VOC)
    write_picture(tmp_path / "images/a.png", GREY)
    for out in (tmp_path / ("x" * 300), tmp_path / "xml/a.xml/out", Path("/proc/nothing/out")):
        with pytest.raises(UserError, match="cannot be written"):
            voc_to_yolo(tmp_path / "xml", tmp_path / "images", out)
