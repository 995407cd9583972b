from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from data.dataset import Dataset, to_tensor
from data.options import AugmentConfig
from data.pictures import picture_shapes, read_picture
from tests.data.made import RED, line, many, rectangle, write_picture, write_set
from tests.shared import shared

GOOD = "0 .5 .5 .5 .5\n"


def test_a_plain_sample_is_the_letterboxed_picture_with_pixel_boxes(tmp_path: Path) -> None:
    shape, box = (100, 200), (40, 20, 120, 80)
    path = write_set(tmp_path, {"train": [(rectangle(shape, box), line(shape, box, 1))]})
    sample = Dataset(path, "train", (96, 160))[0]
    assert sample.image.shape == (3, 96, 160)
    assert sample.image.dtype == torch.uint8
    assert sample.boxes.dtype == torch.float32
    torch.testing.assert_close(sample.boxes, torch.tensor([[1.0, 64, 48, 64, 48]]), atol=1e-3, rtol=0)
    assert sample.image[:, 48, 64].tolist() == list(RED)
    assert sample.letterbox.original == shape
    assert sample.letterbox.scale == (0.8, 0.8)
    assert sample.letterbox.pad == (0.0, 8.0)
    x, y = (sample.boxes[0, 1:3].numpy() - sample.letterbox.pad) / sample.letterbox.scale
    np.testing.assert_allclose([x, y], [80, 50], atol=1e-3)


def test_a_sample_depends_on_seed_epoch_and_index_only(tmp_path: Path) -> None:
    path = many(tmp_path, 6)
    first = Dataset(path, "train", (64, 96), AugmentConfig(mixup=0.5), seed=5)
    again = Dataset(path, "train", (64, 96), AugmentConfig(mixup=0.5), seed=5)
    wanted = first[(2, 3)]
    for key in ((0, 1), (2, 4), (1, 3)):
        again[key]
    assert torch.equal(again[(2, 3)].image, wanted.image)
    assert torch.equal(again[(2, 3)].boxes, wanted.boxes)
    other_seed = Dataset(path, "train", (64, 96), AugmentConfig(mixup=0.5), seed=6)
    for other in (again[(3, 3)], again[(2, 2)], other_seed[(2, 3)]):
        assert not torch.equal(other.image, wanted.image)


def test_equal_pictures_are_varied_each_in_its_own_way(tmp_path: Path) -> None:
    same = rectangle((60, 80), (20, 20, 60, 50))
    path = write_set(tmp_path, {"train": [(same, GOOD)] * 2})
    dataset = Dataset(path, "train", (64, 64), AugmentConfig(mosaic=0.0))
    assert torch.equal(dataset[0].image, dataset[1].image)
    assert not torch.equal(dataset[(0, 0)].image, dataset[(0, 1)].image)


def test_a_number_alone_gives_the_picture_as_it_is(tmp_path: Path) -> None:
    path = many(tmp_path, 3)
    plain, varied = Dataset(path, "train", (64, 64)), Dataset(path, "train", (64, 64), AugmentConfig())
    assert torch.equal(plain[1].image, varied[1].image)
    assert torch.equal(plain[1].image, plain[(4, 1)].image)
    assert not torch.equal(plain[1].image, varied[(0, 1)].image)


def test_mosaic_closes_at_its_epoch(tmp_path: Path) -> None:
    still = AugmentConfig(mosaic=1.0, mixup=1.0, translate=0, scale=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0)
    dataset = Dataset(many(tmp_path, 4), "train", (60, 80), still, close_mosaic_from=3)
    assert not torch.equal(dataset[(2, 1)].image, dataset[1].image)
    assert torch.equal(dataset[(3, 1)].image, dataset[1].image)


@pytest.mark.parametrize("kind", ["grey", "grey16", "colour16", "alpha"])
def test_every_kind_of_picture_becomes_eight_bit_rgb(tmp_path: Path, kind: str) -> None:
    image = {
        "grey": np.full((10, 20), 80, np.uint8),
        "grey16": np.full((10, 20), 80 << 8, np.uint16),
        "colour16": np.full((10, 20, 3), (50 << 8, 40 << 8, 30 << 8), np.uint16),
        "alpha": np.full((10, 20, 4), (50, 40, 30, 7), np.uint8),
    }[kind]
    assert cv2.imwrite(str(tmp_path / "x.png"), image)
    read = read_picture(tmp_path / "x.png")
    assert read.shape == (10, 20, 3)
    assert read.dtype == np.uint8
    assert read[5, 5].tolist() == ([80, 80, 80] if kind.startswith("grey") else [30, 40, 50]), "cv2 writes B, G, R"
    assert picture_shapes([tmp_path / "x.png"]) == [(10, 20)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_picture_and_size_alike(tmp_path: Path, orientation: int) -> None:
    image = rectangle((40, 80), (0, 0, 20, 10))
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(tmp_path / "x.jpg", exif=exif, quality=95)
    read = read_picture(tmp_path / "x.jpg")
    assert picture_shapes([tmp_path / "x.jpg"]) == [read.shape[:2]]
    assert read.shape[:2] == ((80, 40) if orientation >= 5 else (40, 80))
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    assert read[corners[orientation]][0] > 150, "the red corner is where the viewer sees it"


def test_a_picture_that_vanishes_after_the_check_is_a_user_error(tmp_path: Path) -> None:
    dataset = Dataset(many(tmp_path, 2), "train", (32, 32))
    dataset.pictures[1].unlink()
    with pytest.raises(UserError, match=r"train001\.png: the picture cannot be read"):
        dataset[1]
    write_picture(dataset.pictures[1], np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(UserError, match="5 x 5, but was 80 x 60"):
        dataset[1]


def test_background_pictures_give_empty_boxes_whatever_the_augmentation(tmp_path: Path) -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    path = write_set(tmp_path, {"train": [(image, None), (image, GOOD)]})
    dataset = Dataset(path, "train", (32, 48), AugmentConfig(mosaic=0.0))
    assert dataset[0].boxes.shape == dataset[(0, 0)].boxes.shape == (0, 5)


def test_a_size_below_one_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be positive"):
        Dataset(many(tmp_path, 1), "train", (0, 32))


def test_to_tensor_is_the_transpose() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(to_tensor(image).numpy(), image.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["bccd", "coco128"])
def test_real_pictures_give_boxes_inside_the_input(name: str) -> None:
    dataset = Dataset(shared(f"datasets/{name}") / "data.yaml", "val", (160, 256), AugmentConfig())
    for key in (3, (0, 3), (1, 5)):
        sample = dataset[key]
        assert sample.image.shape == (3, 160, 256)
        low, high = sample.boxes[:, 1:3] - sample.boxes[:, 3:] / 2, sample.boxes[:, 1:3] + sample.boxes[:, 3:] / 2
        assert (low >= -1e-3).all()
        assert (high <= torch.tensor([256.001, 160.001])).all()


def test_a_cached_mosaic_sample_is_cheap(tmp_path: Path) -> None:
    dataset = Dataset(many(tmp_path, 16, (120, 160)), "train", (160, 160), AugmentConfig(), cache="ram")
    took = []
    for index in range(60):
        start = time.process_time()
        dataset[(0, index % 16)]
        took.append(time.process_time() - start)
    # About 1 ms alone on a core; the bound leaves room for a loaded machine and still finds a float64 warp.
    assert sorted(took)[len(took) // 2] < 0.006
