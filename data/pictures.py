"""Picture files: decoded for training, and checked once for being whole."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from common.cores import available_cores
from common.errors import UserError
from common.files import whole_file
from common.log import log
from common.reading import read_text, why_no_file
from data.cache import cache_folder

MOST_PIXELS = 2**27
"""A picture of more pixels is refused: unpacked it is 400 MB, and what detects shrinks it to a thousandth."""
DEEP_SUFFIXES = frozenset([".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2"])
"""Endings of pictures that may have more than 8 bits."""
DARK = 32
"""Where no picture of 8 bits has a value of this or more, they were stored with fewer bits than they have."""
# What is wrong with a picture is said in our words, with its name. OpenCV 4 and 5 have the call in different places.
if hasattr(cv2, "setLogLevel"):
    cv2.setLogLevel(0)
elif hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


@dataclass(frozen=True)
class Facts:
    """What is known of a picture once it has been decoded.

    Attributes:
        shape: height and width as shown, turned as its EXIF orientation says.
        bits: of a value, as it is stored: 8 or more.
        low, high: the least and the highest value; None: 8 bits that are well used, or a JPEG, only decoded at an
            eighth of its size.
    """

    shape: tuple[int, int]
    bits: int = 8
    low: int | None = None
    high: int | None = None


def read_picture(path: str | Path, pixel_range: tuple[float, float] | None = None) -> np.ndarray:
    """A picture file as (h, w, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey pictures get three equal channels, transparency is dropped. More than 8 bits are reduced to 8.

    Args:
        path: the file.
        pixel_range: of pictures with more than 8 bits the values that become 0 and 255; None: the highest 8 bits.

    Raises:
        UserError: the file is absent, is not a picture or too large a one.
    """
    return decode_picture(_raw(Path(path)), path, pixel_range)


def decode_picture(raw: np.ndarray, name: str | Path, pixel_range: tuple[float, float] | None = None) -> np.ndarray:
    """`read_picture` of what is in memory: the bytes of a file, ``(n,)`` uint8, that messages call `name`."""
    if not raw.size:
        raise UserError("the file is empty", where=name, todo="replace or remove it")
    image = _decoded(raw, name, cv2.IMREAD_COLOR if pixel_range is None else _AS_STORED)
    if pixel_range is not None and image.dtype != np.uint8:
        low, high = pixel_range
        image = np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)


def _raw(path: Path) -> np.ndarray:
    if reason := why_no_file(path):
        reason = reason if reason.startswith("cannot be read") else f"cannot be read: it {reason}"
        raise UserError(f"the picture {reason}", where=path)
    try:
        raw = np.fromfile(path, np.uint8)  # unlike cv2.imread this also opens non-ASCII names on Windows
    except OSError as error:
        raise UserError(f"the picture cannot be read: {error.strerror or error}", where=path) from error
    if not raw.size:
        raise UserError("the file is empty", where=path, todo="replace or remove it")
    return raw


def _decoded(raw: np.ndarray, path: str | Path, how: int) -> np.ndarray:
    _refuse_cut_png(raw, path)
    _refuse_too_large(raw, path)
    try:
        image = cv2.imdecode(raw, how)
    except (cv2.error, MemoryError) as error:
        raise UserError(f"the picture cannot be read: {str(error)[:200]}", where=path) from error
    if image is None:
        raise UserError(
            "the file is not a picture OpenCV can read, or is damaged", where=path, todo="replace or remove it"
        )
    return image


def _refuse_cut_png(raw: np.ndarray, path: str | Path) -> None:
    """OpenCV asks for as much memory as a part of a PNG says it is long, and reads on for minutes."""
    if raw[:8].tobytes() != b"\x89PNG\r\n\x1a\n":
        return
    place = 8
    while place + 8 <= len(raw):
        place += 12 + int.from_bytes(raw[place : place + 4].tobytes(), "big")
    if place > len(raw):
        raise UserError("truncated or damaged: a part of it would end behind the file's end", where=path)


def _refuse_too_large(raw: np.ndarray, path: str | Path) -> None:
    """A few bytes can declare more pixels than there is memory; the header is looked at before anything is unpacked."""
    try:
        width, height = _opened(raw).size
        if width * height <= MOST_PIXELS:
            return
    except Image.DecompressionBombError:
        pass
    except Exception:  # Pillow raises whatever a damaged file makes it stumble over; what is readable OpenCV decides
        return
    raise UserError(
        f"the picture has more than {MOST_PIXELS // 2**20} million pixels",
        where=path,
        todo="cut it into tiles or shrink it",
    )


def _opened(raw: np.ndarray) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(raw.tobytes()))


def deep_range(path: Path) -> tuple[int, int] | None:
    """The least and the highest value of a picture with more than 8 bits; None: it has 8."""
    if path.suffix.lower() not in DEEP_SUFFIXES:
        return None
    image = _decoded(_raw(path), path, _AS_STORED)
    return None if image.dtype == np.uint8 else (int(image.min()), int(image.max()))


def picture_shapes(paths: Sequence[Path]) -> list[tuple[int, int] | str]:
    """For each file the (height, width) as shown, or a sentence saying why it cannot be used: see `picture_facts`."""
    return [found if isinstance(found, str) else found.shape for found in picture_facts(paths)]


def picture_facts(paths: Sequence[Path]) -> list[Facts | str]:
    """For each file what is known of it, or a sentence saying why it cannot be used.

    Every file is decoded once by the reader that trains (JPEG at an eighth of its size), and by Pillow, which finds
    more of the truncated ones. Results are remembered in the user's cache folder by path, size and modification time.
    """
    memory = _remembered(paths)
    known = _load(memory)
    stamps = [_stamp(path) for path in paths]
    todo = [
        number
        for number, (path, stamp) in enumerate(zip(paths, stamps, strict=True))
        if isinstance(stamp, list) and known.get(str(path), {}).get("stamp") != stamp
    ]
    if len(todo) > 2000:
        log.info("checking %d pictures (once; the result is remembered)", len(todo))
    with ThreadPoolExecutor(max_workers=min(16, available_cores())) as pool:
        for number, result in zip(todo, pool.map(_inspect, (paths[number] for number in todo)), strict=True):
            known[str(paths[number])] = {"stamp": stamps[number], "result": result}
    if todo:
        _store(memory, known)
    answers: list[Facts | str] = []
    for path, stamp in zip(paths, stamps, strict=True):
        result = f"the file {stamp}" if isinstance(stamp, str) else known[str(path)]["result"]
        answers.append(result if isinstance(result, str) else Facts((int(result[0]), int(result[1])), *result[2:]))
    return answers


def _inspect(path: Path) -> list[int | None] | str:
    """Height, width, and where there may be something to say of them: bits, least and highest value."""
    try:
        raw = _raw(path)
        kind, size = _looked_through(raw)
        if kind == "JPEG":
            small = _decoded(raw, path, cv2.IMREAD_REDUCED_COLOR_8).shape[:2]
            eighth = (-(-size[1] // 8), -(-size[0] // 8))
            if eighth[0] != eighth[1]:
                return [size[1], size[0]] if small == eighth else [size[0], size[1]]
            if size[0] == size[1]:
                return [size[1], size[0]]
        image = _decoded(raw, path, _AS_STORED)
    except UserError as error:
        return error.problem
    except OSError as error:
        return f"truncated or damaged: {error}"
    height, width = image.shape[:2]
    bits, low, high = 8 * image.itemsize, int(image.min()), int(image.max())
    return [height, width] if bits == 8 and high >= DARK else [height, width, bits, low, high]


def _looked_through(raw: np.ndarray) -> tuple[str, tuple[int, int]]:
    """The format and (width, height) as Pillow has them, all of the file read; "", (0, 0) for what it cannot open.

    Raises:
        OSError: the pixels are not all there.
    """
    try:
        image = _opened(raw)
        kind, size = image.format or "", image.size
        if size[0] * size[1] > MOST_PIXELS:
            return "", (0, 0)
        image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        return kind, size
    except OSError as error:
        if isinstance(error, UnidentifiedImageError):
            return "", (0, 0)
        raise
    except Exception:  # OpenCV, which trains, may read what Pillow stumbles over
        return "", (0, 0)


def _stamp(path: Path) -> list[int] | str:
    """What changes with the file; or why there is none."""
    if reason := why_no_file(path):
        return reason
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _remembered(paths: Sequence[Path]) -> Path:
    # A name need not be UTF-8. What is remembered of a picture depends on who read it.
    text = "\n".join([f"2 {cv2.__version__}", *map(str, paths)])
    digest = hashlib.sha1(text.encode(errors="surrogatepass")).hexdigest()
    return cache_folder() / "checked" / f"{digest}.json"


def _load(path: Path) -> dict[str, dict[str, Any]]:
    """What was remembered; a damaged file is as good as none."""
    try:
        content = json.loads(read_text(path))
        for entry in content.values():
            result = entry["result"]
            if isinstance(entry["stamp"], list) and isinstance(result, str):
                continue
            if len(result) not in (2, 5) or not all(type(value) is int for value in result) or min(result[:2]) < 1:
                return {}
        return content
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _store(path: Path, content: dict[str, dict[str, Any]]) -> None:
    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except (OSError, UserError) as error:
        log.info("the check of the pictures is not remembered: %s", error)
