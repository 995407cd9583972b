"""What a data set's file says, taken as it is written."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.labels import check
from data.spec import load_spec
from tests.data.made import write_picture, write_set

GREY = np.full((8, 12, 3), 90, np.uint8)
ONE = "0 .5 .5 .5 .5\n"


def a_set(tmp_path: Path, text: str) -> Path:
    path = write_set(tmp_path, {"train": [(GREY, ONE)], "val": [(GREY + 1, ONE)]})
    path.write_text(text if "train:" in text else f"train: images/train\nval: images/val\n{text}\n")
    return path


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("[no, yes]", ("no", "yes")),
        ("[on, Off]", ("on", "Off")),
        ("{0: null, 1: ~}", ("null", "~")),
        ("[1e3, 0x1F]", ("1e3", "0x1F")),
        ("[2020-01-01, 12:30:45]", ("2020-01-01", "12:30:45")),
        ("[007, .inf]", ("007", ".inf")),
        ("['a b', \"c: d\"]", ("a b", "c: d")),
    ],
)
def test_names_are_what_is_written(tmp_path: Path, names: str, read: tuple[str, ...]) -> None:
    assert load_spec(a_set(tmp_path, f"names: {names}")).names == read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [a, a]", "classes 0 and 1 are both called 'a'"),
        ("names: ['a', 'b', 'a ']", "classes 0 and 2 are both called 'a '"),
        ("names: ['', b]", "class 0 has no name"),
        ("names: {0: a, 0: b}", "class 0 has two names"),
        ("names: [[a], b]", "must be a word"),
        ('names: ["a\\nb"]', "control character"),
        ("names: [a]\nnames: [b]", "`names` is given twice"),
        ("nc: 1000000000", "`nc` must be a whole number from 1 to 100,000"),
        ("nc: 1e3", "`nc` must be a whole number"),
        ("names: [a]\nkpt_shape: 17", "`kpt_shape` must be a list of numbers"),
        ("names: [a]\nkpt_shape: [.inf, 2]", "`kpt_shape` must be"),
        ("names: [a]\nkpt_shape: [inf, 2]", "`kpt_shape` must be"),
        ("names: [a]\npixel_range: [9, 1]", "the lower value first"),
        ("names: [a]\nmax_det: 0", "`max_det` must be a whole number from 1"),
        ("names: &a [*a]", "must be a word"),
        (f"names: {'[' * 5000}", "is not valid yaml"),
        ("train: {a: b}\nnames: [a]", "`train` must be a word|train must be a word"),
        ("train: ~nobody_of_this_name/x\nnames: [a]", "there is no user 'nobody_of_this_name'"),
        ("train: /dev/zero\nnames: [a]", "is not an ordinary file"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_spec(a_set(tmp_path, text))


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    start = time.process_time()
    with pytest.raises(UserError, match="must be a word"):
        load_spec(a_set(tmp_path, "\n".join([*lines, "names: *a39"])))
    assert load_spec(a_set(tmp_path / "other", "\n".join([*lines, "names: [a]"]))).names == ("a",)
    assert time.process_time() - start < 2


def test_texts_that_are_none_are_named_with_their_line(tmp_path: Path) -> None:
    path = a_set(tmp_path, "names: [a]")
    (tmp_path / "obj.names").write_bytes(b"cat\nchi\xe9n\n")
    (tmp_path / "train.txt").write_text("images/train/train000.png\n")
    data = tmp_path / "obj.data"
    data.write_text("classes=2\ntrain=train.txt\nvalid=train.txt\nnames=obj.names\n")
    with pytest.raises(UserError, match=r"obj\.names:2: is not a text file in UTF-8 \(byte 0xe9\)\n  -> .*iconv"):
        load_spec(data)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_bytes(b"images/train/train000.png\nimages/\0x.png\n")
    with pytest.raises(UserError, match=r"train\.txt:2: is not a text file with one picture a line"):
        load_spec(data)
    for raw in ("names: [é]".encode("utf-16"), b"names: [\xff]", b"\x80"):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"data\.yaml"):
            load_spec(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is not an ordinary file"):
        load_spec(path)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        load_spec("x" * 300 + ".yaml")


def exported(root: Path, train: str) -> Path:
    """A set as tools export it: train/images and valid/images beside the yaml."""
    for split in ("train", "valid"):
        write_picture(root / split / "images/a.png", GREY + len(split))
        (root / split / "labels").mkdir(parents=True)
        (root / split / "labels/a.txt").write_text(ONE)
    path = root / "data.yaml"
    path.write_text(f"train: {train}\nval: {train.replace('train', 'valid')}\nnames: [a]\n")
    return path


@pytest.mark.parametrize(
    "train",
    [
        "../train/images",
        "..\\train\\images",
        ".\\train\\images",
        "train\\images",
        "../../train/images",
        "./train/images/",
    ],
)
def test_paths_as_tools_export_them_are_found(tmp_path: Path, train: str, caplog: pytest.LogCaptureFixture) -> None:
    path = exported(tmp_path / "deep/set", train)
    assert load_spec(path).splits["train"] == (tmp_path / "deep/set/train/images/a.png",)
    assert not check(path).errors
    assert ("backslashes are read as /" in caplog.text) == ("\\" in train)
    assert ("what lies beside the file is taken" in caplog.text) == (".." in train)


def test_a_sibling_set_is_not_taken_for_what_lies_beside_the_yaml(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exported(tmp_path / "train_of_another", "x")
    (tmp_path / "train_of_another/train").rename(tmp_path / "train")
    path = exported(tmp_path / "set", "../train/images")
    assert load_spec(path).splits["train"] == (tmp_path / "set/train/images/a.png",)
    assert f"and not {tmp_path / 'train/images'}, which exists too" in caplog.text
    path.write_text(f"path: {tmp_path / 'set'}\n" + path.read_text())  # who names a folder means what is written
    assert load_spec(path).splits["train"] == (tmp_path / "train/images/a.png",)


def test_list_files_with_backslashes_and_ups_are_read(tmp_path: Path) -> None:
    path = a_set(tmp_path, "names: [a]")
    (tmp_path / "list.txt").write_bytes(b".\\images\\train\\train000.png\r\n../images/val/val000.png\r\n")
    path.write_text("train: list.txt\nval: images/val\nnames: [a]\n")
    assert [each.name for each in load_spec(path).splits["train"]] == ["train000.png", "val000.png"]


def test_a_folder_in_the_place_of_the_file_names_the_one_that_lies_in_it(tmp_path: Path) -> None:
    path = a_set(tmp_path, "names: [a]")
    with pytest.raises(UserError, match=f"is a folder, not a file: .*\n  -> name the file: .*{path.name}"):
        load_spec(path.parent)


@pytest.mark.parametrize(
    ("text", "words", "todo"),
    [
        (
            "train: images/train\nvalid: images/val\nnames: [a]",
            "yaml:2: names no 'val' split.* key `valid`",
            "call it `val`",
        ),
        ("Train: images/train\nval: images/val\nnames: [a]", "yaml:1: names no 'train' split.* key `Train`", "`train`"),
        ("train_dir: images/train\nval: images/val\nnames: [a]", "yaml:1: names no 'train' split", "`train`"),
        ("Names: [a]", "yaml:3: has no `names`, but `Names`", "call it `names`"),
        ("classes: [a]", "yaml:3: has no `names`, but `classes`", "call it `names`"),
        ("names: [a]\nnc: 2", "yaml:4: `nc: 2` disagrees with the 1 name", "write `nc: 1`"),
        ("nc: 0", "yaml:3: `nc` must be a whole number", "leave out `nc`"),
        ("names: {0: a, 2: b}", r"run from 0 to 1; \[1\] missing", "1: unused"),
        ("names: {1: a, 2: b}", r"run from 0 to 1; \[0\] missing", "from 0, and the labels like them"),
        ("names: {a: 0, b: 1}", "must be whole numbers, not 'a'", "0: a, 1: b"),
        ("names: cat, dog", "a list or a map of class names, and is 'cat, dog'", r"names: \[cat, dog\]"),
        ("names: \"['cat', 'dog']\"", "a list or a map", "take away the quotes"),
        ("names: classes.txt", "a list or a map", "they are in classes.txt"),
        ("names:\n- 0: cat\n- 1: dog", "yaml:4: names must be a word", "a map: names: {0: cat, 1: dog}"),
        ("names: 3", "and is '3'", "add e.g. `names: "),
        ("\tnames: [a]", "yaml:3: is not valid yaml", "indent with spaces"),
        ("train:images/train\nval:images/val\nnames:[a]", "is not a data set", "a space after each colon"),
        ("names: [a", "is not valid yaml", "close the list"),
        ('path: "C:\\data"\nnames: [a]', "yaml:3: is not valid yaml", "single quotes"),
        ("names: [a]\n---\nnames: [b]", "is not valid yaml", "from the second --- on"),
        ("names: [%a]", "is not valid yaml", "in quotes"),
        ("train: {path: images/train}\nnames: [a]", "`train` must be a word", "name a folder"),
        (
            "train: images/train, images/val\nval: images/val\nnames: [a]",
            "not in",
            r"train: \[images/train, images/val\]",
        ),
        ("train: http://x/a\nval: images/val\nnames: [a]", "not in", "download"),
        ("train: pictures\nval: images/val\nnames: [a]", "not in", "there are pictures in images/train, images/val"),
        ('{"images": [], "annotations": [], "categories": []}', "is COCO's JSON", "thinyolo convert coco"),
        ("names: [a]\nkpt_shape: 17", "must be a list of numbers", "kpt_shape: "),
    ],
)
def test_what_is_wrong_with_a_yaml_is_told_with_what_to_write(tmp_path: Path, text: str, words: str, todo: str) -> None:
    full = text if "images" in text else f"train: images/train\nval: images/val\n{text}\n"
    path = a_set(tmp_path, "names: [a]")
    path.write_text(full)
    with pytest.raises(UserError, match=rf"(?s){words}.*\n  -> .*{todo}"):
        check(path).announce()


def test_a_bomb_of_merged_maps_does_not_go_off(tmp_path: Path) -> None:
    lines = ["m0: &m0 {x: y}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 50)}], k{n}: v}}" for n in range(1, 40)]
    lines += ["round: &r {<<: *m39}", "<<: *r", "names: [a]"]
    start = time.process_time()
    assert load_spec(a_set(tmp_path, "\n".join(lines))).names == ("a",)
    assert time.process_time() - start < 2


def test_merged_maps_are_read_and_own_keys_go_first(tmp_path: Path) -> None:
    path = a_set(tmp_path, "names: [a]")
    path.write_text("base: &b\n  train: images/train\n  names: [z]\n<<: *b\nval: images/val\nnames: [a]\n")
    spec = load_spec(path)
    assert (spec.names, len(spec.splits["train"]), len(spec.splits["val"])) == (("a",), 1, 1)


def test_keys_of_another_case_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_spec(a_set(tmp_path, "names: [a]\nMax_Det: 3")).max_det == 100
    assert "data.yaml:4: `Max_Det` is not used -> call it `max_det`" in caplog.text


def test_a_split_that_is_empty_is_as_good_as_none(tmp_path: Path) -> None:
    for test in ("", "''", "[]", "null", "~"):
        assert "test" not in load_spec(a_set(tmp_path / (test or "x"), f"names: [a]\ntest: {test}")).splits
