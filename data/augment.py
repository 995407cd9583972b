"""Pictures and their boxes changed together.

Boxes here are ``(n, 5)`` float32: class, x1, y1, x2, y2 in pixels, where pixel 0 spans 0..1. One sample is warped once:
mosaic, flips, rotation, scale and shear are multiplied into a single matrix.
Mosaic: Bochkovskiy et al., YOLOv4 (2020), section 3.4; mixup: Zhang et al. (ICLR 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from data.batch import Letterbox
from data.options import AugmentConfig
from models.resize import LETTERBOX, STRETCH

GREY = 114
MIN_SIDE = 2.0
"""A box whose shorter side falls below this many pixels is dropped: nothing in it could be learned."""
MIN_VISIBLE = 0.1
"""A box of which less than this share is left in the picture is dropped."""

# OpenCV's coordinates are those of pixel centres: its 0 is our 0.5.
_FROM_CENTRES = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
_TO_CENTRES = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])

Take = Callable[[int], tuple[np.ndarray, np.ndarray]]


def fitted_size(shape: tuple[int, int], size: tuple[int, int], resize: str = LETTERBOX) -> tuple[int, int]:
    """(height, width) of a picture of `shape` once it is scaled, aspect kept, to just fit into `size` (H, W).

    Where `resize` is to stretch it, that is `size`.
    """
    if resize == STRETCH:
        return size
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return max(1, min(size[0], round(shape[0] * scale))), max(1, min(size[1], round(shape[1] * scale)))


def fit(image: np.ndarray, size: tuple[int, int], resize: str = LETTERBOX) -> np.ndarray:
    """`image` (h, w, 3) scaled, aspect kept, to just fit into `size` (H, W), or stretched to fill it."""
    height, width = fitted_size(image.shape[:2], size, resize)
    if (height, width) == image.shape[:2]:
        return image
    if resize == STRETCH:  # one side may shrink where the other grows: each in its own way
        least = (min(width, image.shape[1]), min(height, image.shape[0]))
        image = cv2.resize(image, least, interpolation=cv2.INTER_AREA)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    # INTER_AREA averages what it drops; INTER_LINEAR would alias when shrinking and is right when enlarging.
    way = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=way)


def letterbox(
    image: np.ndarray, size: tuple[int, int], path: str = "", resize: str = LETTERBOX
) -> tuple[np.ndarray, Letterbox]:
    """`image` (h, w, 3) fitted into the middle of a grey picture of `size` (H, W), and how to get back.

    With "stretch" for `resize` (see `models.resize`) it fills the whole of it, and nothing is grey.
    """
    original = (int(image.shape[0]), int(image.shape[1]))
    inner = fit(image, size, resize)
    height, width = inner.shape[:2]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    record = Letterbox(original, (width / original[1], height / original[0]), (float(left), float(top)), path)
    if (height, width) == tuple(size):
        return inner, record
    canvas = np.full((*size, 3), GREY, np.uint8)
    canvas[top : top + height, left : left + width] = inner
    return canvas, record


def pixel_boxes(labels: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Normalised labels -> boxes in pixels.

    Args:
        labels: ``(n, 5)`` class, cx, cy, w, h as shares of the picture.
        scale: the picture's (w, h) in pixels, ``(2,)`` or one row a label.
        offset: where its corner (x, y) lies, ``(2,)`` or one row a label.

    Returns:
        ``(n, 5)`` class, x1, y1, x2, y2.
    """
    boxes = np.empty((len(labels), 5), np.float32)
    middle, half = labels[:, 1:3] * scale + offset, labels[:, 3:5] * scale / 2
    boxes[:, 0] = labels[:, 0]
    boxes[:, 1:3] = middle - half
    boxes[:, 3:5] = middle + half
    return boxes


def centre_boxes(boxes: np.ndarray) -> np.ndarray:
    """Class, x1, y1, x2, y2 -> class, cx, cy, w, h, both ``(n, 5)`` in pixels."""
    out = boxes.copy()
    out[:, 1:3] = (boxes[:, 1:3] + boxes[:, 3:5]) / 2
    out[:, 3:5] = boxes[:, 3:5] - boxes[:, 1:3]
    return out


def mosaic(
    parts: list[tuple[np.ndarray, np.ndarray]], size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Four fitted pictures with their normalised labels around a random point of a (2H, 2W) canvas.

    Returns:
        The canvas (2H, 2W, 3), and the boxes ``(n, 5)`` in its pixels, cut where their picture is cut.
    """
    height, width = size
    middle_y = int(rng.uniform(height / 2, 3 * height / 2))
    middle_x = int(rng.uniform(width / 2, 3 * width / 2))
    canvas = np.full((2 * height, 2 * width, 3), GREY, np.uint8)
    places = np.empty((4, 8), np.float32)  # w, h, left, top of each picture; x1, y1, x2, y2 of what is seen of it
    for number, (image, _) in enumerate(parts):
        h, w = image.shape[:2]
        left = middle_x - w if number % 2 == 0 else middle_x
        top = middle_y - h if number < 2 else middle_y
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 2 * width), min(top + h, 2 * height)
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        places[number] = w, h, left, top, x1, y1, x2, y2
    labels = np.concatenate([labels for _, labels in parts])
    rows = np.repeat(places, [len(labels) for _, labels in parts], axis=0)
    return canvas, clip(pixel_boxes(labels, rows[:, :2], rows[:, 2:4]), rows[:, 4:6], rows[:, 6:8])


def clip(boxes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The boxes ``(n, 5)`` cut to the region from `low` to `high` (x, y: ``(2,)`` or ``(n, 2)``).

    Those of which hardly anything is left are dropped, and those smaller than `MIN_SIDE`.
    """
    if not len(boxes):
        return boxes
    out = boxes.copy()
    np.minimum(np.maximum(boxes[:, 1:3], low, out=out[:, 1:3]), high, out=out[:, 1:3])
    np.minimum(np.maximum(boxes[:, 3:5], low, out=out[:, 3:5]), high, out=out[:, 3:5])
    before, after = boxes[:, 3:5] - boxes[:, 1:3], out[:, 3:5] - out[:, 1:3]
    share = after[:, 0] * after[:, 1] / (before[:, 0] * before[:, 1]).clip(1e-9)
    return out[(share > MIN_VISIBLE) & (np.minimum(after[:, 0], after[:, 1]) >= MIN_SIDE)]


def random_matrix(
    canvas: tuple[int, int], size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """The (3, 3) matrix from points (x, y, 1) of a canvas (h, w) to points of the sample (H, W).

    From right to left: centre to origin, perspective, rotate and zoom, shear, move to the sample's centre plus the
    shift, mirror.
    """
    height, width = size
    to_origin = np.array([[1, 0, -canvas[1] / 2], [0, 1, -canvas[0] / 2], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-config.perspective, config.perspective, 2) / (width, height)
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(1 - config.scale, 1 + config.scale)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant_x, slant_y = np.tan(np.radians(rng.uniform(-config.shear, config.shear, 2)))
    slant = np.array([[1, slant_x, 0], [slant_y, 1, 0], [0, 0, 1]])
    shift = rng.uniform(-config.translate, config.translate, 2)
    place = np.array([[1, 0, (0.5 + shift[0]) * width], [0, 1, (0.5 + shift[1]) * height], [0, 0, 1]])
    mirror = np.eye(3)
    left_right, up_down = rng.random(2)
    if left_right < config.fliplr:
        mirror[0] = [-1, 0, width]
    if up_down < config.flipud:
        mirror[1] = [0, -1, height]
    return mirror @ place @ slant @ turn @ tilt @ to_origin


def warp(
    image: np.ndarray, boxes: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """`image` and its boxes ``(n, 5)`` moved by `matrix` into a picture of `size` (H, W); lost boxes are dropped."""
    of_centres = _TO_CENTRES @ matrix @ _FROM_CENTRES
    straight = not np.any(matrix[2, :2])
    if straight:
        out = cv2.warpAffine(image, of_centres[:2], size[::-1], flags=cv2.INTER_LINEAR, borderValue=(GREY,) * 3)
    else:
        out = cv2.warpPerspective(image, of_centres, size[::-1], flags=cv2.INTER_LINEAR, borderValue=(GREY,) * 3)
    if not len(boxes):
        return out, boxes
    corners = boxes.T[[[1, 3, 3, 1], [2, 2, 4, 4]]]  # (2, 4, n)
    moved = np.tensordot(matrix[:, :2], corners, 1) + matrix[:, 2, None, None]  # (3, 4, n)
    x, y = moved[:2] if straight else moved[:2] / moved[2]
    around = np.empty_like(boxes)
    around[:, 0] = boxes[:, 0]
    around[:, 1], around[:, 2], around[:, 3], around[:, 4] = x.min(0), y.min(0), x.max(0), y.max(0)
    if not straight:
        around = around[(moved[2] > 1e-3).all(0)]  # a corner behind the camera would come back mirrored
    return out, clip(around, np.zeros(2, np.float32), np.array(size[::-1], np.float32))


def shift_colours(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Hue, saturation and brightness of an RGB picture changed by random factors."""
    if not (config.hsv_h or config.hsv_s or config.hsv_v):
        return image
    factors = 1 + rng.uniform(-1, 1, 3) * (config.hsv_h, config.hsv_s, config.hsv_v)
    steps = np.arange(256)
    table = np.empty((256, 1, 3), np.uint8)
    table[:, 0, 0] = (steps * factors[0]) % 180  # OpenCV's hue is in 0..179
    table[:, 0, 1] = np.clip(steps * factors[1], 0, 255)
    table[:, 0, 2] = np.clip(steps * factors[2], 0, 255)
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)


def random_sample(
    take: Take,
    index: int,
    count: int,
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
    joined: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """One varied sample of a data set of `count` pictures.

    Args:
        take: picture number -> (fitted picture (h, w, 3) uint8 RGB, labels (n, 5) normalised).
        index: the picture the sample is about.
        joined: whether mosaic and mixup may bring in other pictures.

    Returns:
        The picture (H, W, 3) and its boxes ``(n, 5)``: class, x1, y1, x2, y2 in its pixels.
    """
    image, boxes = _geometry(take, index, count, size, config, rng, joined)
    if joined and rng.random() < config.mixup:
        other, more = _geometry(take, int(rng.integers(count)), count, size, config, rng, joined)
        share = rng.beta(32.0, 32.0)
        image = cv2.addWeighted(image, share, other, 1 - share, 0)
        boxes = np.concatenate([boxes, more])
    return shift_colours(image, config, rng), boxes


def _geometry(
    take: Take,
    index: int,
    count: int,
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
    joined: bool,
) -> tuple[np.ndarray, np.ndarray]:
    if joined and rng.random() < config.mosaic:
        parts = [take(index), *(take(int(other)) for other in rng.integers(0, count, 3))]
        canvas, boxes = mosaic(parts, size, rng)
    else:
        canvas, labels = take(index)
        boxes = pixel_boxes(labels, np.array(canvas.shape[1::-1], np.float32), np.zeros(2, np.float32))
    return warp(canvas, boxes, random_matrix(canvas.shape[:2], size, config, rng), size)
