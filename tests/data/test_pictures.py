"""Pictures as the reader that trains has them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.dataset import Dataset
from data.labels import check
from data.pictures import picture_facts, picture_shapes, read_picture
from data.sources import PictureReader, find_sources
from reporting.data_check import sizes_lines
from tests.data.made import write_picture, write_set

ONE = "0 .5 .5 .5 .5\n"


def deep(tmp_path: Path, high: int, suffix: str = ".png", more: str = "") -> Path:
    grey = np.linspace(0, high, 40 * 60).reshape(40, 60).astype(np.uint16)
    path = write_set(tmp_path, {"train": [(grey, ONE)], "val": [(grey[::-1], ONE)]}, suffix=suffix)
    path.write_text(path.read_text() + more)
    return path


@pytest.mark.parametrize(
    ("high", "suffix", "left"), [(4095, ".png", 16), (1023, ".tif", 4), (16383, ".pgm", 64), (300, ".png", 2)]
)
def test_crushed_depth_is_told_with_the_range_found(tmp_path: Path, high: int, suffix: str, left: int) -> None:
    (problem,) = check(deep(tmp_path, high, suffix), ["train"]).problems
    assert (
        problem.kind == f"the values of the pictures of 16 bits lie in 0 to {high}: {left} of 256 grey levels are left"
    )
    assert f"pixel_range: [0, {high}]" in problem.todo


def test_a_hot_pixel_hides_no_crushed_depth(tmp_path: Path) -> None:
    path = deep(tmp_path, 4095)
    for file in (tmp_path / "images/train").iterdir():
        values = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        values[3, 4] = 65535
        assert cv2.imwrite(str(file), values)
    (problem,) = check(path, ["train"]).problems
    assert "16 of 256 grey levels are left" in problem.kind


def test_a_pixel_range_stretches_what_is_trained_on(tmp_path: Path) -> None:
    assert not check(deep(tmp_path / "full", 65535), ["train"]).problems
    path = deep(tmp_path, 4095, more="pixel_range: [0, 4095]\n")
    assert not check(path, ["train"]).problems
    image = Dataset(path, "train", (40, 60))[0].image
    assert len(np.unique(image)) == 256
    assert (int(image.min()), int(image.max())) == (0, 255)
    grey = cv2.imread(str(tmp_path / "images/train/train000.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(image[0].numpy(), grey / 4095 * 255, atol=0.51)
    (other,) = check(deep(tmp_path / "wrong", 4095, more="pixel_range: [5000, 9000]\n"), ["train"]).problems
    assert "pixel_range, 5000 to 9000, has none of them" in other.kind


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[0, 65535]", "leaves 16 of 256 grey levels"),
        ("[0, 255]", "has the smaller part of them: the others become plain black or white"),
        ("[4095, 9000]", "has none of them"),
        ("[0, 4095]", ""),
        ("[100, 3000]", ""),
    ],
)
def test_a_pixel_range_that_is_not_the_pictures_is_told(tmp_path: Path, given: str, said: str) -> None:
    problems = check(deep(tmp_path, 4095, more=f"pixel_range: {given}\n"), ["train"]).problems
    assert len(problems) == bool(said)
    assert all(problem.kind.endswith(said) or said in problem.kind for problem in problems)
    assert all("pixel_range: [0, 4095]" in problem.todo for problem in problems)


def test_a_pixel_range_for_pictures_of_eight_bits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    path = write_set(tmp_path, {"train": [(grey, ONE)]}, suffix=".jpg")
    path.write_text(path.read_text() + "pixel_range: [0, 4095]\n")
    (problem,) = check(path, ["train"]).problems
    assert problem.kind.startswith("pixel_range is not used for pictures of 8 bits")
    assert problem.detail == "1 of 1 pictures"
    write_picture(tmp_path / "images/train/deep.png", 16 * grey.astype(np.uint16))
    (tmp_path / "labels/train/deep.txt").write_text(ONE)
    (problem,) = check(path, ["train"]).problems
    assert problem.detail == "1 of 2 pictures"
    assert "store all pictures with as many bits" in problem.todo
    reader = PictureReader((0, 4095))
    for source in find_sources([str(tmp_path / "images/train/train000.jpg")]) * 2:
        reader.read(source)
    assert caplog.text.count("pixel_range is not used for pictures of 8 bits") == 1


def test_pictures_of_eight_bits_that_use_few_are_told(tmp_path: Path) -> None:
    dark = (np.arange(40 * 60) % 16).reshape(40, 60).astype(np.uint8)
    path = write_set(tmp_path, {"train": [(dark, ONE)]})
    (problem,) = check(path, ["train"]).problems
    assert problem.kind.startswith("all values of the pictures lie in 0 to 15")


@pytest.mark.parametrize(
    ("kind", "mode"), [("tif", "RGBA"), ("tif", "LA"), ("png", "RGBA"), ("png", "LA"), ("webp", "RGBA")]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_transparency_is_dropped_and_not_multiplied_in(tmp_path: Path, kind: str, mode: str, orientation: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 80, len(mode)), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    picture = Image.fromarray(values, mode)
    picture.save(tmp_path / f"x.{kind}", exif=exif, **options)
    behind = np.repeat(values[..., :1], 3, 2) if mode == "LA" else values[..., :3]
    expected = np.rot90(behind, -1) if orientation == 6 else behind
    assert np.array_equal(read_picture(tmp_path / f"x.{kind}"), expected)
    assert picture_shapes([tmp_path / f"x.{kind}"]) == [expected.shape[:2]]


def test_what_lies_behind_the_end_of_a_png_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    values = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    Image.fromarray(values).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"IDATwhat a cropped screenshot left behind")
    assert np.array_equal(read_picture(path), values)
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match="truncated"):
        read_picture(path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 0, 99])
@pytest.mark.parametrize("kind", ["tif", "jpg", "png", "webp"])
def test_sizes_are_those_of_the_reader_that_trains(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save(tmp_path / f"x.{kind}", exif=exif)
    assert picture_shapes([tmp_path / f"x.{kind}"]) == [read_picture(tmp_path / f"x.{kind}").shape[:2]]


@pytest.mark.parametrize("where", range(6, 34, 3))
def test_damaged_exif_does_not_change_what_is_read(tmp_path: Path, where: int) -> None:
    exif = Image.Exif()
    exif[274] = 6
    exif[271] = "a camera"
    path = tmp_path / "x.jpg"
    Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save(path, exif=exif)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"Exif")
    raw[start + where : start + where + 4] = b"\xff\xfe\xfd\xff"
    path.write_bytes(raw)
    (shape,) = picture_shapes([path])
    assert shape == read_picture(path).shape[:2]


def declared(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60000, 60000), (12000, 12000), (2**31 - 1, 1), (1, 500_000_000)])
def test_a_picture_that_declares_more_than_memory_holds_is_refused_unopened(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(declared(*size))
    (reason,) = picture_facts([path])
    assert isinstance(reason, str)
    with pytest.raises(UserError):
        read_picture(path)


def test_a_png_whose_part_claims_more_than_the_file_is_not_read_on(tmp_path: Path) -> None:
    raw = declared(16, 12).replace(struct.pack(">I", 8) + b"IDAT", b"\xe4\x00\x00\x08IDAT")
    (tmp_path / "x.png").write_bytes(raw)
    (reason,) = picture_facts([tmp_path / "x.png"])
    assert isinstance(reason, str)
    assert reason.startswith("truncated or damaged")


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(np.full((8, 8, 3), 90, np.uint8), ONE)] * 2})
    os.mkfifo(tmp_path / "images/train/pipe.png")
    (tmp_path / "images/train/folder.png").mkdir()
    (tmp_path / "images/train/zero.png").symlink_to("/dev/zero")
    (tmp_path / "labels/train/train001.txt").unlink()
    os.mkfifo(tmp_path / "labels/train/train001.txt")
    report = check(path, ["train"])
    assert sorted((problem.file.name, problem.kind) for problem in report.problems) == [
        ("pipe.png", "picture left out"),
        ("train001.txt", "labels cannot be read"),
        ("zero.png", "picture left out"),
    ]
    assert all("is not an ordinary file" in problem.detail for problem in report.problems)


def test_names_that_are_no_utf8_are_pictures_like_others(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(np.full((8, 8, 3), 90, np.uint8), ONE)]})
    odd = os.fsencode(tmp_path / "images/train") + b"/h\xff.png"
    os.replace(tmp_path / "images/train/train000.png", odd)
    os.replace(tmp_path / "labels/train/train000.txt", os.fsencode(tmp_path / "labels/train") + b"/h\xff.txt")
    for cache in (None, "disk"):
        dataset = Dataset(path, "train", (8, 8), cache=cache)
        assert len(dataset[0].boxes) == 1


def noise(seed: int = 0, shape: tuple[int, ...] = (48, 64, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def saved(path: Path, kind: str | None = None, mode: str = "RGB", frames: int = 1, **options: object) -> Path:
    """A picture as Pillow writes it."""
    images = [Image.fromarray(noise(seed)).convert(mode) for seed in range(frames)]
    if frames > 1:
        options |= {"save_all": True, "append_images": images[1:]}
    if mode in ("RGBA", "LA"):
        images[0].putalpha(128)
    if options.get("exif"):
        exif = Image.Exif()
        exif[274] = options["exif"]
        options["exif"] = exif
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, kind, **options)
    return path


ODD: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "a.jfif": ({"kind": "JPEG"}, ()),
    "a.mpo": ({"frames": 2}, ()),
    "animated.webp": ({"frames": 3}, ("frames",)),
    "animated.png": ({"frames": 2}, ("frames",)),
    "animated.apng": ({"kind": "PNG", "frames": 2}, ("frames",)),
    "pages.tif": ({"frames": 4}, ("frames",)),
    "palette.png": ({"mode": "P"}, ("palette",)),
    "palette.bmp": ({"mode": "P"}, ("palette",)),
    "cmyk.jpg": ({"mode": "CMYK"}, ("CMYK",)),
    "cmyk.tif": ({"mode": "CMYK"}, ("CMYK",)),
    "alpha.png": ({"mode": "RGBA"}, ("transparent",)),
    "alpha.webp": ({"mode": "RGBA", "lossless": True}, ("transparent",)),
    "alpha.tif": ({"mode": "RGBA"}, ("transparent",)),
    "greyalpha.png": ({"mode": "LA"}, ("transparent",)),
    "palettealpha.png": ({"mode": "P", "transparency": bytes(256)}, ("palette", "transparent")),
    "bits.png": ({"mode": "1"}, ()),
    "turned.jpg": ({"exif": 6}, ("turned",)),
    "turned.png": ({"exif": 3}, ("turned",)),
    "upright.jpg": ({"exif": 1}, ()),
    "grey.jpg": ({"mode": "L"}, ()),
    "lab.tif": ({"mode": "LAB"}, ()),
    "a.jp2": ({}, ()),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_read_and_what_is_odd_is_noted(tmp_path: Path, name: str) -> None:
    how, notes = ODD[name]
    path = saved(tmp_path / name, **how)  # type: ignore[arg-type]
    (facts,) = picture_facts([path])
    assert not isinstance(facts, str)
    assert facts.notes == notes
    assert read_picture(path).shape == (*facts.shape, 3)
    assert picture_facts([path]) == [facts], "and remembered"


def test_check_tells_how_many_pictures_are_odd(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(noise(number), ONE) for number in range(3)]})
    saved(tmp_path / "images/train/train000.png", mode="RGBA")
    saved(tmp_path / "images/train/train001.png", mode="P")
    saved(tmp_path / "images/train/train002.png", frames=2)
    report = check(path, ["train"])
    lines = sizes_lines(report)
    assert any(line.startswith("1 pictures with transparency, which is dropped") for line in lines)
    assert any(line.startswith("1 pictures with a palette") for line in lines)
    (several,) = report.problems
    assert (several.severity, several.file.name) == ("warning", "train002.png")
    assert several.kind == "picture of several frames or pages; the first is used"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_range_need_one(tmp_path: Path, channels: int, kind: type) -> None:
    values = np.linspace(0, 1000, 48 * 64).reshape(48, 64).astype(kind)
    path = write_set(tmp_path, {"train": [(noise(), ONE)], "val": [(noise(1), ONE)]}, suffix=".tif")
    picture = tmp_path / "images/train/train000.tif"
    assert cv2.imwrite(str(picture), values if channels == 1 else np.dstack([values] * 3))
    (left_out, error) = check(path, ["train"]).problems
    assert left_out.kind == "picture left out: its values have no range of their own"
    assert left_out.detail == "32 bits, from 0 to 1000"
    assert "pixel_range" in left_out.todo
    assert error.kind == "none of the pictures of 'train' can be read"
    with pytest.raises(UserError, match=r"no range of their own, here 0 to 1000\n  -> .*pixel_range"):
        read_picture(picture)
    path.write_text(path.read_text() + "pixel_range: [0, 1000]\n")
    assert not check(path, ["train"]).problems
    image = Dataset(path, "train", (48, 64))[0].image
    assert (int(image.min()), int(image.max())) == (0, 255)


def test_numbers_that_are_none_in_a_picture_become_black(tmp_path: Path) -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0], values[1, 1] = np.nan, np.inf
    assert cv2.imwrite(str(tmp_path / "x.tif"), values)
    (facts,) = picture_facts([tmp_path / "x.tif"])
    assert not isinstance(facts, str)
    assert (facts.low, facts.high) == (0.5, 0.5)
    assert read_picture(tmp_path / "x.tif", (0, 1))[0, 0].tolist() == [0, 0, 0]
    assert read_picture(tmp_path / "x.tif", (0, 1))[1, 1].tolist() == [255, 255, 255]


def test_pictures_that_take_no_part_are_named(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(noise(), ONE)], "val": [(noise(1), ONE)]})
    folder = tmp_path / "images/train"
    for name in ("a.gif", "b.ico", "c.HDR", "d.exr", "e.avif", "f.heic", "g.mp4", "notes.txt", "._h.jpg", "i.json"):
        (folder / name).write_bytes(b"x")
    saved(folder / ".hidden.jpg")
    saved(folder / "no_ending", "PNG")
    saved(folder / "photo.jpg_large", "JPEG")
    os.mkfifo(folder / "pipe")
    told = {problem.file.name: problem.kind for problem in check(path, ["train"]).warnings}
    kinds = {
        "picture of a kind that is not read": {"a.gif", "b.ico", "c.HDR", "d.exr", "e.avif", "f.heic"},
        "video among pictures; it is not read": {"g.mp4"},
        "picture whose name begins with a dot; it is not read": {".hidden.jpg"},
        "picture whose name does not end like that of one; it is not read": {"no_ending", "photo.jpg_large"},
    }
    assert told == {name: kind for kind, names in kinds.items() for name in names}
    assert not check(path, ["val"]).problems


def test_opencv_says_nothing_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cv2.imwrite(str(tmp_path / "x.tif"), np.zeros((8, 8), np.float32))
    with pytest.raises(UserError):
        read_picture(tmp_path / "x.tif")
    assert capfd.readouterr() == ("", "")


def test_pointers_of_git_lfs_are_told(tmp_path: Path) -> None:
    path = write_set(tmp_path, {"train": [(noise(), ONE)]})
    (tmp_path / "images/train/train000.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    left_out, error = check(path, ["train"]).problems
    assert left_out.detail == "a pointer of Git LFS, not the picture itself"
    assert error.todo == "fetch the files: git lfs pull"
