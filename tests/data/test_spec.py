from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.spec import label_places, load_spec
from tests.data.made import write_picture, write_set
from tests.shared import shared

BLACK = np.zeros((8, 8, 3), np.uint8)
ONE = "0 .5 .5 .5 .5\n"


def test_folders_are_searched_in_order_and_deeply(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(BLACK, ONE)] * 2, "val": [(BLACK, ONE)]})
    write_picture(tmp_path / "images/train/deeper/z.jpg", BLACK)
    (tmp_path / "images/train/notes.md").write_text("no picture")
    spec = load_spec(path)
    assert spec.names == ("a", "b")
    assert [picture.name for picture in spec.splits["train"]] == ["z.jpg", "train000.png", "train001.png"]
    assert spec.source == path


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}"])
def test_names_may_be_a_list_or_a_map(tmp_path: Path, names: str) -> None:
    assert load_spec(write_set(tmp_path, {"train": [(BLACK, ONE)]}, names)).names == ("cat", "dog")


def test_root_path_list_files_and_lists_of_them(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [(BLACK, ONE)] * 3})
    (tmp_path / "set/some.txt").write_text("images/train/train000.png\n\n./images/train/train002.png\n")
    yaml = tmp_path / "configs/mine.yaml"
    yaml.parent.mkdir()
    yaml.write_text("path: ../set\ntrain: [some.txt, images/train/train001.png]\nval: some.txt\nnc: 1\nnames: [x]\n")
    spec = load_spec(yaml)
    assert [picture.name for picture in spec.splits["train"]] == ["train000.png", "train002.png", "train001.png"]
    assert len(spec.splits["val"]) == 2
    assert all(picture.is_file() for picture in spec.splits["train"])


def test_darknet_data_file(tmp_path: Path) -> None:
    write_set(tmp_path, {"train": [(BLACK, ONE)] * 2})
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("images/train/train000.png\nimages/train/train001.png\n")
    data = tmp_path / "obj.data"
    data.write_text("classes = 2\ntrain = train.txt\nvalid=train.txt # the same\nnames = obj.names\nbackup = backup/\n")
    spec = load_spec(data)
    assert spec.names == ("cat", "dog")
    assert len(spec.splits["train"]) == len(spec.splits["val"]) == 2
    data.write_text("classes = 3\ntrain = train.txt\nnames = obj.names\n")
    with pytest.raises(UserError, match=r"obj\.data:1: .*classes = 3.*2 names"):
        load_spec(data)


def test_labels_stand_for_the_last_images_folder() -> None:
    assert label_places("/a/images/b/images/c/x.y.jpg")[0] == Path("/a/images/b/labels/c/x.y.txt")
    assert label_places("/a/pictures/x.png")[0] == Path("/a/pictures/x.txt")
    assert label_places("images")[0] == Path("images.txt")


def test_single_class_keeps_how_many_the_files_use(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(BLACK, ONE)]})
    spec = load_spec(path, single_cls=True)
    assert spec.classes == 1
    assert len(spec.label_names) == 2
    assert load_spec(load_spec(path), single_cls=True) == spec == load_spec(spec, single_cls=True)


def test_a_single_class_is_one_already(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(BLACK, ONE)]}, names="[dog]")
    assert load_spec(path, single_cls=True) == load_spec(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train\nnames: [a]\nnc: 2\n", r"data\.yaml:3: .*nc: 2.* 1 name "),
        ("train: images/train\nnames: {0: a, 2: b}\n", r"data\.yaml:2: .*\[1\] missing"),
        ("train: images/train\nnames: {x: a}\n", r"data\.yaml:2: .*whole numbers"),
        ("train: images/train\n", r"`names` must be"),
        ("train: [\nnames", r"data\.yaml:\d: is not valid yaml"),
        ("just words", r"is not a data set"),
        ("train: nowhere\nnames: [a]\n", r"data\.yaml:1: 'train' has no pictures: 'nowhere' is not in"),
        ("names: [a]\n", r"names no pictures"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = write_set(tmp_path, {"train": [(BLACK, ONE)]})
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_spec(path)


def test_an_absent_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data set file .*nothing\.yaml"):
        load_spec(tmp_path / "nothing.yaml")


def test_a_split_is_only_missed_when_it_is_asked_for(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(BLACK, ONE)], "val": []})
    path.write_text(path.read_text() + "test: images/nowhere\n")
    spec = load_spec(path)
    assert len(spec.require("train")) == 1
    with pytest.raises(UserError, match=r"data\.yaml:3: 'val' has no pictures: no picture in"):
        spec.require("val")
    with pytest.raises(UserError, match=r"data\.yaml:4: 'test' has no pictures: .*nowhere"):
        spec.require("test")
    path.write_text("train: images/train\nnames: [a]\n")
    with pytest.raises(UserError, match=r"names no 'test' split; it has train"):
        load_spec(path).require("test")


def test_the_example_in_cfg_is_a_data_set(tmp_path: Path) -> None:
    write_set(tmp_path, {"train": [(BLACK, ONE)], "val": [(BLACK, ONE)]})
    example = Path(__file__).resolve().parents[2] / "cfg/datasets/example.yaml"
    (tmp_path / "mine.yaml").write_text(example.read_text())
    assert load_spec(tmp_path / "mine.yaml").names == ("cat", "dog")


@pytest.mark.parametrize(("name", "train", "classes"), [("bccd", 205, 3), ("coco128", 128, 80)])
def test_real_data_sets_are_found(name: str, train: int, classes: int) -> None:
    spec = load_spec(shared(f"datasets/{name}") / "data.yaml")
    assert len(spec.require("train")) == train
    assert spec.classes == classes
