"""How a picture of the built-in data set is drawn, and how hard it is (`ShapesConfig`).

Boxes are measured from masks: what of an object later shapes and the picture's edge have left visible.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np

from data.spec import SPLITS
from data.yolo_text import Box

VERSION = 2
"""Raised whenever a picture changes, so that no run mixes the pictures of two generators."""

NAMES = ("disc", "ring", "square", "triangle", "star")
DISTRACTORS = ("cross", "bar", "crescent", "angle")


@dataclass(frozen=True)
class ShapesConfig:
    """How hard the pictures are. Ranges are (low, high), drawn uniformly unless a comment says otherwise."""

    # What is to be found.
    empty_share: float = 0.08  # pictures without any object: background the detector must stay silent on
    objects: tuple[int, int] = (1, 5)  # objects in the other pictures, both ends included
    min_size: float = 8.0  # longer side of the smallest object in pixels; below it classes cannot be told apart
    max_share: float = 0.5  # longer side of the largest object as a share of the picture's side
    size_skew: float = 0.3  # size = min * (max / min)^(u^skew): 1 is log-uniform, less gives fewer tiny objects
    stretch: float = 0.12  # uneven scaling before the rotation: 0.12 makes a square up to 1.14 : 1
    min_visible: float = 0.65  # least share of an object that others and the picture's edge may leave visible

    # What is not.
    distractors: tuple[int, int] = (0, 2)  # shapes of no class, in front of and behind the objects
    lines: tuple[int, int] = (0, 3)  # thin lines behind the objects
    front_lines: tuple[int, int] = (0, 1)  # thin lines across everything
    blobs: tuple[int, int] = (0, 3)  # soft spots behind the objects

    # How well it is seen.
    contrast: float = 100.0  # least distance of an object's colour from what it covers (Euclidean, 0..441)
    low_contrast_share: float = 0.05  # objects that keep only `low_contrast`; never those under twice `min_size`
    low_contrast: tuple[float, float] = (28.0, 50.0)
    hue_share: float = 0.85  # objects whose colour hints at their class, as a tomato's does; the others have any colour
    hue_spread: float = 0.04  # standard deviation of that hue, of a full circle; classes are 0.2 apart
    texture: float = 14.0  # amplitude of the background's gradient, waves, checks or clouds (grey levels)
    shading: float = 0.25  # how much an object's colour may change across it
    blur_share: float = 0.3
    blur: tuple[float, float] = (0.4, 1.0)  # sigma in pixels
    gain: tuple[float, float] = (0.7, 1.2)  # contrast of the whole picture about mid-grey
    brightness: tuple[float, float] = (-25.0, 25.0)
    noise: tuple[float, float] = (0.0, 10.0)  # sigma in grey levels


@dataclass
class Drawn:
    """One labelled object.

    Attributes:
        label: its class.
        visible: ``(H, W)`` bool, the pixels nothing hides.
        area: pixels of the whole shape, hidden ones and those outside the picture included.
    """

    label: int
    visible: np.ndarray
    area: int

    def box(self) -> Box:
        """The tight box of the visible part."""
        left, top, right, bottom = _extent(self.visible)
        return self.label, (left + right) / 2, (top + bottom) / 2, float(right - left), float(bottom - top)


def draw(
    seed: int, index: int, size: int = 128, *, split: str = "train", config: ShapesConfig | None = None
) -> tuple[np.ndarray, list[Box]]:
    """Picture number `index` of `split`.

    Returns:
        image: ``(size, size, 3)`` uint8, BGR.
        boxes: (class, cx, cy, w, h) in pixels, each tight around the visible part of its object.
    """
    image, objects = compose(seed, index, size, split=split, config=config)
    return image, [item.box() for item in objects]


def compose(
    seed: int, index: int, size: int = 128, *, split: str = "train", config: ShapesConfig | None = None
) -> tuple[np.ndarray, list[Drawn]]:
    """As `draw`, with the masks the boxes are measured from."""
    config = config or ShapesConfig()
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = _background(rng, size, config)
    for _ in range(_count(rng, config.blobs)):
        _blob(rng, canvas)
    for _ in range(_count(rng, config.lines)):
        _line(rng, canvas)

    wanted = 0 if rng.random() < config.empty_share else max(1, _count(rng, config.objects))
    kinds = [*rng.integers(len(NAMES), size=wanted), *([-1] * _count(rng, config.distractors))]
    objects: list[Drawn] = []
    for kind in rng.permutation(np.array(kinds, dtype=int)):
        _place(rng, canvas, int(kind), objects, config)
    assert objects or not wanted, f"no object fits into picture {index} of {split}, seed {seed}, size {size}"

    for _ in range(_count(rng, config.front_lines)):
        _line(rng, canvas)
    return _photograph(rng, canvas, config), objects


def _count(rng: np.random.Generator, span: tuple[int, int]) -> int:
    return int(rng.integers(span[0], span[1] + 1))


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a bool mask; right and bottom are one past the last pixel."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# Shapes ------------------------------------------------------------------------------------------------------------


def _arc(radius: float, start: float = 0.0, stop: float = 2 * math.pi, points: int = 48) -> np.ndarray:
    angles = np.linspace(start, stop, points, endpoint=abs(stop - start) < 2 * math.pi)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _outline(rng: np.random.Generator, kind: str) -> list[np.ndarray]:
    """The closed curves of a shape about the origin, each ``(P, 2)``; what two curves enclose both is a hole."""
    if kind == "disc":
        return [_arc(1.0)]
    if kind == "ring":
        return [_arc(1.0), _arc(float(rng.uniform(0.5, 0.65)))]
    if kind == "square":
        return [_arc(1.0, points=4)]
    if kind == "triangle":
        return [_arc(1.0, points=3)]
    if kind == "star":
        points = _arc(1.0, points=10)
        points[1::2] *= rng.uniform(0.38, 0.46)
        return [points]
    thick = float(rng.uniform(0.2, 0.32))
    if kind == "cross":
        t = thick
        x = [1, 1, t, t, -t, -t, -1, -1, -t, -t, t, t]
        return [np.stack([x, np.roll(x, 3)], axis=1).astype(float)]
    if kind == "bar":
        return [np.array([[-1, -thick], [1, -thick], [1, thick], [-1, thick]])]
    if kind == "angle":
        low = 2 * thick - 1
        return [np.array([[-1, -1], [1, -1], [1, low], [low, low], [low, 1], [-1, 1]])]
    assert kind == "crescent", kind
    bite = _arc(0.868, -1.513, 1.513 - 2 * math.pi) + (0.45, 0.0)  # meets the outer arc at (0.5, -0.87), (0.5, 0.87)
    return [np.concatenate([_arc(1.0, math.pi / 3, 5 * math.pi / 3), bite])]


def _mask(
    rng: np.random.Generator, kind: str, length: float, size: int, config: ShapesConfig
) -> tuple[np.ndarray, int]:
    """A shape turned, stretched and put somewhere.

    Returns:
        alpha: ``(size, size)`` float in 0..1, antialiased.
        area: the pixels of the whole shape, those outside the picture included.
    """
    angle = rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    stretch = np.diag([1 + rng.uniform(-config.stretch, config.stretch), 1.0])
    curves = [curve @ stretch @ turn.T for curve in _outline(rng, kind)]
    low, high = curves[0].min(axis=0), curves[0].max(axis=0)
    scale = length / (high - low).max()
    # Up to a quarter of the length may lie outside; the visible share decides in the end.
    reach = (high - low) * scale / 2
    centre = rng.uniform(np.minimum(reach / 2, size / 2), np.maximum(size - reach / 2, size / 2))
    margin = size // 2
    curves = [(curve - (low + high) / 2) * scale + centre + margin for curve in curves]
    sheet = np.zeros((size + 2 * margin, size + 2 * margin), np.uint8)
    # fillPoly counts from pixel centres, boxes from pixel corners; 4 fractional bits.
    fixed = [np.round((curve - 0.5) * 16).astype(np.int32) for curve in curves]
    cv2.fillPoly(sheet, fixed, 255, lineType=cv2.LINE_AA, shift=4)
    alpha = sheet[margin : margin + size, margin : margin + size].astype(np.float32) / 255
    return alpha, int((sheet >= 128).sum())


def _place(rng: np.random.Generator, canvas: np.ndarray, kind: int, objects: list[Drawn], config: ShapesConfig) -> None:
    """Draw a shape on top of `objects`, whose visible parts shrink; kind -1 is a distractor.

    A place where it would hide too much of itself or of another is given up; after enough of them, so is the shape.
    """
    size = canvas.shape[0]
    largest = config.max_share * size
    for _ in range(30):
        length = config.min_size * (largest / config.min_size) ** (rng.random() ** config.size_skew)
        name = DISTRACTORS[rng.integers(len(DISTRACTORS))] if kind < 0 else NAMES[kind]
        alpha, area = _mask(rng, name, length, size, config)
        visible = alpha >= 0.5
        if not _seen(visible, area, config):
            continue
        left_over = [Drawn(item.label, item.visible & ~visible, item.area) for item in objects]
        if all(_seen(item.visible, item.area, config) for item in left_over):
            _paint(rng, canvas, alpha, length, kind, config)
            objects[:] = left_over if kind < 0 else [*left_over, Drawn(kind, visible, area)]
            return


def _seen(visible: np.ndarray, area: int, config: ShapesConfig) -> bool:
    """Whether enough of a shape of `area` pixels is visible for a label."""
    if visible.sum() < max(config.min_visible * area, 1):
        return False
    left, top, right, bottom = _extent(visible)
    return max(right - left, bottom - top) >= config.min_size


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, length: float, kind: int, config: ShapesConfig
) -> None:
    """Blend a shaded shape of a colour that stands out from what it covers into `canvas`; kind -1 is a distractor."""
    under = canvas[alpha >= 0.5].mean(axis=0)
    if length >= 2 * config.min_size and rng.random() < config.low_contrast_share:
        way = rng.normal(size=3)
        step = way / np.linalg.norm(way) * rng.uniform(*config.low_contrast)
        # Away from black and white, so that clipping cannot eat the little contrast there is.
        colour = under + np.where((under + step < 0) | (under + step > 255), -step, step)
    else:
        colour = _object_colour(rng, kind, config)
        while np.linalg.norm(colour - under) < config.contrast:
            colour = _object_colour(rng, kind, config)
    left, top, right, bottom = _extent(alpha > 0)
    slope = rng.uniform(0, config.shading) * _ramp(rng, bottom - top, right - left)
    patch = canvas[top:bottom, left:right]
    patch += alpha[top:bottom, left:right, None] * (colour.astype(np.float32) * (1 + slope[..., None]) - patch)


def _object_colour(rng: np.random.Generator, kind: int, config: ShapesConfig) -> np.ndarray:
    """BGR: near the hue of the class for `hue_share` of the objects, else (and for distractors) any colour."""
    if kind < 0 or rng.random() >= config.hue_share:
        return rng.uniform(0, 255, 3)
    hue = (kind / len(NAMES) + rng.normal(0, config.hue_spread)) % 1.0
    saturation, value = rng.uniform(0.3, 1.0), rng.uniform(0.25, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)[::-1]) * 255


# Surroundings ------------------------------------------------------------------------------------------------------


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """``(height, width)`` float32 in about -1..1, rising in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    across, down = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    return np.float32(math.cos(angle)) * across[None, :] + np.float32(math.sin(angle)) * down[:, None]


def _background(rng: np.random.Generator, size: int, config: ShapesConfig) -> np.ndarray:
    """``(size, size, 3)`` float32: one colour with a gradient, waves, checks or clouds over it."""
    colour = rng.uniform(25, 230, 3)
    kind = rng.integers(4)
    if kind == 0:
        pattern = _ramp(rng, size, size)
    elif kind == 1:
        pattern = np.sin(_ramp(rng, size, size) * rng.uniform(3, 30) + rng.uniform(0, 6.3))
    elif kind == 2:
        cell = int(rng.integers(6, 30))
        rows, columns = np.indices((size, size)) // cell
        pattern = ((rows + columns) % 2) * 2.0 - 1
    else:
        coarse = rng.normal(size=(int(rng.integers(3, 16)),) * 2).astype(np.float32)
        pattern = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    tint = rng.uniform(0.3, 1.0, 3) * rng.uniform(0.3, 1.5) * config.texture
    layers = pattern[..., None].astype(np.float32) * tint.astype(np.float32)
    return colour.astype(np.float32) + layers + _ramp(rng, size, size)[..., None] * np.float32(rng.uniform(0, 20))


def _line(rng: np.random.Generator, canvas: np.ndarray) -> None:
    (ax, ay), (bx, by) = rng.uniform(0, canvas.shape[0], (2, 2))
    colour, thick = rng.uniform(0, 255, 3), int(rng.integers(1, 3))
    cv2.line(canvas, (int(ax), int(ay)), (int(bx), int(by)), colour.tolist(), thick)


def _blob(rng: np.random.Generator, canvas: np.ndarray) -> None:
    size = canvas.shape[0]
    rows, columns = np.ogrid[:size, :size]
    (x, y), radius = rng.uniform(0, size, 2), rng.uniform(0.02, 0.12) * size
    soft = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2)).astype(np.float32)[..., None]
    colour = rng.uniform(0, 255, 3).astype(np.float32)
    canvas += np.float32(rng.uniform(0.3, 0.8)) * soft * (colour - canvas)


def _photograph(rng: np.random.Generator, canvas: np.ndarray, config: ShapesConfig) -> np.ndarray:
    """Blur, contrast, brightness and noise; ``(H, W, 3)`` uint8."""
    if rng.random() < config.blur_share:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(*config.blur)))
    canvas = (canvas - 128) * np.float32(rng.uniform(*config.gain)) + np.float32(128 + rng.uniform(*config.brightness))
    sigma = np.float32(rng.uniform(*config.noise))
    canvas = canvas + sigma * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
