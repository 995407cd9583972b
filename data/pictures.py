"""Picture files: decoded for training, and checked once for being whole."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.cores import available_cores
from common.errors import UserError
from common.log import log
from common.reading import why_no_file
from data.contents import BLOCK, digest_of, note_contents, read_whole
from data.facts import FRAMES, RANGELESS, TURNED, Facts, FactsMemory
from data.remembered import asked, stamps_of

MOST_PIXELS = 2**27
"""A picture of more pixels is refused: unpacked it is 400 MB, and what detects shrinks it to a thousandth."""
DEEP_SUFFIXES = frozenset([".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2"])
"""Endings of pictures that may have more than 8 bits."""
DARK = 32
"""Where no picture of 8 bits has a value of this or more, they were stored with fewer bits than they have."""
LFS = "a pointer of Git LFS, not the picture itself"
REPLACE = "replace or remove it"
TIFF = (b"II*\0", b"MM\0*")
PART = 100
"""Pictures one thread takes at once."""
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
        with open(path, "rb", buffering=0) as handle:  # unlike cv2.imread this also opens non-ASCII names on Windows
            raw = np.frombuffer(handle.read(), np.uint8)
    except OSError as error:
        raise UserError(f"the picture cannot be read: {error.strerror or error}", where=path, todo=REPLACE) from error
    if raw[:24].tobytes().startswith(b"version https://git-lfs"):
        raise UserError(LFS, where=path, todo="fetch the files: git lfs pull")
    if not raw.size:
        raise UserError("the file is empty", where=path, todo=REPLACE)
    return raw


def _decoded(raw: np.ndarray, path: str | Path, how: int, sized: bool = False) -> np.ndarray:
    image = _unpacked(raw, path, how, sized)
    if image is not None:
        return image
    if how == cv2.IMREAD_COLOR and (stored := _unpacked(raw, path, cv2.IMREAD_UNCHANGED)) is not None:
        low, high = _range(stored)
        problem = f"its values ({stored.dtype}) have no range of their own, here {low:g} to {high:g}"
        todo = "give it as pixel_range in the data set's yaml, or as --pixel-range: [black, white]"
        raise UserError(f"the picture cannot be read: {problem}", where=path, todo=todo)
    raise UserError("the file is not a picture OpenCV can read, or is damaged", where=path, todo=REPLACE)


def _stored(raw: np.ndarray, path: str | Path, sized: bool = False) -> np.ndarray:
    """A picture as (h, w, 3) BGR with the values it is stored with."""
    image = _unpacked(raw, path, _AS_STORED, sized)
    if image is None:  # one channel of floating-point numbers is only read like this
        image = _unpacked(raw, path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError("the file is not a picture OpenCV can read, or is damaged", where=path, todo=REPLACE)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def _unpacked(raw: np.ndarray, path: str | Path, how: int, sized: bool = False) -> np.ndarray | None:
    """What OpenCV reads; `sized`: it is known not to be too large."""
    _refuse_cut_png(raw, path)
    if not sized:
        _refuse_too_large(raw, path)
    if raw[:4].tobytes() in TIFF and (behind := _behind_alpha(raw)) is not None:
        return behind
    try:
        return cv2.imdecode(raw, how)
    except (cv2.error, MemoryError) as error:
        raise UserError(f"the picture cannot be read: {str(error)[:200]}", where=path, todo=REPLACE) from error


def _behind_alpha(raw: np.ndarray) -> np.ndarray | None:
    """The (h, w, 3) BGR of a TIFF with transparency, into which OpenCV would multiply it; None: it is no such file."""
    try:
        image = _opened(raw)
        if image.mode not in ("RGBA", "LA"):
            return None
        return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[:, :, ::-1])
    except Exception:  # what Pillow stumbles over is for OpenCV to decide
        return None


def _refuse_cut_png(raw: np.ndarray, path: str | Path) -> None:
    """OpenCV asks for as much memory as a part of a PNG says it is long, and reads on for minutes."""
    if raw[:8].tobytes() != b"\x89PNG\r\n\x1a\n":
        return
    place = 8
    while place + 8 <= len(raw):
        if raw[place + 4 : place + 8].tobytes() == b"IEND":
            return  # what some programs leave behind it is not read
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


def picture_facts(paths: Sequence[Path], stamps: np.ndarray | None = None) -> list[Facts | str]:
    """For each file what is known of it, or a sentence saying why it cannot be used.

    Every file is decoded once by the reader that trains (JPEG at an eighth of its size), and by Pillow, which finds
    more of the truncated ones. Results are remembered in the user's cache folder until a file changes.

    Args:
        stamps: of the files, by `data.remembered.stamps_of`, where they are known.
    """
    stamps = stamps_of(paths) if stamps is None else stamps
    memory = FactsMemory(cv2.__version__, paths, stamps)  # what is known depends on who read it
    todo = memory.unknown()
    if len(todo) > 2000:
        log.info("checking %d pictures (once; the result is remembered)", len(todo))
    whole = read_whole(stamps)
    digests: dict[int, tuple[bytes, bytes]] = {}
    inspected = asked(lambda place: _inspect(paths[place], whole), todo, min(16, available_cores()), PART)
    for place, (result, glimpse, entire) in inspected:
        memory.note(place, result)
        digests[place] = glimpse, entire
    if todo:
        memory.store()
        note_contents(paths, stamps, digests)
    return [
        f"the file {why_no_file(path)}" if answer is None else answer
        for path, answer in zip(paths, memory.answers(), strict=True)
    ]


def _inspect(path: Path, whole: bool) -> tuple[Facts | str, bytes, bytes]:
    """What is known of a picture once it is decoded, or why it cannot be; and what `note_contents` wants of it."""
    content = b""
    try:
        raw = _raw(path)
        content = raw.tobytes()
        result: Facts | str = _decoded_facts(raw, path)
    except UserError as error:
        result = error.problem
    except OSError as error:
        result = f"truncated or damaged: {error}"
    if not content:
        return result, b"", b""
    glimpse = digest_of(content, whole=False)
    if len(content) <= 3 * BLOCK:  # they are the same
        return result, glimpse, glimpse
    return result, glimpse, digest_of(content, whole=True) if whole else b""


def _decoded_facts(raw: np.ndarray, path: Path) -> Facts:
    kind, size, notes = _looked_through(raw)
    sized = bool(kind)
    if kind == "JPEG":
        small = _decoded(raw, path, cv2.IMREAD_REDUCED_COLOR_8, sized).shape[:2]
        eighth = (-(-size[1] // 8), -(-size[0] // 8))
        if eighth[0] != eighth[1] or size[0] == size[1]:
            upright = small == eighth or size[0] == size[1]
            return Facts((size[1], size[0]) if upright else size, notes=tuple(notes))
    image = _stored(raw, path, sized)
    if image.dtype.kind == "f" or image.itemsize > 2:
        notes = [*notes, RANGELESS]
    elif image.dtype != np.uint8:
        _decoded(raw, path, cv2.IMREAD_COLOR, sized)  # as it is trained on
    bits, (low, high) = 8 * image.itemsize, _range(image)
    shape = image.shape[0], image.shape[1]
    return Facts(shape, bits, low, high, tuple(notes)) if bits > 8 or high < DARK else Facts(shape, notes=tuple(notes))


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


def has_frames(path: Path) -> bool:
    """Whether a picture has frames or pages behind the first, which is the only one that is read."""
    try:
        with Image.open(path) as image:
            return _has_frames(image)
    except Exception:  # Pillow raises whatever a damaged file makes it stumble over; who reads it says so
        return False


def orientation_applied(path: Path, shape: tuple[int, int]) -> int:
    """The EXIF orientation, 1 to 8, of a picture that is shown with `shape`; 1 also where its reader ignores it."""
    try:
        with Image.open(path) as image:
            turn = image.getexif().get(274)
            # Some versions of Pillow give the size of a TIFF as it is shown, its tags as it is stored.
            tags = getattr(image, "tag_v2", {})
            width, height = tags.get(256, image.width), tags.get(257, image.height)
    except Exception:  # Pillow raises whatever a damaged file makes it stumble over; who reads it says so
        return 1
    if not isinstance(turn, int) or not 1 <= turn <= 8:
        return 1
    return turn if shape == ((width, height) if turn >= 5 else (height, width)) else 1


def _has_frames(image: Image.Image) -> bool:
    # The further pictures of an MPO are no frames: depth, or the other eye.
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1


def _notes(image: Image.Image) -> list[str]:
    """What a picture's header tells."""
    notes = []
    if _has_frames(image):
        notes.append(FRAMES)
        image.seek(0)
    if image.getexif().get(274) in range(2, 9):
        notes.append(TURNED)
    notes += {"P": ["palette"], "CMYK": ["CMYK"]}.get(image.mode, [])
    return notes
