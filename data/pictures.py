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
LFS = "a pointer of Git LFS, not the picture itself"
REPLACE = "replace or remove it"
warnings.filterwarnings("ignore", module="PIL")  # what is damaged is said in our words; files are opened in threads
# What is wrong with a picture is said in our words, with its name. OpenCV 4 and 5 have the call in different places.
if hasattr(cv2, "setLogLevel"):
    cv2.setLogLevel(0)
elif hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


SPARE = 0.1
"""Per cent of the values at each end without which a picture shows the same."""
ANY_RANGE = (0.0, 1.0)
"""For whom only sizes matter."""
NO_RANGE = "its values have no range of their own, such as 0 to 255; a pixel_range in the data set's yaml gives one"
TURNED, FRAMES, RANGELESS = "turned", "frames", "rangeless"
NOTES = {
    TURNED: "turned as their EXIF orientation says; labels belong to them as they are shown",
    FRAMES: "of several frames or pages, of which the first is read",
    RANGELESS: "of values without a range of their own, such as 0 to 1, for which pixel_range is needed",
    "transparent": "with transparency, which is dropped: what the file holds behind it shows",
    "palette": "with a palette, read as the colours it stands for",
    "CMYK": "in CMYK, read as RGB",
}
"""What there is to know of pictures that are read, for a sentence that begins with their number."""


@dataclass(frozen=True)
class Facts:
    """What is known of a picture once it has been decoded.

    Attributes:
        shape: height and width as shown, turned as its EXIF orientation says.
        bits: of a value, as it is stored: 8 or more.
        low, high: the least and the highest value; None: 8 bits that are well used, or a JPEG, only decoded at an
            eighth of its size.
        notes: keys of `NOTES`: what else there is to say of it.
    """

    shape: tuple[int, int]
    bits: int = 8
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = ()


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
        raise UserError("the file is empty", where=name, todo=REPLACE)
    image = _decoded(raw, name, cv2.IMREAD_COLOR) if pixel_range is None else _stored(raw, name)
    if pixel_range is not None and image.dtype != np.uint8:
        low, high = pixel_range
        values = np.clip(np.nan_to_num(image.astype(np.float32), nan=low), low, high)
        image = ((values - low) * (255 / (high - low))).round().astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)


def _raw(path: Path) -> np.ndarray:
    if reason := why_no_file(path):
        reason = reason if reason.startswith("cannot be read") else f"cannot be read: it {reason}"
        raise UserError(f"the picture {reason}", where=path, todo=REPLACE)
    try:
        raw = np.fromfile(path, np.uint8)  # unlike cv2.imread this also opens non-ASCII names on Windows
    except OSError as error:
        raise UserError(f"the picture cannot be read: {error.strerror or error}", where=path, todo=REPLACE) from error
    if raw[:24].tobytes().startswith(b"version https://git-lfs"):
        raise UserError(LFS, where=path, todo="fetch the files: git lfs pull")
    if not raw.size:
        raise UserError("the file is empty", where=path, todo=REPLACE)
    return raw


def _decoded(raw: np.ndarray, path: str | Path, how: int) -> np.ndarray:
    image = _unpacked(raw, path, how)
    if image is not None:
        return image
    if how == cv2.IMREAD_COLOR and (stored := _unpacked(raw, path, cv2.IMREAD_UNCHANGED)) is not None:
        low, high = _range(stored)
        problem = f"its values ({stored.dtype}) have no range of their own, here {low:g} to {high:g}"
        todo = "give it as pixel_range in the data set's yaml, or as --pixel-range: [black, white]"
        raise UserError(f"the picture cannot be read: {problem}", where=path, todo=todo)
    raise UserError("the file is not a picture OpenCV can read, or is damaged", where=path, todo=REPLACE)


def _stored(raw: np.ndarray, path: str | Path) -> np.ndarray:
    """A picture as (h, w, 3) BGR with the values it is stored with."""
    image = _unpacked(raw, path, _AS_STORED)
    if image is None:  # one channel of floating-point numbers is only read like this
        image = _unpacked(raw, path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError("the file is not a picture OpenCV can read, or is damaged", where=path, todo=REPLACE)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def _unpacked(raw: np.ndarray, path: str | Path, how: int) -> np.ndarray | None:
    _refuse_cut_png(raw, path)
    _refuse_too_large(raw, path)
    try:
        return cv2.imdecode(raw, how)
    except (cv2.error, MemoryError) as error:
        raise UserError(f"the picture cannot be read: {str(error)[:200]}", where=path, todo=REPLACE) from error


def _refuse_cut_png(raw: np.ndarray, path: str | Path) -> None:
    """OpenCV asks for as much memory as a part of a PNG says it is long, and reads on for minutes."""
    if raw[:8].tobytes() != b"\x89PNG\r\n\x1a\n":
        return
    place = 8
    while place + 8 <= len(raw):
        place += 12 + int.from_bytes(raw[place : place + 4].tobytes(), "big")
    if place > len(raw):
        raise UserError("truncated or damaged: a part of it would end behind the file's end", where=path, todo=REPLACE)


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
    return Image.open(io.BytesIO(raw.tobytes()))


def deep_range(path: Path) -> tuple[int, int] | None:
    """The least and the highest value of a picture of whole numbers with more than 8 bits; None: it is no such one."""
    if path.suffix.lower() not in DEEP_SUFFIXES:
        return None
    image = _stored(_raw(path), path)
    return (int(image.min()), int(image.max())) if image.dtype == np.uint16 else None


def picture_shapes(
    paths: Sequence[Path], pixel_range: tuple[float, float] | None = None
) -> list[tuple[int, int] | str]:
    """For each file the (height, width) as shown, or a sentence saying why it cannot be used: see `picture_facts`.

    Args:
        pixel_range: without, pictures that are only read with one cannot be used.
    """
    answers: list[tuple[int, int] | str] = []
    for found in picture_facts(paths):
        if isinstance(found, Facts):
            rangeless = RANGELESS in found.notes and pixel_range is None
            answers.append(NO_RANGE if rangeless else found.shape)
        else:
            answers.append(found)
    return answers


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
        answers.append(result if isinstance(result, str) else _facts(*result))
    return answers


def _facts(height: int, width: int, bits: int, low: float | None, high: float | None, notes: list[str]) -> Facts:
    return Facts((height, width), bits, low, high, tuple(notes))


_Result = list[Any]
"""Height, width, bits, least and highest value (None: nothing to say of them), notes."""


def _inspect(path: Path) -> _Result | str:
    """What is known of a picture once it is decoded, or why it cannot be."""
    try:
        raw = _raw(path)
        kind, size, notes = _looked_through(raw)
        if kind == "JPEG":
            small = _decoded(raw, path, cv2.IMREAD_REDUCED_COLOR_8).shape[:2]
            eighth = (-(-size[1] // 8), -(-size[0] // 8))
            if eighth[0] != eighth[1] or size[0] == size[1]:
                upright = small == eighth or size[0] == size[1]
                return [*((size[1], size[0]) if upright else size), 8, None, None, notes]
        image = _stored(raw, path)
        if image.dtype.kind == "f" or image.itemsize > 2:
            notes = [*notes, RANGELESS]
        elif image.dtype != np.uint8:
            _decoded(raw, path, cv2.IMREAD_COLOR)  # as it is trained on
    except UserError as error:
        return error.problem
    except OSError as error:
        return f"truncated or damaged: {error}"
    (height, width), bits, (low, high) = image.shape[:2], 8 * image.itemsize, _range(image)
    return [height, width, bits, low, high, notes] if bits > 8 or high < DARK else [height, width, 8, None, None, notes]


def _range(image: np.ndarray) -> tuple[float, float]:
    """The least and the highest value."""
    if image.dtype.kind != "f":
        low, high = int(image.min()), int(image.max())
        if image.dtype == np.uint16 and high - low >= 2**15:
            # A few hot pixels, or a mark, are not what the picture shows.
            few, most = np.percentile(image, (SPARE, 100 - SPARE))
            return (int(few), int(most)) if most - few < 2**15 else (low, high)
        return low, high
    values = image[np.isfinite(image)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _looked_through(raw: np.ndarray) -> tuple[str, tuple[int, int], list[str]]:
    """The format and (width, height) as Pillow has them, all of the file read, and notes; "", (0, 0), [] for what it
    cannot open.

    Raises:
        OSError: the pixels are not all there.
    """
    try:
        image = _opened(raw)
        kind, size = image.format or "", image.size
        if size[0] * size[1] > MOST_PIXELS:
            return "", (0, 0), []
        notes = _notes(image)
        image.draft("L", (max(1, size[0] // 8), max(1, size[1] // 8)))
        image.load()
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            least = image.convert("RGBA").getchannel("A").getextrema()[0]
            notes += ["transparent"] if isinstance(least, (int, float)) and least < 255 else []
        return kind, size, notes
    except OSError as error:
        if isinstance(error, UnidentifiedImageError):
            return "", (0, 0), []
        raise
    except Exception:  # OpenCV, which trains, may read what Pillow stumbles over
        return "", (0, 0), []


def _notes(image: Image.Image) -> list[str]:
    """What a picture's header tells."""
    notes = []
    # The further pictures of an MPO are no frames: depth, or the other eye.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        notes.append(FRAMES)
        image.seek(0)
    if image.getexif().get(274) in range(2, 9):
        notes.append(TURNED)
    notes += {"P": ["palette"], "CMYK": ["CMYK"]}.get(image.mode, [])
    return notes


def _stamp(path: Path) -> list[int] | str:
    """What changes with the file; or why there is none."""
    if reason := why_no_file(path):
        return reason
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _remembered(paths: Sequence[Path]) -> Path:
    # A name need not be UTF-8. What is remembered of a picture depends on who read it.
    text = "\n".join([f"3 {cv2.__version__}", *map(str, paths)])
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
            *numbers, low, high, notes = result
            if len(numbers) != 3 or not all(type(value) is int for value in numbers) or min(numbers) < 1:
                return {}
            told = (low, high) == (None, None) or all(type(value) in (int, float) for value in (low, high))
            if not told or not NOTES.keys() >= set(notes):
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
