"""Picture files: decoded for training, and checked once for being whole."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from common.cores import available_cores
from common.errors import UserError
from common.files import whole_file
from common.log import log
from data.cache import cache_folder

_ORIENTATION = 274  # the EXIF tag; 5 to 8 swap width and height


def read_picture(path: str | Path) -> np.ndarray:
    """A picture file as (h, w, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey pictures get three equal channels, 16 bits are reduced to 8, transparency is dropped.

    Raises:
        UserError: the file is absent or is not a picture.
    """
    try:
        raw = np.fromfile(path, np.uint8)  # unlike cv2.imread this also opens non-ASCII names on Windows
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
    except (OSError, cv2.error) as error:
        raise UserError(f"the picture cannot be read: {error}", where=path) from error
    if image is None:
        raise UserError("the file is not a picture OpenCV can read", where=path, todo="replace or remove it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def picture_shapes(paths: Sequence[Path]) -> list[tuple[int, int] | str]:
    """For each file the (height, width) as shown, or a sentence saying why it cannot be used.

    Every file is decoded once (JPEG at an eighth of its size), which finds truncated ones. Results are remembered
    in the user's cache folder by path, size and modification time.
    """
    memory = _remembered(paths)
    known = _load(memory)
    stamps = [_stamp(path) for path in paths]
    todo = [
        number
        for number, (path, stamp) in enumerate(zip(paths, stamps, strict=True))
        if stamp is not None and known.get(str(path), {}).get("stamp") != stamp
    ]
    if len(todo) > 2000:
        log.info("checking %d pictures (once; the result is remembered)", len(todo))
    with ThreadPoolExecutor(max_workers=min(16, available_cores())) as pool:
        for number, result in zip(todo, pool.map(_inspect, (paths[number] for number in todo)), strict=True):
            known[str(paths[number])] = {"stamp": stamps[number], "result": result}
    if todo:
        _store(memory, known)
    answers: list[tuple[int, int] | str] = []
    for path, stamp in zip(paths, stamps, strict=True):
        result = "the file is not there" if stamp is None else known[str(path)]["result"]
        answers.append(result if isinstance(result, str) else (int(result[0]), int(result[1])))
    return answers


def _inspect(path: Path) -> list[int] | str:
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # decompression-bomb size: OpenCV has its own limit
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            image.draft("L", (max(1, width // 8), max(1, height // 8)))
            image.load()
        return [width, height] if turned else [height, width]
    except (UnidentifiedImageError, Image.DecompressionBombError, NotImplementedError):
        pass  # OpenCV knows formats Pillow does not
    except (OSError, SyntaxError, ValueError) as error:
        if os.path.getsize(path):
            return f"truncated or damaged: {error}"
    try:
        height, width = read_picture(path).shape[:2]
        return [height, width]
    except UserError as error:
        return "the file is empty" if not os.path.getsize(path) else error.problem


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _remembered(paths: Sequence[Path]) -> Path:
    digest = hashlib.sha1("\n".join(map(str, paths)).encode()).hexdigest()
    return cache_folder() / "checked" / f"{digest}.json"


def _load(path: Path) -> dict[str, dict[str, Any]]:
    """What was remembered; a damaged file is as good as none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content.values():
            result = entry["result"]
            if not isinstance(result, str) and not (len(result) == 2 and min(result) > 0):
                return {}
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _store(path: Path, content: dict[str, dict[str, Any]]) -> None:
    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        log.info("the check of the pictures is not remembered: %s", error)
