from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from data.augment import (
    GREY,
    AugmentConfig,
    Take,
    centre_boxes,
    fit,
    fitted_size,
    letterbox,
    mosaic,
    pixel_boxes,
    random_matrix,
    random_sample,
    shift_colours,
    warp,
)
from tests.data.made import RED, rectangle

NONE = AugmentConfig(**{option.name: 0.0 for option in fields(AugmentConfig)})
SHAPE, BOX = (200, 320), (100, 60, 180, 120)
SIZES = [(160, 160), (96, 192), (192, 96)]
LABELS = np.array([[1, 140 / 320, 90 / 200, 80 / 320, 60 / 200]], np.float32)


def seen(image: np.ndarray, colour: tuple[int, int, int] = RED) -> np.ndarray:
    """x1, y1, x2, y2 of what has the colour, at half intensity where a pixel is shared."""
    near = np.abs(image.astype(int) - colour).sum(axis=2) < 120
    ys, xs = np.nonzero(near)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def taker(size: tuple[int, int]) -> Take:
    """A data set of which every picture is the one rectangle."""
    return lambda index: (fit(rectangle(SHAPE, BOX), size), LABELS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(200, 320), (320, 200), (33, 47), (160, 160)])
def test_letterbox_keeps_the_aspect_and_says_how_to_get_back(size: tuple[int, int], shape: tuple[int, int]) -> None:
    box = (shape[1] // 4, shape[0] // 4, shape[1] // 2, shape[0] // 2)
    image, record = letterbox(rectangle(shape, box), size)
    assert image.shape == (*size, 3)
    assert record.original == shape
    assert abs(record.scale[0] / record.scale[1] - 1) < 0.03, "only rounding to whole pixels"
    expected = np.array(box) * [*record.scale, *record.scale] + [*record.pad, *record.pad]
    assert np.abs(seen(image) - expected).max() <= 1.5
    inner = fitted_size(shape, size)
    assert inner[0] == size[0] or inner[1] == size[1]
    if inner[0] < size[0]:
        assert (image[0] == GREY).all()
        assert (image[-1] == GREY).all()
    if inner[1] < size[1]:
        assert (image[:, 0] == GREY).all()
        assert (image[:, -1] == GREY).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"translate": 0.2},
        {"scale": 0.4},
        {"fliplr": 1.0},
        {"flipud": 1.0},
        {"fliplr": 1.0, "flipud": 1.0},
        {"translate": 0.1, "scale": 0.5, "fliplr": 0.5},
    ],
    ids=str,
)
def test_boxes_follow_the_picture(size: tuple[int, int], change: dict[str, float]) -> None:
    config = replace(NONE, **change)
    for seed in range(6):
        image, boxes = random_sample(taker(size), 0, 1, size, config, np.random.default_rng(seed))
        assert image.shape == (*size, 3)
        assert boxes.shape == (1, 5)
        assert boxes[0, 0] == 1
        assert np.abs(seen(image) - boxes[0, 1:]).max() <= 1.5, (seed, boxes)


@pytest.mark.parametrize("change", [{"degrees": 30.0}, {"shear": 15.0}, {"perspective": 0.2}], ids=str)
def test_boxes_surround_turned_and_slanted_objects(change: dict[str, float]) -> None:
    size = (160, 256)
    for seed in range(6):
        image, boxes = random_sample(taker(size), 0, 1, size, replace(NONE, **change), np.random.default_rng(seed))
        assert boxes.shape == (1, 5)
        # A sharp turned corner covers less than half of its last pixel, so what is seen may end a little earlier.
        assert np.abs(seen(image) - boxes[0, 1:]).max() <= 3, (seed, boxes)


@pytest.mark.parametrize("size", SIZES)
def test_each_mosaic_tile_brings_its_boxes(size: tuple[int, int]) -> None:
    colours = [(220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30)]
    for seed in range(8):
        parts = []
        for number, colour in enumerate(colours):
            h, w = fitted_size([(200, 320), (320, 200), (100, 100), (50, 200)][number], size)
            box = (w // 4, h // 4, w // 4 + w // 2, h // 4 + h // 2)
            labels = np.array(
                [
                    [
                        number,
                        (box[0] + box[2]) / 2 / w,
                        (box[1] + box[3]) / 2 / h,
                        (box[2] - box[0]) / w,
                        (box[3] - box[1]) / h,
                    ]
                ],
                np.float32,
            )
            parts.append((rectangle((h, w), box, colour), labels))
        canvas, boxes = mosaic(parts, size, np.random.default_rng(seed))
        assert canvas.shape == (2 * size[0], 2 * size[1], 3)
        for box in boxes:
            assert np.abs(seen(canvas, colours[int(box[0])]) - box[1:]).max() <= 1
        # At least half of each tile's width and height is seen, so at least a quarter of each of these boxes.
        assert sorted(boxes[:, 0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_mosaic_sample_contains_only_boxes_of_what_is_seen(size: tuple[int, int]) -> None:
    config = replace(AugmentConfig(), hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
    kept = 0
    for seed in range(20):
        image, boxes = random_sample(taker(size), 0, 4, size, config, np.random.default_rng(seed))
        assert boxes.shape[1] == 5
        assert image.shape == (*size, 3)
        red = np.abs(image.astype(int) - RED).sum(axis=2) < 120
        for _, x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= size[1]
            assert 0 <= y1 < y2 <= size[0]
            inside = red[round(y1) : round(y2), round(x1) : round(x2)]
            assert inside.size == 0 or inside.mean() > 0.6
            kept += 1
        covered = np.zeros(size, bool)
        for _, x1, y1, x2, y2 in boxes:
            covered[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
        # What is red without a box can only be the slivers that were dropped.
        assert (red & ~covered).sum() <= 4 * 0.1 * 1.5**2 * 80 * 60
    assert kept > 20


def test_boxes_of_which_little_is_left_are_dropped() -> None:
    boxes = np.array([[0, 10, 10, 50, 50], [1, 80, 10, 120, 50]], np.float32)
    image = np.zeros((100, 200, 3), np.uint8)
    away = np.array([[1.0, 0, -46], [0, 1, 0], [0, 0, 1]])  # leaves 4 of 40 columns of the first box, a tenth
    _, left = warp(image, boxes, away, (100, 200))
    assert left[:, 0].tolist() == [1]
    shrunk = np.diag([0.04, 0.04, 1.0])
    assert len(warp(image, boxes, shrunk, (100, 200))[1]) == 0, "1.6 pixels cannot be learned"


def test_mixup_blends_two_samples_and_keeps_the_boxes_of_both() -> None:
    size = (100, 160)
    pictures = [rectangle(size, (10, 10, 50, 50), (200, 0, 0)), rectangle(size, (90, 40, 150, 90), (0, 0, 200))]
    labels = [
        np.array([[0, 30 / 160, 0.3, 40 / 160, 0.4]], np.float32),
        np.array([[1, 120 / 160, 0.65, 60 / 160, 0.5]], np.float32),
    ]
    for seed in range(20):
        image, boxes = random_sample(
            lambda index: (pictures[index], labels[index]),
            0,
            2,
            size,
            replace(NONE, mixup=1.0),
            np.random.default_rng(seed),
        )
        if set(boxes[:, 0]) == {0.0, 1.0}:
            break
    else:
        pytest.fail("the second picture never came")
    first, second = int(image[30, 30, 0]), int(image[60, 120, 2])
    assert 20 < first < 180
    assert abs(first + second - 200) <= 2


def test_colour_changes_leave_grey_pictures_grey_and_stay_in_bounds() -> None:
    grey = np.full((20, 20, 3), 100, np.uint8)
    colour = rectangle((20, 20), (5, 5, 15, 15))
    seen_values = set()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out = shift_colours(grey, AugmentConfig(), rng)
        assert (out == out[..., :1]).all()
        assert 60 <= out[0, 0, 0] <= 140
        seen_values.add(int(out[0, 0, 0]))
        changed = shift_colours(colour, AugmentConfig(), rng)
        assert changed[10, 10, 0] > changed[10, 10, 1], "red stays the strongest channel"
    assert len(seen_values) > 3
    assert shift_colours(grey, NONE, np.random.default_rng(0)) is grey


def test_nothing_configured_changes_nothing() -> None:
    size = (100, 160)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    out, boxes = random_sample(lambda index: (image, LABELS), 0, 1, size, NONE, np.random.default_rng(1))
    assert np.array_equal(out, image)
    np.testing.assert_allclose(boxes, [[1, 50, 30, 90, 60]], atol=1e-3)


def test_mirroring_is_exact() -> None:
    size = (100, 160)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    for change, expected in (({"fliplr": 1.0}, image[:, ::-1]), ({"flipud": 1.0}, image[::-1])):
        matrix = random_matrix(size, size, replace(NONE, **change), np.random.default_rng(0))
        assert np.array_equal(warp(image, np.zeros((0, 5), np.float32), matrix, size)[0], expected)


def test_every_option_explains_itself() -> None:
    for option in fields(AugmentConfig):
        assert len(option.metadata["help"]) > 20


def test_centre_form_is_the_inverse_of_corner_form() -> None:
    boxes = pixel_boxes(LABELS, np.array([320.0, 200.0]), np.array([5.0, 7.0]))
    np.testing.assert_allclose(boxes, [[1, 105, 67, 185, 127]], atol=1e-3)
    np.testing.assert_allclose(centre_boxes(boxes), [[1, 145, 97, 80, 60]], atol=1e-3)
