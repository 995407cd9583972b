"""What `thinyolo check` tells and draws."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.labels import check
from reporting.data_check import check_text
from reporting.data_page import chosen, write_data_page
from tests.data.made import write_set
from thinyolo.main import main


def grey(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 255, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINYOLO_CACHE", str(tmp_path / "cache"))
    pictures: list[tuple[np.ndarray, str | None]] = [
        (grey(1), "0 .5 .5 .5 .5\n0 .2 .2 .1 .1\n"),
        (grey(2), "1 .5 .5 .9 .9\n"),
        (grey(3), ""),
        (grey(4), None),
    ]
    return write_set(tmp_path / "set", {"train": pictures, "val": [(grey(5), "0 .5 .5 .5 .5\n")]})


def test_counts_stand_by_split_and_class(path: Path) -> None:
    text = check_text(check(path))
    assert re.search(r"^train +4 +0 +3 +1 +1 +0\.8 \(at most 2\)$", text, re.MULTILINE)
    assert re.search(r"^0  a +2 +1 +1 +1$", text, re.MULTILINE)
    assert re.search(r"^1  b +1 +1 +0 +0$", text, re.MULTILINE)
    assert "all 60 x 40 pixels" in text
    assert "class without an object in val" in text
    assert "-> put some of its pictures into val" in text


def test_the_command_prints_draws_and_fails_where_training_would(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = path.parent / "page.html"
    assert main(["check", str(path), "--html", str(page)]) == 0
    assert "no errors, 2 warnings" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 6
    assert text.count("data:image/jpeg;base64,") == 5
    assert "://" not in re.sub('data:image[^"]*', "", text), "nothing is fetched"
    (path.parent / "labels/val/val000.txt").write_text("9 .5 .5 .5 .5\n")
    assert main(["check", "--data", str(path)]) == 2
    said = capsys.readouterr()
    assert "class out of range" in said.err
    assert "no training would start on it" in said.out
    assert re.search(r"^val +1 ", said.out, re.MULTILINE), "the counts stand there all the same"


def test_a_page_replaces_nothing_but_a_page(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = path.parent / "notes.html"
    own.write_text("mine")
    for wanted in (path, next(path.parent.rglob("*.png")), own, Path("/proc/page.html")):
        before = wanted.read_bytes() if wanted.exists() else None
        assert main(["check", str(path), "--html", str(wanted)]) == 2
        assert "name another file" in capsys.readouterr().err
        assert before is None or wanted.read_bytes() == before


def test_a_page_is_written_of_a_set_in_which_nothing_is_right(path: Path, tmp_path: Path) -> None:
    for label in path.parent.rglob("*.txt"):
        label.write_text("x\n")
    text = write_data_page(tmp_path / "page.html", check(path)).read_text()
    assert "no training would start on it" in text
    assert "is not `class cx cy w h`" in text


def test_a_device_or_a_folder_is_not_replaced_by_the_page(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", tmp_path / ("x" * 300)):
        with pytest.raises(UserError):
            write_data_page(place, check(path))
    assert (tmp_path / "pipe").is_fifo()


def test_every_class_is_among_the_pictures_shown(path: Path) -> None:
    found = check(path).scans["train"]
    assert set(chosen(found, 4)) == {0, 1, 2, 3}
    assert {0, 1} <= set(chosen(found, 3))
