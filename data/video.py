"""Films: every so many frames of one as pictures in a folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from common.errors import UserError
from common.files import write_json
from common.log import log

PIXELS = "pixels.json"
"""In a folder of frames: picture name -> `pixel_digest` of the frame, before JPEG took some of it."""
_QUALITY = 95


def video_frames(video: Path, folder: Path, every: int) -> list[Path]:
    """Frames 0, `every`, 2 `every`, ... of `video` as JPEG files in `folder`, which is whole or absent.

    Raises:
        UserError: nothing can be read from the video.
    """
    half = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    digests: dict[str, str] = {}
    reader, last = cv2.VideoCapture(str(video)), -1
    told = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))  # not above 0 where the header does not tell
    try:
        for number, frame in _every(reader, every):
            last = number
            name = f"{number:07d}.jpg"
            cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tofile(half / name)
            digests[name] = pixel_digest(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        if not digests:
            raise UserError(
                "not a frame of the video can be read", where=video, todo="convert it, for example with ffmpeg to .mp4"
            )
        write_json(half / PIXELS, digests)
        half.rename(folder)
    finally:
        reader.release()
        shutil.rmtree(half, ignore_errors=True)
    log.info("%s: %d frames, one in %d, in %s", video, len(digests), every, folder)
    if told - last > max(2 * every, 0.02 * told):  # headers often estimate
        log.warning("%s: its header tells of %d frames: those behind %d cannot be read", video, told, last + 1)
    return [folder / name for name in digests]


def _every(reader: cv2.VideoCapture, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number, (h, w, 3) BGR) of every so many frames."""
    number = 0
    while reader.grab():
        if number % every == 0:
            found, frame = reader.retrieve()
            if found:
                yield number, frame
        number += 1


def pixel_digest(image: np.ndarray) -> str:
    """What two (h, w, 3) uint8 RGB pictures share only if all their pixels are equal."""
    return hashlib.sha1(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
