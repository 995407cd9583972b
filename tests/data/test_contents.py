"""By its digests a run knows its pictures and labels again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from data import contents
from data.contents import BLOCK, labels_digest, last_changed, pictures_digest


def write(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("whole", [contents.WHOLE, 0], ids=["whole", "blocks"])
@pytest.mark.parametrize("place", [0, 5 * BLOCK, -1], ids=["first", "middle", "last"])
def test_a_byte_that_changed_is_noticed_whatever_the_time_says(
    whole: int, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "WHOLE", whole)
    pictures = [
        write(tmp_path / f"images/{number}.png", bytes(10 * BLOCK - 1) + bytes([number])) for number in range(3)
    ]
    before = pictures_digest(pictures)
    assert pictures_digest(pictures) == before
    was = pictures[1].stat()
    raw = bytearray(pictures[1].read_bytes())
    raw[place] = 7
    (tmp_path / "new").write_bytes(raw)
    os.utime(tmp_path / "new", ns=(was.st_atime_ns, was.st_mtime_ns))
    os.replace(tmp_path / "new", pictures[1])
    assert pictures_digest(pictures) != before
    assert pictures_digest(pictures[::-1]) != pictures_digest(pictures), "the order counts"


def test_what_cannot_be_read_is_known_as_that(tmp_path: Path) -> None:
    pictures = [write(tmp_path / "images/a.png", b"a"), tmp_path / "images/b.png"]
    absent = pictures_digest(pictures)
    os.mkfifo(pictures[1])
    assert pictures_digest(pictures) == absent, "nobody waits for a pipe"
    pictures[1].unlink()
    write(pictures[1], b"")
    assert pictures_digest(pictures) != absent


def test_labels_are_their_words_in_lines(tmp_path: Path) -> None:
    picture = write(tmp_path / "images/a.png", b"")
    none = labels_digest([picture])
    label = write(tmp_path / "labels/a.txt", b"")
    assert labels_digest([picture]) != none, "no file is not an empty one"
    label.write_bytes(b"0 .5 .5 .2 .2\n1 .1 .1 .1 .1\n")
    before = labels_digest([picture])
    label.write_bytes(b"\r\n0  .5 .5 .2 .2 \r\n1 .1 .1 .1 .1")
    assert labels_digest([picture]) == before
    for other in (b"0 .5 .5 .2 .2 1 .1 .1 .1 .1", b"1 .1 .1 .1 .1\n0 .5 .5 .2 .2", b"0 .5 .5 .2 .3\n1 .1 .1 .1 .1"):
        label.write_bytes(other)
        assert labels_digest([picture]) != before
    assert last_changed([picture], labels=True).startswith(f"{label}, 20")
    assert last_changed([]) == ""


def test_a_second_look_reads_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = write(tmp_path / "images/a.png", b"a" * 100)
    before = pictures_digest([picture])
    monkeypatch.setattr("builtins.open", None)
    assert pictures_digest([picture]) == before


def test_ten_thousand_pictures_take_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "WHOLE", 0)
    pictures = [write(tmp_path / f"images/{number}.jpg", bytes(4 * BLOCK)) for number in range(10_000)]
    began = time.process_time()
    pictures_digest(pictures)
    labels_digest(pictures)
    assert time.process_time() - began < 3
