"""The built-in data set: pictures that depend on the seed alone, boxes that fit, a folder that is whole or absent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from common.errors import UserError
from data import shapes

FEW = {"train": 3, "val": 2, "test": 1, "size": 96, "progress": False}


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, list[shapes.Drawn]]]:
    return [shapes.compose(0, index, 160) for index in range(250)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_picture_is_a_function_of_seed_split_and_index():
    image, boxes = shapes.draw(3, 7, 96, split="val")
    again, same_boxes = shapes.draw(3, 7, 96, split="val")
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, again)
    assert boxes == same_boxes
    for other in (shapes.draw(4, 7, 96, split="val"), shapes.draw(3, 8, 96, split="val"), shapes.draw(3, 7, 96)):
        assert (other[0] != image).mean() > 0.5


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    first, second = (shapes.ensure(tmp_path / name, **FEW).parent for name in "ab")
    assert files(first) == files(second)
    other = shapes.ensure(tmp_path / "c", **FEW, seed=1).parent
    assert (other / "images/train/00000.png").read_bytes() != (first / "images/train/00000.png").read_bytes()


def test_boxes_are_tight_around_what_is_visible(scenes):
    checked = 0
    for _, objects in scenes:
        for item in objects:
            _, cx, cy, w, h = item.box()
            left, right, top, bottom = round(cx - w / 2), round(cx + w / 2), round(cy - h / 2), round(cy + h / 2)
            inside = item.visible[top:bottom, left:right]
            assert inside.sum() == item.visible.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            checked += 1
    assert checked > 300


def test_the_picture_shows_each_object_where_its_mask_says():
    plain = replace(shapes.ShapesConfig(), noise=(0, 0), front_lines=(0, 0), blur_share=0.0, low_contrast_share=0.0)
    stands_out = []
    for index in range(40):
        image, objects = shapes.compose(0, index, 160, config=plain)
        for item in objects:
            core = cv2.erode(item.visible.astype(np.uint8), np.ones((3, 3))) > 0
            halo = (cv2.dilate(item.visible.astype(np.uint8), np.ones((7, 7))) > 0) & ~item.visible
            if core.sum() > 20:
                stands_out.append(np.abs(image[core].mean(axis=0) - image[halo].mean(axis=0)).max() > 15)
    assert len(stands_out) > 60
    assert np.mean(stands_out) > 0.9


def test_sizes_run_from_eight_pixels_to_half_the_picture(scenes):
    config = shapes.ShapesConfig()
    sizes = np.array([max(item.box()[3:]) for _, objects in scenes for item in objects])
    assert sizes.min() >= config.min_size
    # One pixel for edges that fall between pixels.
    assert sizes.max() <= config.max_share * 160 + 1
    assert sizes.min() < 1.5 * config.min_size
    assert sizes.max() > 0.9 * config.max_share * 160


def test_hidden_objects_lose_their_place_rather_than_their_pixels(scenes):
    config = shapes.ShapesConfig()
    shares = [item.visible.sum() / item.area for _, objects in scenes for item in objects]
    assert min(shares) >= config.min_visible
    assert np.mean(np.array(shares) < 0.9) > 0.1, "hardly anything overlaps"


def test_no_pixel_belongs_to_two_objects(scenes):
    for _, objects in scenes:
        if objects:
            assert np.sum([item.visible for item in objects], axis=0).max() == 1


def test_about_one_picture_in_twelve_is_empty_and_all_classes_are_alike_in_number(scenes):
    empty = np.mean([not objects for _, objects in scenes])
    assert 0.03 < empty < 0.15  # 0.08 in 250 pictures: three standard deviations are 0.05
    counts = Counter(item.label for _, objects in scenes for item in objects)
    assert set(counts) == set(range(len(shapes.NAMES)))
    assert min(counts.values()) > 0.6 * max(counts.values())


def test_the_folder_has_the_usual_layout_and_its_labels_are_the_boxes(tmp_path):
    source = shapes.ensure(tmp_path / "set", **FEW)
    described = yaml.safe_load(source.read_text())
    assert list(described["names"].values()) == list(shapes.NAMES)
    for split in ("train", "val", "test"):
        pictures = sorted((source.parent / described[split]).iterdir())
        assert len(pictures) == FEW[split]
        for index, path in enumerate(pictures):
            image, boxes = shapes.draw(0, index, 96, split=split)
            np.testing.assert_array_equal(cv2.imread(str(path)), image)
            rows = (source.parent / "labels" / split / path.name).with_suffix(".txt").read_text().splitlines()
            found = np.array([row.split() for row in rows], float).reshape(-1, 5)
            np.testing.assert_allclose(found[:, 1:] * 96, np.array(boxes).reshape(-1, 5)[:, 1:], atol=1e-4)
            assert found[:, 0].tolist() == [box[0] for box in boxes]


def test_the_default_place_is_the_cache_and_is_named_after_the_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("THINYOLO_CACHE", str(tmp_path / "own"))
    first = shapes.ensure(**FEW)
    harder = shapes.ensure(**FEW, config=replace(shapes.ShapesConfig(), noise=(10.0, 30.0)))
    assert first.parent.parent == harder.parent.parent == tmp_path / "own"
    assert first != harder
    monkeypatch.delenv("THINYOLO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert shapes.ensure(**FEW) == tmp_path / "xdg" / "thinyolo" / first.parent.name / "data.yaml"


def test_a_set_that_is_there_is_not_drawn_again(tmp_path, monkeypatch):
    source = shapes.ensure(tmp_path / "set", **FEW)
    monkeypatch.setattr(shapes, "draw", lambda *args, **kwargs: pytest.fail("drawn again"))
    assert shapes.ensure(tmp_path / "set", **FEW) == source


def test_a_set_with_pictures_deleted_is_drawn_again(tmp_path):
    source = shapes.ensure(tmp_path / "set", **FEW)
    before = files(source.parent)
    (source.parent / "images/train/00001.png").unlink()
    shapes.ensure(tmp_path / "set", **FEW)
    assert files(source.parent) == before


def test_an_interrupted_drawing_leaves_nothing_that_passes_for_whole(tmp_path, monkeypatch):
    drawn, real = [], shapes.draw

    def draw(*args, **kwargs):
        drawn.append(args)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "draw", draw)
        with pytest.raises(KeyboardInterrupt):
            shapes.ensure(tmp_path / "set", **FEW)
    assert list(tmp_path.iterdir()) == []
    assert len(files(shapes.ensure(tmp_path / "set", **FEW).parent)) == 2 * 6 + 2


def test_a_killed_drawing_is_recovered_from(tmp_path):
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom data import shapes\nreal, done = shapes.draw, []\n"
        "def draw(*a, **k):\n    done.append(1)\n    if len(done) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"    return real(*a, **k)\nshapes.draw = draw\nshapes.ensure(Path({str(tmp_path / 'set')!r}), **{FEW!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(shapes.__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))  # long ago: while it is young it may be another process's that still draws
    assert len(files(shapes.ensure(tmp_path / "set", **FEW).parent)) == 2 * 6 + 2
    assert not left.exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="other files"):
        shapes.ensure(tmp_path, **FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_variant_in_the_folder_is_not_overwritten(tmp_path):
    before = files(shapes.ensure(tmp_path / "set", **FEW).parent)
    with pytest.raises(UserError, match="another variant"):
        shapes.ensure(tmp_path / "set", **FEW, seed=1)
    assert files(tmp_path / "set") == before


def test_pictures_too_small_for_the_objects_are_refused(tmp_path):
    with pytest.raises(UserError, match="at least 32"):
        shapes.ensure(tmp_path / "set", **{**FEW, "size": 24})
    assert len(files(shapes.ensure(tmp_path / "set", **{**FEW, "size": 32}).parent)) == 2 * 6 + 2


def test_two_that_draw_at_once_both_get_the_whole_set(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: shapes.ensure(tmp_path / "set", **FEW), range(2)))
    assert found == [tmp_path / "set" / "data.yaml"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(files(tmp_path / "set")) == 2 * 6 + 2
