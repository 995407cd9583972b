"""Batches of pictures of like shape: as small as holds them, with every box where it was."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.dataset import Dataset
from data.loader import make_loader

SHAPES = [(60, 120), (120, 60), (100, 100), (58, 118), (118, 58), (30, 120), (70, 120)]


def material(folder: Path) -> Path:
    for number, (height, width) in enumerate(SHAPES):
        for kind in ("images", "labels"):
            (folder / kind / "val").mkdir(parents=True, exist_ok=True)
        picture = np.full((height, width, 3), 40 + 20 * number, np.uint8)
        cv2.imwrite(str(folder / f"images/val/{number}.png"), picture)
        (folder / f"labels/val/{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.5 0.5\n", encoding="utf-8")
    path = folder / "data.yaml"
    path.write_text("train: images/val\nval: images/val\nnames: [a, b]\n", encoding="utf-8")
    return path


def test_batches_are_as_small_as_holds_their_pictures_and_boxes_return_to_where_they_were(tmp_path):
    dataset = Dataset(material(tmp_path), "val", (64, 64), rectangles=(3, 16))
    seen, sizes = {}, []
    for batch in make_loader(dataset, 3, shuffle=False):
        height, width = batch.images.shape[2:]
        sizes.append((height, width))
        for place, record in enumerate(batch.letterboxes):
            ((label, cx, cy, w, h),) = batch.targets[batch.targets[:, 0] == place][:, 1:].tolist()
            number = int(Path(record.path).stem)
            inside = batch.images[place, 0, int(cy), int(cx)]
            assert inside == 40 + 20 * number
            assert label == number % 2
            centre = ((cx - record.pad[0]) / record.scale[0], (cy - record.pad[1]) / record.scale[1])
            np.testing.assert_allclose(centre, np.array(record.original[::-1]) / 2, atol=1)
            assert record.original == SHAPES[number]
            seen[number] = w / record.scale[0], h / record.scale[1]
    assert sizes[0] == (32, 64), "the three widest"
    assert sum(height * width for height, width in sizes) < 3 * 64 * 64
    assert all(height % 16 == width % 16 == 0 for height, width in sizes)
    np.testing.assert_allclose([seen[number] for number in range(7)], np.array(SHAPES)[:, ::-1] / 2, rtol=0.03)


def test_without_rectangles_every_picture_is_of_the_networks_size_and_in_its_own_order(tmp_path):
    dataset = Dataset(material(tmp_path), "val", (64, 64))
    assert {tuple(dataset[number].image.shape) for number in range(7)} == {(3, 64, 64)}
    assert [int(path.stem) for path in dataset.pictures] == list(range(7))
