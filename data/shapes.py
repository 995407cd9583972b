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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from common.errors import UserError
from common.files import whole_file
from common.log import log
from data.cache import cache_folder
from data.shapes_draw import NAMES, VERSION, Drawn, ShapesConfig, compose, draw
from data.spec import SPLITS
from data.yolo_text import data_yaml, label_text

__all__ = ["NAMES", "VERSION", "Drawn", "ShapesConfig", "compose", "draw", "ensure"]

MARKER = ".complete.json"


def ensure(
    folder: Path | None = None,
    *,
    train: int = 1000,
    val: int = 150,
    test: int = 200,
    size: int = 128,
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
        raise UserError(
            f"pictures of {size} pixels are too small for objects of {config.min_size:g} pixels and more",
            todo=f"give a size of at least {math.ceil(2 * config.min_size / config.max_share)}",
        )
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


def _recipe(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None


def _is_whole(folder: Path, recipe: dict[str, Any], counts: dict[str, int]) -> bool:
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


def _move(place: Path, folder: Path, recipe: dict[str, Any], counts: dict[str, int]) -> None:
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
