"""Pictures for people: boxes drawn readably, ground truth beside predictions, one network beside another.

All images are ``(H, W, 3)`` uint8 RGB arrays.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.files import whole_file
from engine.lettering import in_ascii

FONT = cv2.FONT_HERSHEY_SIMPLEX
INK, PAPER = (33, 37, 41), (255, 255, 255)
LONGEST = 4096  # a picture is not enlarged beyond it
MOST_JPEG = 65_500  # pixels a side, as many as the format has
SHOWN = 0.25  # least confidence of a box in a picture


def class_colour(number: int) -> tuple[int, int, int]:
    """The RGB colour of a class: always the same, neighbours far apart (hue steps by the golden ratio)."""
    hue = (0.58 + number * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if number % 2 == 0 else 0.65, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: np.ndarray, boxes: np.ndarray, names: Sequence[str], conf: float = SHOWN, min_side: int = 480
) -> np.ndarray:
    """A copy of `image` with labelled boxes.

    Args:
        image: the picture.
        boxes: in pixels of `image`: detections ``(n, 6)`` x1, y1, x2, y2, confidence, class, or ground truth
            ``(t, 5)`` class, x1, y1, x2, y2.
        names: class names.
        conf: detections below it are not drawn.
        min_side: smaller pictures are enlarged by a whole number until their shorter side reaches it, or their longer
            one `LONGEST`: labels need room.

    Returns:
        The drawn picture; as large as `image` or a whole multiple of it.
    """
    factor = max(1, min(math.ceil(min_side / min(image.shape[:2])), LONGEST // max(image.shape[:2])))
    canvas = np.ascontiguousarray(image.copy())
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    thickness = max(1, round(min(canvas.shape[:2]) / 300))
    if boxes.shape[1] == 5:
        rows = [(box[1:5], "", int(box[0])) for box in boxes]
    else:
        sure = boxes[boxes[:, 4] >= conf]
        # the most confident last, so that its label lies on top
        rows = [(box[:4], f" {box[4]:.2f}", int(box[5])) for box in sure[np.argsort(sure[:, 4], kind="stable")]]
    for corners, _, label in rows:
        x1, y1, x2, y2 = (round(float(value) * factor) for value in corners)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_colour(label), thickness, cv2.LINE_AA)
    for corners, score, label in rows:
        name = in_ascii(names[label], label) if label < len(names) else str(label)
        x1, y1, _, y2 = (round(float(value) * factor) for value in corners)
        _label(canvas, f"{name}{score}", x1, y1, y2, label)
    return canvas


def _label(canvas: np.ndarray, text: str, x: int, y1: int, y2: int, label: int) -> None:
    """The text on its class's colour: above the box if there is room in the picture, else below it, else in it."""
    size = max(0.4, min(canvas.shape[:2]) / 1300)
    weight = max(1, round(size * 1.4))
    (width, height), below = cv2.getTextSize(text, FONT, size, weight)
    x = max(0, min(x, canvas.shape[1] - width - 4))
    room = height + below + 2
    top = y1 - room
    if top < 0:
        top = y2 + 1 if y2 + 1 + room <= canvas.shape[0] else max(0, y1)
    colour = class_colour(label)
    cv2.rectangle(canvas, (x, top), (x + width + 4, top + height + below + 2), colour, -1)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = INK if luminance > 140 else PAPER
    cv2.putText(canvas, text, (x + 2, top + height + 1), FONT, size, ink, weight, cv2.LINE_AA)


def captioned(image: np.ndarray, caption: str) -> np.ndarray:
    """The picture under a strip with its caption."""
    size = max(0.5, image.shape[1] / 1000)
    weight = max(1, round(size * 1.3))
    (width, height), below = cv2.getTextSize(caption, FONT, size, weight)
    if width > image.shape[1] - 12:
        size *= (image.shape[1] - 12) / width
    strip = np.full((height + below + 12, image.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(strip, caption, (6, height + 6), FONT, size, INK, weight, cv2.LINE_AA)
    return np.vstack((strip, image))


def mosaic(
    images: Sequence[np.ndarray], columns: int | None = None, captions: Sequence[str] = (), max_side: int = 2400
) -> np.ndarray:
    """Pictures in a grid, each centred in a cell as large as the largest of them.

    Args:
        images: at least one picture.
        columns: pictures a row; by default a nearly square grid.
        captions: one a picture, or none at all.
        max_side: the longest side of the result.
    """
    assert images, "a mosaic of nothing"
    if captions:
        images = [captioned(image, caption) for image, caption in zip(images, captions, strict=True)]
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    gap = 6
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    canvas = np.full((rows * height + gap, columns * width + gap, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        top = gap + place // columns * height + (height - gap - image.shape[0]) // 2
        left = gap + place % columns * width + (width - gap - image.shape[1]) // 2
        canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    shrink = max_side / max(canvas.shape[:2])
    if shrink < 1:
        canvas = cv2.resize(canvas, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return canvas


def side_by_side(
    image: np.ndarray, columns: Sequence[tuple[str, np.ndarray]], names: Sequence[str], conf: float = SHOWN
) -> np.ndarray:
    """One picture several times, each with other boxes: ``[("ground truth", (t, 5)), ("student", (n, 6)), ...]``."""
    drawn = [draw_detections(image, boxes, names, conf, min_side=360) for _, boxes in columns]
    return mosaic(drawn, columns=len(drawn), captions=[caption for caption, _ in columns])


def save_picture(path: str | Path, image: np.ndarray) -> Path:
    """Write an RGB picture in the format its name says (.jpg, .png); the file is whole or absent.

    One that is too long for a JPEG becomes a PNG. Returns the path of what was written.
    """
    path = Path(path)
    if max(image.shape[:2]) > MOST_JPEG:
        path = path.with_suffix(".png")
    good, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert good, f"OpenCV cannot write {path.suffix}"
    with whole_file(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return path
