"""Footage: pictures that nobody labelled, for a teacher to answer on. What there is, and what may not be among it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.log import log
from common.reading import read_text
from data.copies import copies
from data.dataset import Dataset
from data.labels import Scan
from data.loader import Companions
from data.options import AugmentConfig
from data.pictures import picture_shapes, read_picture
from data.places import PICTURE_SUFFIXES, VIDEO_SUFFIXES, files_under
from data.problems import LEFT_OUT, Problem, summary
from data.spec import DataSpec, find_entry, pictures_at
from data.video import PIXELS, pixel_digest, video_frames
from models.resize import LETTERBOX

UNLABELLED = "unlabelled"
NAMED = 3
"""How many pictures a refusal names."""


@dataclass(frozen=True)
class Footage:
    """Pictures to be trained on beside the data set's.

    Attributes:
        scan: the pictures, with the boxes that are to stand for labels, or without boxes.
        ratio: so many of them beside each labelled picture of a step.
        labelled: whether the boxes count as labels; without, that a picture has none says nothing.
    """

    scan: Scan
    ratio: float = 1.0
    labelled: bool = False

    def companions(
        self,
        spec: DataSpec,
        size: tuple[int, int],
        augment: AugmentConfig | None = None,
        cache: str | None = None,
        seed: int = 0,
        close_mosaic_from: int | None = None,
        resize: str = LETTERBOX,
    ) -> Companions:
        """The pictures as a `Loader` takes them; arguments as of `Dataset`."""
        dataset = Dataset(
            spec, UNLABELLED, size, augment, cache, seed, close_mosaic_from, found=self.scan, resize=resize
        )
        return Companions(dataset, self.ratio, self.labelled)


def find_footage(entries: Sequence[str], frames: Path, every: int) -> list[Path]:
    """The pictures that ``--unlabelled`` names.

    Args:
        entries: folders (searched below, for videos too), list files, videos, pictures.
        frames: where the frames of videos go, each video's in a folder of its own, unless they are there.
        every: of a video one frame in so many.

    Raises:
        UserError: an entry or a picture of a list is not there, a video that an entry names cannot be read, or nothing
            is found.
    """
    found: dict[Path, None] = {}
    for entry in entries:
        place = find_entry(entry, [Path.cwd()])
        if place is None:
            raise UserError(
                f"--unlabelled {entry}: there is no such file or folder",
                todo="name a folder of pictures, a list file with one picture a line, or a video",
            )
        pictures = _pictures(place.absolute(), frames, every)
        if not pictures:
            raise UserError(f"--unlabelled {entry}: there is no picture and no video in it", todo="give another folder")
        for path in pictures:
            try:
                str(path).encode()
            except UnicodeEncodeError as error:
                raise UserError("--unlabelled: the name is not UTF-8", where=path, todo="rename it") from error
        found |= dict.fromkeys(path.absolute() for path in pictures)
    return list(found)


def _pictures(place: Path, frames: Path, every: int) -> list[Path]:
    """What an entry stands for; of a folder, videos that cannot be read are told and left out."""
    if place.is_dir():
        files = files_under(place, PICTURE_SUFFIXES | VIDEO_SUFFIXES)[0]
        pictures = [path for path in files if not _is_video(path)]
        for video in filter(_is_video, files):
            try:
                pictures += _frames(video, frames, every)
            except UserError as error:
                log.error("--unlabelled: left out: %s", error)
        return pictures
    if _is_video(place):
        return _frames(place, frames, every)
    pictures = pictures_at(place, [Path.cwd()])
    if absent := [path for path in pictures if not path.is_file()]:
        raise UserError(
            f"{len(absent)} of the {len(pictures)} pictures of the list are not there: {_named(absent)}",
            where=place,
            todo="relative paths start at the working directory or at the list's folder; correct the list",
        )
    return pictures


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _frames(video: Path, frames: Path, every: int) -> list[Path]:
    status = video.stat()
    identity = f"{video}|{status.st_size}|{status.st_mtime_ns}|{every}"
    folder = frames / f"{video.stem}-{hashlib.sha1(identity.encode()).hexdigest()[:8]}"
    return sorted(folder.glob("*.jpg")) if folder.is_dir() else video_frames(video, folder, every)


def without_copies(pictures: Sequence[Path], spec: DataSpec) -> tuple[list[Path], int]:
    """The `pictures` that are not trained on already, and how many are.

    The same are files with the same bytes, and a video's frame and a picture with the same pixels.

    Raises:
        UserError: some are pictures of val or test: what is measured there would be learnt.
    """
    for split in ("val", "test"):
        if same := _copies(pictures, spec.splits.get(split, ())):
            raise UserError(
                f"--unlabelled: {len(same)} of its {len(pictures)} pictures are also in '{split}', whose score would "
                f"be too good: {_named(same)}",
                where=spec.source,
                todo=f"take them out of the footage, and what was filmed in the same moment: '{split}' stays unseen",
            )
    known = _copies(pictures, spec.splits.get("train", ()))
    left = [path for path in pictures if path not in known]
    if not left:
        raise UserError(
            f"--unlabelled: all {len(pictures)} pictures are in the training split, with their labels",
            where=spec.source,
            todo="give pictures that it does not have",
        )
    return left, len(known)


def _copies(pictures: Sequence[Path], originals: Sequence[Path]) -> dict[Path, Path]:
    return copies(pictures, originals) | _frame_copies(pictures, originals)


def _frame_copies(pictures: Sequence[Path], originals: Sequence[Path]) -> dict[Path, Path]:
    """Frames of videos whose pixels, as they were decoded, are those of a picture."""
    digests: dict[str, Path] = {}
    folders = dict.fromkeys(path.parent for path in pictures if (path.parent / PIXELS).is_file())
    wanted = set(pictures)
    for folder in folders:
        for name, digest in _pixels(folder).items():
            if folder / name in wanted:
                digests[digest] = folder / name
    shapes = set(picture_shapes(list(digests.values())))
    found = {}
    for original, shape in zip(originals, picture_shapes(originals) if digests else ()):
        # Only pictures of a frame's size are worth decoding.
        if shape in shapes and (frame := digests.get(pixel_digest(read_picture(original)))):
            found[frame] = original
    return found


def _pixels(folder: Path) -> dict[str, str]:
    """Frame -> what its pixels were when it was decoded."""
    try:
        content = json.loads(read_text(folder / PIXELS))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(digest, str) for digest in content.values()):
        raise UserError("is damaged", where=folder / PIXELS, todo=f"delete {folder}: the frames are then made again")
    return content


def _named(paths: Iterable[Path]) -> str:
    shown = list(paths)
    return ", ".join(map(str, shown[:NAMED])) + (", ..." if len(shown) > NAMED else "")


def scan_footage(pictures: Sequence[Path], pixel_range: tuple[float, float] | None = None) -> Scan:
    """Pictures without boxes; those that cannot be read (with the data set's `pixel_range`) are named and left out.

    Raises:
        UserError: none can be read.
    """
    found = Scan(UNLABELLED, [], np.zeros((0, 2), int), [], [])
    shapes = []
    for picture, shape in zip(pictures, picture_shapes(pictures, pixel_range), strict=True):
        if isinstance(shape, str):
            found.problems.append(Problem(LEFT_OUT, "picture left out", picture, None, shape))
        else:
            found.pictures.append(picture)
            shapes.append(shape)
    if found.problems:
        log.error("--unlabelled: %s", summary(found.problems))
    if not shapes:
        raise UserError("--unlabelled: none of its pictures can be read", todo="give pictures that OpenCV opens")
    found.shapes = np.array(shapes, int)
    found.labels = [np.zeros((0, 5), np.float32)] * len(shapes)
    return found
