"""By its digests a run knows its pictures and labels again."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest

from data import contents, label_files, remembered
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
    monkeypatch.setattr(remembered, "YOUNG", 0)
    picture = write(tmp_path / "images/a.png", b"a" * 100)
    write(tmp_path / "labels/a.txt", b"0 .5 .5 .2 .2\n")
    before = pictures_digest([picture]), labels_digest([picture])
    monkeypatch.setattr(contents, "open", None, raising=False)
    monkeypatch.setattr(label_files, "open", None, raising=False)
    assert (pictures_digest([picture]), labels_digest([picture])) == before


def test_a_change_that_leaves_times_and_size_is_noticed_in_files_just_written(tmp_path: Path) -> None:
    """Two changes within a tick of the file system's clock leave the same stamp."""
    picture = write(tmp_path / "images/a.png", b"a" * 100)
    label = write(tmp_path / "labels/a.txt", b"0 .5 .5 .2 .2\n")
    before = pictures_digest([picture]), labels_digest([picture])
    stamp = remembered.stamps_of([picture, label])
    assert (stamp[:, 3] < 0).all(), "too young to be known again"
    memories = [*remembered.cache_folder().glob("checked/*.npz")]
    assert len(memories) == 2
    for memory in memories:
        with np.load(memory) as parts:
            assert (parts["rows"]["stamp"][:, 3] < 0).all()
    assert (pictures_digest([picture]), labels_digest([picture])) == before


@pytest.mark.parametrize("kind", ["cut", "empty", "flipped", "pickle", "other rows", "folder"])
def test_a_damaged_memory_is_never_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(remembered, "YOUNG", 0)
    monkeypatch.setattr(remembered, "_unwritten", {})
    picture = write(tmp_path / "images/a.png", b"a" * 100)
    write(tmp_path / "labels/a.txt", b"0 .5 .5 .2 .2\n1 .1 .1 .1 .1\n")
    files = [str(tmp_path / "labels/a.txt")]

    def found() -> tuple[object, ...]:
        read = label_files.read_label_files(files)
        assert read.boxes[0] is not None
        return pictures_digest([picture]), read.digests, read.boxes[0].tolist()

    before = found()
    for memory in remembered.cache_folder().glob("checked/*.npz"):
        raw = memory.read_bytes()
        for place in range(0, len(raw), 7) if kind == "flipped" else [0]:
            changed = bytearray(raw)
            changed[place] ^= 0x10
            memory.unlink(missing_ok=True)
            if kind == "folder":
                memory.mkdir()
            elif kind == "pickle":
                np.savez(memory, rows=np.array([Bomb()], object), more=np.zeros(0, np.uint8))
            elif kind == "other rows":
                with np.load(io.BytesIO(raw)) as parts:
                    more = np.frombuffer(parts["more"].tobytes() + b"1234", np.uint8)
                    np.savez(memory, rows=parts["rows"][[0, 0]], more=more)
            else:
                memory.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "flipped": bytes(changed)}[kind])
            assert found() == before


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a memory was executed",)


def test_where_nothing_can_be_written_a_process_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "YOUNG", 0)
    monkeypatch.setenv("THINYOLO_CACHE", "/proc/nowhere")
    picture = write(tmp_path / "images/a.png", b"a" * 100)
    before = pictures_digest([picture])
    monkeypatch.setattr(contents, "open", None, raising=False)
    assert pictures_digest([picture]) == before


def test_ten_thousand_pictures_take_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "WHOLE", 0)
    pictures = [write(tmp_path / f"images/{number}.jpg", bytes(4 * BLOCK)) for number in range(10_000)]
    began = time.process_time()
    pictures_digest(pictures)
    labels_digest(pictures)
    assert time.process_time() - began < 3
