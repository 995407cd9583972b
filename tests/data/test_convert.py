"""Annotations of VOC, COCO and Oxford Hand become labels; what cannot be converted is named, never dropped silently."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from data import convert
from data.convert_pictures import Pictures
from data.convert_writer import split_all_by_share, split_by_share, split_from_folders
from data.spec import load_spec
from tests.shared import shared
from thinyolo.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("THINYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(path: Path, height: int = 50, width: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 128, np.uint8))
    return path


def labels(folder: Path) -> dict[str, np.ndarray]:
    """Label file without suffix, relative to `folder` -> its rows ``(n, 5)``."""
    found = {}
    for path in sorted(folder.rglob("*.txt")):
        rows = [line.split() for line in path.read_text().splitlines()]
        found[path.relative_to(folder).with_suffix("").as_posix()] = np.array(rows, float).reshape(-1, 5)
    return found


def assert_same_labels(ours: Path, theirs: Path, empty_may_lack: bool = False) -> int:
    """Row for row equal up to the sixth decimal, whatever the order; returns the number of rows."""
    mine, given = labels(ours), labels(theirs)
    if empty_may_lack:
        mine = {name: rows for name, rows in mine.items() if len(rows) or name in given}
    assert set(mine) == set(given)
    for name in given:
        first, second = (rows[np.lexsort(np.round(rows, 5).T)] for rows in (mine[name], given[name]))
        np.testing.assert_allclose(first, second, atol=1.01e-6, err_msg=name)
    return sum(map(len, given.values()))


# VOC ---------------------------------------------------------------------------------------------------------------


def voc_object(name: str, *box: float | str, extra: str = "") -> str:
    sides = "".join(f"\n<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object>\n<name>{name}</name>{extra}\n<bndbox>{sides}</bndbox>\n</object>\n"


def voc(folder: Path, stem: str, *objects: str, size: str = "<width>100</width><height>50</height>") -> Path:
    path = folder / "xml" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n<filename>{stem}.png</filename>\n<size>{size}</size>\n{''.join(objects)}</annotation>"
    )
    return path


def test_bccd_from_its_voc_files_equals_the_labels_beside_them(tmp_path):
    """The labels beside are those of the XML files but for two boxes of no size (xmin = xmax), which they lack too."""
    bccd = shared("datasets/bccd")
    done = convert.voc_to_yolo(
        bccd / "voc_annotations", bccd / "images", tmp_path / "set", splits=bccd / "voc_imagesets/Main", link=True
    )
    assert done.names == load_spec(bccd / "data.yaml").names
    assert assert_same_labels(tmp_path / "set/labels", bccd / "labels") == sum(done.boxes.values())
    assert {name: len(paths) for name, paths in load_spec(done.data_yaml).splits.items()} == done.pictures
    assert [(problem.kind, problem.file.name) for problem in done.problems] == [
        ("box of zero or negative size", "BloodImage_00338.xml"),
        ("box of zero or negative size", "BloodImage_00343.xml"),
    ]
    for problem in done.problems:
        assert "<bndbox>" in problem.file.read_text().splitlines()[problem.line - 1]


def test_voc_boxes_become_shares_of_the_picture(tmp_path):
    picture(tmp_path / "photos/a.png")
    picture(tmp_path / "photos/b.png")
    voc(tmp_path, "a", voc_object("dog", 10, 5, 30, 25), voc_object("cat", 0, 0, 100, 50))
    voc(tmp_path, "b")
    done = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set")
    assert done.names == ("cat", "dog")
    written = labels(tmp_path / "set/labels")
    np.testing.assert_allclose(written["train/a"], [[1, 0.2, 0.3, 0.2, 0.4], [0, 0.5, 0.5, 1, 1]])
    assert len(written["train/b"]) == 0
    copy = tmp_path / "set/images/train/a.png"
    assert copy.read_bytes() == (tmp_path / "photos/a.png").read_bytes()
    assert not copy.is_symlink()


def test_voc_pixels_counted_from_one_begin_a_pixel_earlier(tmp_path):
    picture(tmp_path / "photos/a.png")
    voc(tmp_path, "a", voc_object("cat", 1, 1, 100, 50))
    convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set", one_based=True)
    np.testing.assert_allclose(labels(tmp_path / "set/labels")["train/a"], [[0, 0.5, 0.5, 1, 1]])


def test_voc_problems_are_named_with_file_and_line(tmp_path, caplog):
    picture(tmp_path / "photos/a.png")
    picture(tmp_path / "photos/c.png")
    picture(tmp_path / "photos/alone.png")
    file = voc(
        tmp_path,
        "a",
        voc_object("cat", 10, 10, 20, 20),  # lines 4 to 11
        voc_object("cat", 10, "ten", 20, 20),  # ymin on line 16
        voc_object("cat", -10, 10, 20, 20),
        voc_object("cat", 200, 10, 220, 20),
        voc_object("cat", "nan", 10, 20, 20),
        "<object>\n<name>cat</name>\n</object>\n",
    )
    voc(tmp_path, "b", voc_object("cat", 1, 1, 2, 2))
    (tmp_path / "xml/c.xml").write_text("<annotation>\n<object>\n")
    with caplog.at_level(logging.WARNING, logger="thinyolo"):
        done = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set")
    assert {(p.kind, p.file.name, p.line) for p in done.problems} == {
        ("box that is not of four numbers", "a.xml", 16),
        ("box reaches outside the picture; cut at its edge", "a.xml", 22),
        ("box outside the picture", "a.xml", 30),
        ("box that is not of finite numbers", "a.xml", 38),
        ("object without a box", "a.xml", 44),
        ("annotation without picture", "b.xml", None),
        ("not valid XML", "c.xml", 3),
        ("picture without annotation", "alone.png", None),
        ("picture without annotation", "c.png", None),
    }
    np.testing.assert_allclose(
        labels(tmp_path / "set/labels")["train/a"], [[0, 0.15, 0.3, 0.1, 0.2], [0, 0.1, 0.3, 0.2, 0.2]]
    )
    assert f"{file}:16" in caplog.text


def test_a_class_that_was_not_named_stops_the_conversion_unless_told_otherwise(tmp_path):
    picture(tmp_path / "photos/a.png")
    file = voc(tmp_path, "a", voc_object("cat", 10, 10, 20, 20), voc_object("cow", 10, 10, 20, 20))
    with pytest.raises(UserError, match="'cow' is not among the names") as caught:
        convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set", names=["dog", "cat"])
    assert (caught.value.where, caught.value.line) == (file, 14)
    assert not (tmp_path / "set").exists()
    done = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set", ["dog", "cat"], only_named=True)
    assert labels(tmp_path / "set/labels")["train/a"][:, 0].tolist() == [1]
    assert [(p.kind, p.detail) for p in done.problems] == [("class not among the names", "cow")]


def test_difficult_objects_stay_unless_told_otherwise(tmp_path):
    picture(tmp_path / "photos/a.png")
    hard = voc_object("cat", 1, 1, 9, 9, extra="<difficult>1</difficult>")
    voc(tmp_path, "a", hard, voc_object("cat", 10, 10, 20, 20))
    both = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "both")
    easy = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "easy", skip_difficult=True)
    assert both.boxes == {"train": 2}
    assert easy.boxes == {"train": 1}


def test_an_annotated_size_that_is_not_the_pictures_is_reported_and_a_missing_one_is_measured(tmp_path):
    picture(tmp_path / "photos/a.png")
    picture(tmp_path / "photos/b.png")
    voc(tmp_path, "a", voc_object("cat", 0, 0, 100, 100), size="<width>200</width><height>100</height>")
    voc(tmp_path, "b", voc_object("cat", 0, 0, 50, 50), size="<width>0</width><height>0</height>")
    done = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set")
    for rows in labels(tmp_path / "set/labels").values():
        np.testing.assert_allclose(rows, [[0, 0.25, 0.5, 0.5, 1]])
    assert [(p.kind, p.file.name) for p in done.problems] == [("the annotation's size is not the picture's", "a.xml")]


def by_lists(folder: Path, **lists: str) -> convert.Converted:
    """`photos` and `xml` converted with these lists of splits."""
    (folder / "lists").mkdir()
    for split, text in lists.items():
        (folder / f"lists/{split}.txt").write_text(text)
    return convert.voc_to_yolo(folder / "xml", folder / "photos", folder / "set", splits=folder / "lists")


def test_a_picture_in_two_split_lists_stays_in_the_first(tmp_path):
    for stem in "ab":
        picture(tmp_path / f"photos/{stem}.png")
        voc(tmp_path, stem, voc_object("cat", 1, 1, 9, 9))
    done = by_lists(tmp_path, train="a\n", val="b\na\n")
    assert done.pictures == {"train": 1, "val": 1}
    assert [(p.kind, p.file.name, p.line) for p in done.problems] == [("picture in two splits", "val.txt", 2)]


def test_lists_of_splits_name_folders_suffixes_and_what_stands_behind_a_name(tmp_path):
    for name in ("cam1/0", "cam2/0", "cam3/0", "b", "photo 1", "v1.2", "photo"):
        for folder in ("photos", "xml"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / f"photos/{name}.png")
        voc(tmp_path, name, voc_object("cat", 1, 1, 9, 9))
    val = "C:\\sets\\images\\cam2\\0.png\nv1.2 -1\nphoto\n"
    done = by_lists(tmp_path, train="cam1/0\nb.jpg  1\nphoto 1\n", val=val)
    assert {split: len(paths) for split, paths in load_spec(done.data_yaml).splits.items()} == {"train": 3, "val": 3}
    found = {split: {path.name for path in load_spec(done.data_yaml).splits[split]} for split in ("train", "val")}
    assert found["train"] >= {"b.png", "photo 1.png"}
    assert found["val"] >= {"v1.2.png", "photo.png"}
    left = [(p.kind, p.file.parent.name) for p in done.problems if p.severity == "left out"]
    assert left == [("in no split's list", "cam3")]


def test_a_listed_name_without_annotation_is_said(tmp_path):
    picture(tmp_path / "photos/a.png")
    voc(tmp_path, "a", voc_object("cat", 1, 1, 9, 9))
    done = by_lists(tmp_path, train="a\n", val="a\nb\n")
    kind = "name in a split's list without annotation"
    assert [(p.file.name, p.line, p.detail) for p in done.problems if p.kind == kind] == [("val.txt", 2, "b")]


def test_letters_in_another_form_of_unicode_and_files_of_macos(tmp_path):
    """macOS writes an accent as a letter of its own, and beside a.png a file ._a.png."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    picture(tmp_path / f"photos/{decomposed}.png")
    (tmp_path / "photos/._other.png").write_bytes(b"what macOS says of it")
    voc(tmp_path, composed, voc_object("cat", 1, 1, 9, 9))
    (tmp_path / f"xml/._{composed}.xml").write_bytes(b"what macOS says of it")
    done = by_lists(tmp_path, train=f"{decomposed}\n")
    assert (done.pictures, done.problems) == ({"train": 1}, [])
    assert len(labels(tmp_path / "set/labels")) == 1
    rows = [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 20]}]
    file = coco(tmp_path / "instances_val.json", [{**IMAGE, "file_name": f"{composed}.png"}], rows)
    assert convert.coco_to_yolo(file, tmp_path / "photos", tmp_path / "coco").pictures == {"val": 1}


def test_of_two_names_that_differ_in_their_unicode_form_the_equal_one_is_meant(tmp_path):
    names = ("caf\u00e9", "cafe\u0301")
    for name in names:
        picture(tmp_path / f"{name}.png")
    pictures = Pictures(tmp_path)
    assert [pictures.find(name).stem for name in names] == list(names)


# COCO --------------------------------------------------------------------------------------------------------------


def coco(path: Path, images: list[dict], annotations: list[dict], categories: dict[int, str] | None = None) -> Path:
    kinds = [{"id": number, "name": name} for number, name in (categories or {3: "cat", 90: "dog"}).items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": kinds}))
    return path


IMAGE = {"id": 7, "file_name": "a.png", "width": 100, "height": 50}


def test_coco128_from_its_json_equals_the_labels_beside_it(tmp_path):
    """The labels beside are %g-formatted (six digits, not decimals); two pictures without objects have no file."""
    coco128 = shared("datasets/coco128")
    done = convert.coco_to_yolo(
        coco128 / "coco_annotations/instances_train2017.json", coco128 / "images", tmp_path / "set", link=True
    )
    assert done.names == load_spec(coco128 / "data.yaml").names
    assert assert_same_labels(tmp_path / "set/labels/train", coco128 / "labels/train", empty_may_lack=True) > 900
    assert len(list((tmp_path / "set/images/train").iterdir())) == 128
    content = json.loads((coco128 / "coco_annotations/instances_train2017.json").read_text())
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert len(crowds) > 0
    assert [p.detail for p in done.problems] == [f"annotation {entry['id']}" for entry in crowds]


def test_coco_category_ids_with_gaps_become_contiguous_in_their_order(tmp_path):
    picture(tmp_path / "a.png")
    rows = [{"id": n, "image_id": 7, "category_id": c, "bbox": [10, 5, 20, 20]} for n, c in enumerate((90, 3))]
    file = coco(tmp_path / "instances_val.json", [IMAGE], rows, {90: "dog", 50: "cow", 3: "cat"})
    done = convert.coco_to_yolo(file, tmp_path, tmp_path / "set")
    assert done.names == ("cat", "cow", "dog")
    np.testing.assert_allclose(
        labels(tmp_path / "set/labels")["val/a"], [[2, 0.2, 0.3, 0.2, 0.4], [0, 0.2, 0.3, 0.2, 0.4]]
    )
    renamed = convert.coco_to_yolo(file, tmp_path, tmp_path / "other", names=["dog", "cat"])
    assert renamed.names == ("dog", "cat")
    assert labels(tmp_path / "other/labels")["val/a"][:, 0].tolist() == [0, 1]


def test_coco_crowds_are_left_out_and_counted_unless_wanted(tmp_path):
    picture(tmp_path / "a.png")
    rows = [{"id": n, "image_id": 7, "category_id": 3, "bbox": [n, 5, 20, 20], "iscrowd": n % 2} for n in range(4)]
    file = coco(tmp_path / "train.json", [IMAGE], rows)
    done = convert.coco_to_yolo(file, tmp_path, tmp_path / "set")
    assert done.boxes == {"train": 2}
    assert [p.detail for p in done.problems] == ["annotation 1", "annotation 3"]
    assert convert.coco_to_yolo(file, tmp_path, tmp_path / "all", keep_crowd=True).boxes == {"train": 4}


def test_coco_problems_are_named_with_file_and_annotation(tmp_path):
    picture(tmp_path / "a.png")
    images = [IMAGE, {"id": 8, "file_name": "gone.png"}, {"file_name": "no id"}]
    good = {"image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 20]}
    rows = [
        {"id": 0, **good},
        {"id": 1, **good, "bbox": [1, 2, 3]},
        {"id": 2, **good, "category_id": 4},
        {"id": 3, **good, "image_id": 9},
        {"id": 4, **good, "bbox": [10, 5, 0, 20]},
        {"id": 5, **good, "bbox": [float("nan"), 5, 1, 20]},
        {"id": 6, **good, "image_id": [7]},
        {"id": 7, "image_id": 7, "category_id": 3},
        "nonsense",
    ]
    file = coco(tmp_path / "train.json", images, rows)
    done = convert.coco_to_yolo(file, tmp_path, tmp_path / "set")
    assert done.boxes == {"train": 1}
    assert all(p.file == file for p in done.problems)
    said = {(p.kind, p.detail.split(":")[0].split(" nan")[0].split(" 10,")[0]) for p in done.problems}
    assert said == {
        ("image without id or file_name", "images[2]"),
        ("annotated picture is not there", "image 8"),
        ("annotation whose bbox is not four numbers", "annotation 1"),
        ("annotation of an unknown category", "annotation 2"),
        ("annotation of an unknown image", "annotation 3"),
        ("box of zero or negative size", "annotation 4"),
        ("box that is not of finite numbers", "annotation 5"),
        ("annotation of an unknown image", "annotation 6"),
        ("annotation whose bbox is not four numbers", "annotation 7"),
        ("annotation that is not an object", "annotation [8]"),
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not valid JSON"), ("[]", "not a COCO instance file"), ('{"images": []}', "annotations")],
)
def test_a_file_that_is_not_coco_json_is_refused(tmp_path, text, problem):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        convert.coco_to_yolo(tmp_path / "x.json", tmp_path, tmp_path / "set")


def test_the_splits_folder_tells_pictures_of_the_same_name_apart(tmp_path):
    first, second = picture(tmp_path / "train2017/a.png"), picture(tmp_path / "val2017/a.png", 60, 100)
    rows = [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 20]}]
    train = coco(tmp_path / "instances_train2017.json", [IMAGE], rows)
    val = coco(tmp_path / "instances_val2017.json", [{**IMAGE, "height": 60}], rows)
    done = convert.coco_to_yolo([train, val], tmp_path, tmp_path / "set")
    assert (tmp_path / "set/images/train/a.png").read_bytes() == first.read_bytes()
    assert (tmp_path / "set/images/val/a.png").read_bytes() == second.read_bytes()
    assert not done.problems
    with pytest.raises(UserError, match=r"two pictures could be 'a\.png'"):
        Pictures(tmp_path).find("a.png")


def test_pictures_of_one_name_from_two_folders_do_not_overwrite_each_other(tmp_path):
    picture(tmp_path / "one/a.png")
    picture(tmp_path / "two/a.png")
    images = [{"id": 1, "file_name": "one/a.png"}, {"id": 2, "file_name": "two/a.png"}]
    rows = [{"id": n, "image_id": n, "category_id": 3, "bbox": [10 * n, 5, 20, 20]} for n in (1, 2)]
    convert.coco_to_yolo(coco(tmp_path / "train.json", images, rows), tmp_path, tmp_path / "set")
    written = labels(tmp_path / "set/labels/train")
    assert len(written) == 2
    assert len(load_spec(tmp_path / "set/data.yaml").splits["train"]) == 2
    assert sorted(rows[0, 1] for rows in written.values()) == pytest.approx([0.2, 0.3])


def test_equal_names_in_equally_named_folders_take_the_folders_above_with_them(tmp_path):
    """Cameras or years, each in VOC's layout."""
    for number, year in enumerate(("VOC2007", "VOC2012")):
        picture(tmp_path / year / "JPEGImages" / "1.png")
        path = voc(tmp_path, "1", voc_object("cat", 10 + number, 10, 50, 40))
        (tmp_path / year / "Annotations").mkdir()
        path.rename(tmp_path / year / "Annotations" / "1.xml")
    picture(tmp_path / "VOC2007" / "JPEGImages" / "2.png")
    voc(tmp_path, "2", voc_object("cat", 1, 1, 9, 9)).rename(tmp_path / "VOC2007" / "Annotations" / "2.xml")
    convert.voc_to_yolo(tmp_path, tmp_path, tmp_path / "out")
    found = labels(tmp_path / "out" / "labels" / "train")
    assert {name: rows[0, 1] for name, rows in found.items()} == {
        "VOC2007_JPEGImages_1_png": pytest.approx(0.3),
        "VOC2012_JPEGImages_1_png": pytest.approx(0.305),
        "2": pytest.approx(0.05),
    }


def test_made_up_names_are_of_the_folder_given_however_it_is_typed_and_meet_no_other(tmp_path, monkeypatch):
    for name in ("a.png", "x/q/r/a.png", "y/q/r/a.png", "x_q_r_a_png.png"):
        path = picture(tmp_path / "set" / name)
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    monkeypatch.chdir(tmp_path)
    written = []
    for number, source in enumerate((Path("set"), tmp_path / "set")):
        convert.yolo_to_yolo(source, tmp_path / f"out{number}", ["cat"])
        written.append(sorted(labels(tmp_path / f"out{number}" / "labels")))
    names = ["set_a_png", "x_q_r_a_png", "x_q_r_a_png_2", "y_q_r_a_png"]
    assert written[0] == written[1] == [f"train/{name}" for name in names]


def test_of_few_pictures_each_part_that_shares_name_gets_one(tmp_path):
    for stem in "abcd":
        picture(tmp_path / "images" / f"{stem}.png")
        voc(tmp_path, stem, voc_object("cat", 10, 10, 50, 40))
    convert.voc_to_yolo(tmp_path / "xml", tmp_path / "images", tmp_path / "out", splits=(50, 50, 0))
    assert {path.parent.name for path in (tmp_path / "out/labels").rglob("*.txt")} == {"train", "val"}


def rows_of(*images: int) -> list[dict]:
    return [{"id": number, "image_id": number, "category_id": 3, "bbox": [10, 5, 20, 20]} for number in images]


def named(*names: str) -> list[dict]:
    return [{"id": number, "file_name": name, "width": 100, "height": 50} for number, name in enumerate(names)]


def test_the_named_folder_decides_between_pictures_of_one_name_however_deep_they_lie(tmp_path):
    for number, camera in enumerate(("cam1", "cam2")):
        picture(tmp_path / f"photos/x/{camera}/0.png", 50 + number)
    images = named("cam2/0.png", "C:\\shots\\cam1\\0.png")
    file = coco(tmp_path / "a.json", [{**entry, "width": 0} for entry in images], rows_of(0))
    done = convert.coco_to_yolo(file, tmp_path / "photos", tmp_path / "set")
    assert not done.problems
    assert {name: len(rows) for name, rows in labels(tmp_path / "set/labels/train").items()} == {
        "cam1_0_png": 0,
        "cam2_0_png": 1,
    }


def test_a_picture_of_another_folder_is_not_taken_where_folders_tell_pictures_apart(tmp_path):
    picture(tmp_path / "photos/cam1/0.png")
    file = coco(tmp_path / "a.json", named("cam1/0.png", "cam2/0.png"), rows_of(0, 1, 1))
    for place, images in enumerate((tmp_path / "photos", tmp_path / "photos/cam1")):
        done = convert.coco_to_yolo(file, images, tmp_path / f"set{place}")
        assert done.boxes == {"train": 1}
        (problem,) = done.problems
        assert problem.kind == "annotated picture is not there"
        assert problem.detail == f"image 1: cam2/0.png; {tmp_path}/photos/cam1/0.png is in another folder"
    picture(tmp_path / "photos/cam2/1.png")
    file = coco(tmp_path / "b.json", named("cam2/0.png", "cam2/1.png"), rows_of(0, 1))
    done = convert.coco_to_yolo(file, tmp_path / "photos", tmp_path / "set")
    assert [path.name for path in (tmp_path / "set/images/train").iterdir()] == ["1.png"], (
        "cam2 is there, without 0.png"
    )


def test_a_picture_in_another_folder_than_the_named_one_is_told(tmp_path):
    """It may have been moved; or the annotations are of other pictures, called the same."""
    picture(tmp_path / "photos/cam1/0.png")
    file = coco(tmp_path / "a.json", named("cam2/0.png"), rows_of(0))
    done = convert.coco_to_yolo(file, tmp_path / "photos", tmp_path / "coco")
    (problem,) = done.problems
    assert problem.kind == "picture taken from another folder than the annotation names"
    assert problem.detail == f"cam2/0.png: {tmp_path}/photos/cam1/0.png"
    voc(tmp_path / "given", "0", voc_object("cat", 10, 5, 30, 25)).parent.rename(tmp_path / "given/cam2")
    done = convert.voc_to_yolo(tmp_path / "given", tmp_path / "photos", tmp_path / "voc")
    assert [(p.kind, p.detail) for p in done.problems] == [(problem.kind, f"cam2/0: {tmp_path}/photos/cam1/0.png")]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("C:\\Users\\bob\\images\\a.png", "a.png"),
        ("JPEGImages/a.png", "a.png"),
        ("JPEGImages/a.png", "images/a.png"),
        ("/home/bob/set/train2017/a.png", "train/a.png"),
        ("/home/bob/cam1/a.png", "x/cam1/a.png"),
        ("cam1/a.png", "2024/cam1/images/a.png"),
        ("set/cam1/a.png", "cam1/a.png"),
    ],
)
def test_folders_of_another_machine_hide_no_picture(tmp_path, name, place):
    picture(tmp_path / "photos" / place)
    file = coco(tmp_path / "a.json", named(name), rows_of(0))
    done = convert.coco_to_yolo(file, tmp_path / "photos", tmp_path / "set")
    assert (done.boxes, done.problems) == ({"train": 1}, [])


def test_pictures_that_were_divided_anew_are_found_and_told(tmp_path):
    for split, stem in (("train", "a"), ("val", "b")):
        picture(tmp_path / f"photos/{split}/{stem}.png")
    file = coco(tmp_path / "a.json", named("val/a.png", "val/b.png"), rows_of(0, 1))
    done = convert.coco_to_yolo(file, tmp_path / "photos", tmp_path / "set")
    assert done.boxes == {"train": 1, "val": 1}
    assert [p.detail for p in done.problems] == [f"val/a.png: {tmp_path}/photos/train/a.png"]


def test_folders_of_xml_files_decide_as_the_pictures_lie(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        picture(tmp_path / f"{year}/JPEGImages/a.png")
    found = Pictures(tmp_path).find("VOC2012/Annotations/a")
    assert found == tmp_path / "VOC2012/JPEGImages/a.png"


def test_the_filename_in_an_xml_file_decides_between_endings(tmp_path):
    picture(tmp_path / "photos/a.png")
    picture(tmp_path / "photos/a.jpg", 60)
    file = voc(tmp_path, "a", voc_object("cat", 10, 5, 30, 25))
    done = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set")
    assert [path.name for path in (tmp_path / "set/images/train").iterdir()] == ["a.png"]
    assert [(p.kind, p.file.name) for p in done.problems] == [("picture without annotation", "a.jpg")]
    file.write_text(file.read_text().replace("a.png", "a.bmp"))
    with pytest.raises(UserError, match="two pictures could be 'a'"):
        convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "other")


def test_a_picture_under_two_ids_is_one_with_the_boxes_of_both(tmp_path):
    picture(tmp_path / "photos/a.png")
    images = named("a.png", "./a.png")
    rows = rows_of(0, 1, 1)
    rows[2]["bbox"] = [30, 5, 20, 20]
    done = convert.coco_to_yolo(coco(tmp_path / "a.json", images, rows), tmp_path / "photos", tmp_path / "set")
    assert labels(tmp_path / "set/labels")["train/a"][:, 1].tolist() == [0.2, 0.4]
    assert [(p.kind, p.detail) for p in done.problems] == [
        (
            "picture listed under two ids; the boxes of both are taken",
            "./a.png: ids 0 and 1; boxes that both have, once: 1",
        )
    ]
    images[1]["width"] = 200
    with pytest.raises(
        UserError, match=r"images 0 and 1 are the same picture, \./a\.png, in two sizes: 100 x 50 and 200"
    ):
        convert.coco_to_yolo(coco(tmp_path / "a.json", images, rows), tmp_path / "photos", tmp_path / "other")
    images = named("one/a.png", "two/a.png")
    with pytest.raises(UserError, match=r"images 0 and 1, one/a\.png and two/a\.png, would both be the picture"):
        convert.coco_to_yolo(coco(tmp_path / "a.json", images, rows), tmp_path / "photos", tmp_path / "other")


def test_a_picture_in_two_annotation_files_of_a_split_is_refused_as_that(tmp_path):
    picture(tmp_path / "photos/a.png")
    files = [coco(tmp_path / name, named("a.png"), rows_of(0)) for name in ("a.json", "b.json")]
    with pytest.raises(
        UserError, match=r"two annotations are of the picture .*a\.png: this one and .*a\.json"
    ) as caught:
        convert.coco_to_yolo(files, tmp_path / "photos", tmp_path / "set")
    assert caught.value.where == files[1]


# Oxford Hand -------------------------------------------------------------------------------------------------------


def hand_file(path: Path, *hands: np.ndarray) -> Path:
    """A file as the data set has them: a 1 x N cell array of structs a, b, c, d, each a 1 x 2 matrix y, x."""
    from scipy.io import savemat

    cells = np.empty((1, len(hands)), object)
    for number, corners in enumerate(hands):
        cells[0, number] = {name: np.array([point], float) for name, point in zip("abcd", corners)}
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"boxes": cells})
    return path


def test_hand_corners_are_y_x_and_become_the_box_around_them(tmp_path):
    pytest.importorskip("scipy")
    turned = np.array([[10, 40], [20, 60], [30, 50], [20, 30]])  # y, x: a square on its tip
    for split in ("training", "validation", "test"):
        picture(tmp_path / f"{split}_dataset/{split}_data/images/a.jpg")
        hand_file(tmp_path / f"{split}_dataset/{split}_data/annotations/a.mat", turned, turned + (5, 20))
    done = convert.hand_to_yolo(tmp_path, None, tmp_path / "set")
    assert done.names == ("hand",)
    assert done.pictures == {"train": 1, "val": 1, "test": 1}
    written = labels(tmp_path / "set/labels")
    assert set(written) == {"train/a", "val/a", "test/a"}
    for rows in written.values():  # y 10..30 of 50, x 30..60 of 100; then moved by y 5, x 20
        np.testing.assert_allclose(rows, [[0, 0.45, 0.4, 0.3, 0.4], [0, 0.65, 0.5, 0.3, 0.4]])


def test_hand_problems_are_named_with_file_and_object(tmp_path):
    pytest.importorskip("scipy")
    from scipy.io import savemat

    square = np.array([[10, 10], [10, 20], [20, 20], [20, 10]])
    picture(tmp_path / "images/a.jpg")
    hand_file(tmp_path / "mat/a.mat", square, square[:3])
    hand_file(tmp_path / "mat/gone.mat", square)
    savemat(tmp_path / "mat/other.mat", {"x": 1})
    (tmp_path / "mat/broken.mat").write_bytes(b"not matlab")
    done = convert.hand_to_yolo(tmp_path / "mat", tmp_path / "images", tmp_path / "set")
    assert done.boxes == {"train": 1}
    assert {(p.kind, p.file.name) for p in done.problems} == {
        ("hand without four corners a, b, c, d", "a.mat"),
        ("annotation without picture", "gone.mat"),
        ("MATLAB file without `boxes`", "other.mat"),
        ("not a MATLAB file scipy can read", "broken.mat"),
    }
    assert "object 2" in [p.detail for p in done.problems]


def test_without_scipy_the_error_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def no_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_scipy)
    with pytest.raises(UserError, match="pip install scipy"):
        convert.hand_to_yolo(tmp_path, None, tmp_path / "set")


# The folder and the command ----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path) -> list[str]:
    """The arguments of a VOC conversion of eight pictures into `tmp_path`/set."""
    for number in range(8):
        picture(tmp_path / f"photos/{number}.png")
        voc(tmp_path, str(number), voc_object("cat", 10, 5, 30, 25))
    return [
        "convert",
        "voc",
        str(tmp_path / "xml"),
        "--images",
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "set"),
    ]


def test_the_command_links_divides_and_names(small, tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    shares = ["--shares", "50", "25", "25"]
    assert main([*small, "--link", *shares, "--names", str(tmp_path / "names.txt")]) == 0
    spec = load_spec(tmp_path / "set/data.yaml")
    assert spec.names == ("dog", "cat")
    assert sum(map(len, spec.splits.values())) == 8
    wanted = split_all_by_share([path.stem for paths in spec.splits.values() for path in paths], (50, 25, 25))
    for split, paths in spec.splits.items():
        for path in paths:
            assert path.is_symlink()
            assert split == wanted[path.stem]
    assert all(rows.tolist() == [[1, 0.2, 0.3, 0.2, 0.4]] for rows in labels(tmp_path / "set/labels").values())


def test_a_folder_in_use_is_not_overwritten_without_force(small, tmp_path, capsys):
    assert main(small) == 0
    (tmp_path / "set/notes.md").write_text("mine")
    (tmp_path / "set/labels/train/0.txt").write_text("changed")
    assert main(small) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "set/labels/train/0.txt").read_text() == "changed"
    assert main([*small, "--force"]) == 0
    assert (tmp_path / "set/labels/train/0.txt").read_text() != "changed"
    assert (tmp_path / "set/notes.md").read_text() == "mine"
    assert not list(tmp_path.glob(".set*"))


def test_force_never_deletes_what_is_being_converted(small, tmp_path):
    (tmp_path / "photos").rename(tmp_path / "images")
    with pytest.raises(UserError, match="would delete"):
        convert.voc_to_yolo(tmp_path / "xml", tmp_path / "images", tmp_path, force=True)
    assert len(list((tmp_path / "images").iterdir())) == 8


def test_a_failed_conversion_leaves_nothing_behind(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.copyfile", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    assert main(small) == 2
    assert "the data set cannot be written: disk full" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "xml"}


def test_unreadable_pictures_are_left_out_and_named(small, tmp_path):
    (tmp_path / "photos/3.png").write_bytes((tmp_path / "photos/3.png").read_bytes()[:60])
    done = convert.voc_to_yolo(tmp_path / "xml", tmp_path / "photos", tmp_path / "set")
    assert done.pictures == {"train": 7}
    assert [(p.kind, p.file.name) for p in done.problems] == [("picture left out", "3.png")]


def test_shares_are_about_met_and_a_picture_never_changes_its_split():
    names = [f"picture {number}" for number in range(2000)]
    found = [split_by_share(name, (70, 20, 10)) for name in names]
    assert np.mean([split == "train" for split in found]) == pytest.approx(0.7, abs=0.04)
    assert np.mean([split == "val" for split in found]) == pytest.approx(0.2, abs=0.04)
    assert found == [split_by_share(name, (0.7, 0.2, 0.1)) for name in names]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train2017/a.jpg", "train"),
        ("training_dataset/training_data/images/a.mat", "train"),
        ("valid/a.jpg", "val"),
        ("test/images/a.jpg", "test"),
        ("photos/a.jpg", None),
        ("trainers/a.jpg", None),
        ("test/train/a.jpg", "train"),
    ],
)
def test_folders_tell_the_split(path, split):
    assert split_from_folders(Path(path)) == split


@pytest.mark.parametrize("kind", ["voc", "coco", "hand"])
def test_each_formats_help_shows_an_example_of_its_own(kind, capsys):
    with pytest.raises(SystemExit):
        main(["convert", kind, "--help"])
    assert f"thinyolo convert {kind} " in capsys.readouterr().out.split("examples:")[1]


@pytest.mark.parametrize(
    "change",
    [["--names", "a,a"], ["--names", "gone.txt"], ["--shares", "0", "0", "0"], ["--splits", "."], ["--images", "no"]],
)
def test_wrong_arguments_end_with_status_2_and_without_traceback(small, change, capsys):
    assert main([*small, *change]) == 2
    assert "error: " in capsys.readouterr().err
