"""The built-in data set: pictures of shapes, drawn from a seed, so that the whole line runs without a download.

Five classes, some of them easily taken for one another (disc and ring; square, triangle and star when small), on busy
backgrounds with other shapes, lines and blobs between them. `ensure` writes the set once to a cache folder in the usual
layout (``images/<split>``, ``labels/<split>``, ``data.yaml``); from there on it is a data set like any other.

A picture is a pure function of (seed, split, index, size, `ShapesConfig`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.files import whole_file
from common.log import log
from data.cache import cache_folder
from data.yolo_text import Box, data_yaml, label_text

VERSION = 1
"""Raised whenever a picture changes, so that no run mixes the pictures of two generators."""

NAMES = ("disc", "ring", "square", "triangle", "star")
DISTRACTORS = ("cross", "bar", "crescent", "angle")
SPLITS = ("train", "val", "test")
MARKER = ".complete.json"


@dataclass(frozen=True)
class ShapesConfig:
    """How hard the pictures are. Ranges are (low, high), drawn uniformly unless a comment says otherwise."""

    # What is to be found.
    empty_share: float = 0.08  # pictures without any object: background the detector must stay silent on
    objects: tuple[int, int] = (1, 6)  # objects in the other pictures, both ends included
    min_size: float = 8.0  # longer side of the smallest object in pixels; below it classes cannot be told apart
    max_share: float = 0.5  # longer side of the largest object as a share of the picture's side
    size_skew: float = 0.6  # size = min * (max / min)^(u^skew): 1 is log-uniform, less gives fewer tiny objects
    stretch: float = 0.12  # uneven scaling before the rotation: 0.12 makes a square up to 1.27 : 1
    min_visible: float = 0.5  # least share of an object that others and the picture's edge may leave visible

    # What is not.
    distractors: tuple[int, int] = (0, 3)  # shapes of no class, in front of and behind the objects
    lines: tuple[int, int] = (0, 4)  # thin lines behind the objects
    front_lines: tuple[int, int] = (0, 1)  # thin lines across everything
    blobs: tuple[int, int] = (0, 4)  # soft spots behind the objects

    # How well it is seen.
    contrast: float = 70.0  # least distance of an object's colour from what it covers (Euclidean, 0..441)
    low_contrast_share: float = 0.15  # objects that keep only `low_contrast`; never those under twice `min_size`
    low_contrast: tuple[float, float] = (28.0, 50.0)
    texture: float = 22.0  # amplitude of the background's gradient, waves, checks or clouds (grey levels)
    shading: float = 0.25  # how much an object's colour may change across it
    blur_share: float = 0.3
    blur: tuple[float, float] = (0.4, 1.0)  # sigma in pixels
    gain: tuple[float, float] = (0.7, 1.2)  # contrast of the whole picture about mid-grey
    brightness: tuple[float, float] = (-25.0, 25.0)
    noise: tuple[float, float] = (0.0, 14.0)  # sigma in grey levels


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
    seed: int, index: int, size: int = 160, *, split: str = "train", config: ShapesConfig | None = None
) -> tuple[np.ndarray, list[Box]]:
    """Picture number `index` of `split`.

    Returns:
        image: ``(size, size, 3)`` uint8, BGR.
        boxes: (class, cx, cy, w, h) in pixels, each tight around the visible part of its object.
    """
    image, objects = compose(seed, index, size, split=split, config=config)
    return image, [item.box() for item in objects]


def compose(
    seed: int, index: int, size: int = 160, *, split: str = "train", config: ShapesConfig | None = None
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
            _paint(rng, canvas, alpha, length, config)
            objects[:] = left_over if kind < 0 else [*left_over, Drawn(kind, visible, area)]
            return


def _seen(visible: np.ndarray, area: int, config: ShapesConfig) -> bool:
    """Whether enough of a shape of `area` pixels is visible for a label."""
    if visible.sum() < max(config.min_visible * area, 1):
        return False
    left, top, right, bottom = _extent(visible)
    return max(right - left, bottom - top) >= config.min_size


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, length: float, config: ShapesConfig
) -> None:
    """Blend a shaded shape of a colour that stands out from what it covers into `canvas`."""
    under = canvas[alpha >= 0.5].mean(axis=0)
    if length >= 2 * config.min_size and rng.random() < config.low_contrast_share:
        way = rng.normal(size=3)
        step = way / np.linalg.norm(way) * rng.uniform(*config.low_contrast)
        # Away from black and white, so that clipping cannot eat the little contrast there is.
        colour = under + np.where((under + step < 0) | (under + step > 255), -step, step)
    else:
        colour = rng.uniform(0, 255, 3)
        while np.linalg.norm(colour - under) < config.contrast:
            colour = rng.uniform(0, 255, 3)
    left, top, right, bottom = _extent(alpha > 0)
    slope = rng.uniform(0, config.shading) * _ramp(rng, bottom - top, right - left)
    patch = canvas[top:bottom, left:right]
    patch += alpha[top:bottom, left:right, None] * (colour.astype(np.float32) * (1 + slope[..., None]) - patch)


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


# The folder --------------------------------------------------------------------------------------------------------


def ensure(
    folder: Path | None = None,
    *,
    train: int = 600,
    val: int = 150,
    test: int = 200,
    size: int = 160,
    seed: int = 0,
    config: ShapesConfig | None = None,
    progress: bool = True,
) -> Path:
    """The built-in data set on disk, drawn if it is not there yet.

    It is drawn beside its place and renamed into it, so a folder with the marker is whole whatever was killed.

    Args:
        folder: where to; the default is one named after all the parameters, in `data.cache.cache_folder`.
        train, val, test: pictures in each split.
        size: side of the (square) pictures in pixels.
        seed: another one gives other pictures of the same kind.
        config: how hard they are.
        progress: show a bar while drawing.

    Returns:
        The path of ``data.yaml``.

    Raises:
        UserError: `folder` holds something else, or `size` leaves no room for objects of different sizes.
    """
    config = config or ShapesConfig()
    if size * config.max_share < 2 * config.min_size:
        raise UserError(f"pictures of {size} pixels are too small for objects of {config.min_size:g} pixels and more",
                        todo=f"give a size of at least {math.ceil(2 * config.min_size / config.max_share)}")
    counts = dict(zip(SPLITS, (train, val, test)))
    recipe = {"version": VERSION, **counts, "size": size, "seed": seed, **asdict(config)}
    recipe = json.loads(json.dumps(recipe))  # tuples become lists, as they will read back
    if folder is None:
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]
        folder = cache_folder() / f"shapes-{VERSION}-{digest}"
    elif folder.exists() and any(folder.iterdir()) and _recipe(folder) != recipe:
        raise UserError(
            "the folder for the built-in data set holds other files or another variant of it",
            where=folder,
            todo="name an empty or a new folder, or delete this one",
        )
    if _is_whole(folder, recipe, counts):
        return folder / "data.yaml"

    with _drawing_place(folder) as place:
        _write(place, counts, size, seed, config, progress)
        with whole_file(place / MARKER) as path:
            path.write_text(json.dumps(recipe, indent=1))
        _move(place, folder, recipe, counts)
    return folder / "data.yaml"


def _recipe(folder: Path) -> dict | None:
    try:
        return json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None


def _is_whole(folder: Path, recipe: dict, counts: dict[str, int]) -> bool:
    """The marker is written last and fits, and nobody has deleted pictures or labels since."""
    if _recipe(folder) != recipe or not (folder / "data.yaml").exists():
        return False
    parts = [(folder / kind / split, counts[split]) for kind in ("images", "labels") for split in SPLITS]
    return all(part.is_dir() and len(os.listdir(part)) == count for part, count in parts)


@contextmanager
def _drawing_place(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that is gone afterwards; also clears away what killed processes left there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.drawing."
    for left in folder.parent.glob(f"{prefix}*"):
        # Another process may be drawing right now; nobody draws for an hour.
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move(place: Path, folder: Path, recipe: dict, counts: dict[str, int]) -> None:
    """Put the finished `place` where `folder` is to be, in one step, unless another process was quicker."""
    place.chmod(0o755)  # mkdtemp's folders are private
    if folder.exists() and not _is_whole(folder, recipe, counts):
        shutil.rmtree(folder)
    try:
        place.rename(folder)
    except OSError:
        if not _is_whole(folder, recipe, counts):
            raise


def _write(place: Path, counts: dict[str, int], size: int, seed: int, config: ShapesConfig, progress: bool) -> None:
    """Draw every picture into ``images/<split>`` and ``labels/<split>``; a picture without boxes has an empty label."""
    log.info("drawing the built-in data set: %d pictures of %d x %d pixels", sum(counts.values()), size, size)
    with tqdm(total=sum(counts.values()), desc="drawing", unit="picture", disable=not progress, mininterval=0.5) as bar:
        for split, count in counts.items():
            images, labels = place / "images" / split, place / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for index in range(count):
                image, boxes = draw(seed, index, size, split=split, config=config)
                # PNG keeps the noise as drawn; level 1 because noise hardly compresses and time does count.
                _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
                (images / f"{index:05d}.png").write_bytes(data.tobytes())
                (labels / f"{index:05d}.txt").write_text(label_text(boxes, size, size))
                bar.update()
    splits = {split: f"images/{split}" for split in SPLITS}
    (place / "data.yaml").write_text(data_yaml(splits, NAMES))
