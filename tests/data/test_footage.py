"""Pictures that nobody labelled: what is found, what may not be among them, and how it is said."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from data.footage import find_footage, scan_footage, without_copies
from data.pictures import read_picture
from data.spec import load_spec
from data.video import video_frames
from tests.data.made import line, write_picture, write_set

SHAPE = (48, 64)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SHAPE, 3)).astype(np.uint8)


def make_video(path: Path, frames: int = 25) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, SHAPE[::-1])
    for number in range(frames):
        writer.write(np.full((*SHAPE, 3), 6 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, one of them in a folder below, and something that is none."""
    for number in range(4):
        write_picture(tmp_path / "footage" / f"{number}.png", noise(number))
    write_picture(tmp_path / "footage/below/4.png", noise(4))
    (tmp_path / "footage/notes.txt").write_text("nothing to see\n")
    return tmp_path / "footage"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of three pictures a split."""
    seeds = {"train": (10, 11, 12), "val": (20, 21, 22), "test": (30, 31, 32)}
    return write_set(
        tmp_path / "set",
        {split: [(noise(seed), line(SHAPE, (4, 4, 30, 30))) for seed in own] for split, own in seeds.items()},
    )


def test_folder_list_video_and_picture_are_found_and_each_picture_once(folder: Path, tmp_path: Path) -> None:
    video = make_video(tmp_path / "film.avi")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{folder / '0.png'}\nfootage/1.png\n")
    entries = [str(each) for each in (listing, folder, folder / "2.png", video)]
    found = find_footage(entries, tmp_path / "frames", every=10)
    assert [path.name for path in found[:5]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [path.name for path in found[5:]] == ["0000000.jpg", "0000010.jpg", "0000020.jpg"]


def test_videos_in_a_folder_are_sampled(folder: Path, tmp_path: Path) -> None:
    make_video(folder / "below/film.avi")
    assert len(find_footage([str(folder)], tmp_path / "frames", every=5)) == 5 + 5


def test_a_broken_video_in_a_folder_costs_only_itself(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "._film.mp4").write_bytes(b"what macOS says of one")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_video(elsewhere / "film.avi")
    (folder / "linked").symlink_to(elsewhere)
    assert len(find_footage([str(folder)], tmp_path / "frames", every=5)) == 5 + 5
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "broken.mp4" in said
    assert "left out" in said


def test_video_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = str(make_video(tmp_path / "film.avi"))
    first = find_footage([video], tmp_path / "frames", every=10)
    assert [int(read_picture(path).mean()) for path in first] == pytest.approx([0, 60, 120], abs=2)
    monkeypatch.setattr("data.footage.video_frames", lambda *_: pytest.fail("decoded again"))
    assert find_footage([video], tmp_path / "frames", every=10) == first
    monkeypatch.undo()
    make_video(tmp_path / "film.avi", frames=40)
    assert len(find_footage([video], tmp_path / "frames", every=10)) == 4, "another film under the same name"


def test_half_decoded_video_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = make_video(tmp_path / "film.avi")
    monkeypatch.setattr("data.video.pixel_digest", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        video_frames(video, tmp_path / "frames", 10)
    assert [path.name for path in tmp_path.iterdir()] == ["film.avi"]


def test_a_video_that_ends_before_its_header_says_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = make_video(tmp_path / "whole.avi", 40)
    assert len(video_frames(whole, tmp_path / "all", 3)) == 14
    assert "cannot be read" not in caplog.text
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = video_frames(cut, tmp_path / "some", 1)
    assert 5 < len(frames) < 35
    assert f"its header tells of 40 frames: those behind {len(frames)} cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("nowhere", "no such file or folder"),
        ("empty", "no picture and no video"),
        ("list.txt", r"2 of the 3 pictures of the list are not there: .*gone.png.*gone2.png"),
        ("broken.mp4", "not a frame of the video can be read"),
        ("footage/notes.bin", "not a text file"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    entry: str, words: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("footage/0.png\ngone.png\ngone2.png\n")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.bin").write_bytes(bytes([0xFF, 0xFE, 0x00, 0x81]))
    with pytest.raises(UserError, match=words):
        find_footage([entry], tmp_path / "frames", every=10)


def test_pictures_of_val_and_test_are_refused_whatever_they_are_called(folder: Path, data: Path) -> None:
    spec = load_spec(data)
    pictures = sorted(folder.glob("*.png"))
    for split, count in (("test", 1), ("val", 3)):
        copied = []
        for number, original in enumerate(spec.splits[split][:count]):
            copied.append(folder / f"other name {split}{number}.png")
            shutil.copy(original, copied[-1])
        words = f"{count} of its {4 + count} pictures are also in '{split}'.*" + ", ".join(
            each.name for each in copied[:1]
        )
        with pytest.raises(UserError, match=words):
            without_copies([*pictures, *copied], spec)


def test_refusal_names_three_of_many(folder: Path, data: Path) -> None:
    spec = load_spec(data)
    copied = []
    for number in range(5):
        copied.append(folder / f"copy{number}.png")
        shutil.copy(spec.splits["val"][0], copied[-1])
    with pytest.raises(UserError, match=r"5 of its 5 .*copy0.png, .*copy1.png, .*copy2.png, \.\.\."):
        without_copies(copied, spec)


def test_frame_of_a_video_that_is_a_picture_of_val_is_refused(tmp_path: Path) -> None:
    """The frames are kept as JPEG; they are compared as they were decoded."""
    video = make_video(tmp_path / "film.avi")
    reader = cv2.VideoCapture(str(video))
    for _ in range(11):
        _, frame = reader.read()
    pictures = [(noise(1), line(SHAPE, (4, 4, 30, 30)))]
    data = write_set(tmp_path / "set", {"train": pictures, "val": [(frame[..., ::-1], line(SHAPE, (4, 4, 30, 30)))]})
    frames = find_footage([str(video)], tmp_path / "frames", every=10)
    with pytest.raises(UserError, match=r"1 of its 3 pictures are also in 'val'.*0000010.jpg"):
        without_copies(frames, load_spec(data))
    others = find_footage([str(video)], tmp_path / "frames", every=9)
    assert without_copies(others, load_spec(data)) == (others, 0)


def test_pictures_that_have_labels_are_left_out(folder: Path, data: Path) -> None:
    spec = load_spec(data)
    pictures = sorted(folder.glob("*.png"))
    shutil.copy(spec.splits["train"][1], folder / "copy.png")
    assert without_copies([*pictures, spec.splits["train"][0], folder / "copy.png"], spec) == (pictures, 2)
    with pytest.raises(UserError, match="all 3 pictures are in the training split"):
        without_copies(list(spec.splits["train"]), spec)


def test_damaged_pictures_are_named_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "thinyolo")
    (folder / "1.png").write_bytes(b"no picture")
    found = scan_footage(sorted(folder.glob("*.png")))
    assert [path.name for path in found.pictures] == ["0.png", "2.png", "3.png"]
    assert found.boxes == 0
    assert "1.png" in caplog.text
    (folder / "only.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of its pictures can be read"):
        scan_footage([folder / "only.png"])


def test_footage_whose_values_have_no_range_is_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    assert cv2.imwrite(str(paths[0]), np.zeros((8, 8), np.float32))
    assert cv2.imwrite(str(paths[1]), np.zeros((8, 8), np.uint8))
    assert scan_footage(paths).pictures == paths[1:]
    assert scan_footage(paths, (0, 1)).pictures == paths
