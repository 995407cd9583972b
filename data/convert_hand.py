"""Oxford Hand: one MATLAB file a picture, each hand a turned rectangle of four corners stored as (y, x).

Mittal, Zisserman, Torr, "Hand detection using multiple proposals", BMVC 2011. The cell array ``boxes`` holds one struct
a hand with the fields a, b, c, d; the hand's box is the axis-aligned one around these corners.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.reading import why_no_file
from data.convert_objects import Annotated, Corners
from data.convert_pictures import Pictures, annotation_files
from data.convert_writer import (
    Converted,
    Shares,
    split_by_share,
    split_from_folders,
    write,
)
from data.problems import LEFT_OUT, Problem
from data.templates import POINTS

Objects = list[list[list[float]] | None]
"""For each object its four corners y, x, or None where it lacks them."""
PATIENCE = 30.0
"""Seconds after which a file is given up."""


def hand_to_yolo(
    annotations: Path,
    images: Path | None,
    out: Path,
    names: Sequence[str] | None = None,
    splits: Shares | None = None,
    *,
    link: bool = False,
    force: bool = False,
) -> Converted:
    """Convert the Oxford Hand data set, or any folder of its ``.mat`` files.

    Args:
        annotations: the folder of the ``.mat`` files, sub-folders included; the unpacked data set's own folder will do.
        images: the folder of the pictures; by default `annotations`.
        out: the new data set's folder.
        names: the one class; "hand" by default.
        splits: shares such as (80, 10, 10); by default the folders decide (``training_data`` is train, ...).
        link, force: see `data.convert_writer.write`.

    Raises:
        UserError: scipy is not installed, nothing to convert, or nowhere to write.
    """
    _need_scipy()
    classes = list(names or ["hand"])
    if len(classes) != 1:
        raise UserError(f"these annotations have one class, not {len(classes)}: {classes}", todo="give one name")
    files = annotation_files(annotations, ".mat")
    if not files:
        raise UserError("there are no .mat files in this folder", where=annotations, todo="give the data set's folder")
    root = images or annotations
    pictures = Pictures(root)
    problems: list[Problem] = []
    items = []
    with MatFiles() as reader:
        contents = [
            reader.read(file) for file in tqdm(files, desc="read", unit="file", disable=not sys.stderr.isatty())
        ]
    for file, content in zip(files, contents, strict=True):
        if isinstance(content, str):
            kind, _, detail = content.partition(": ")
            problems.append(Problem(LEFT_OUT, kind, file, None, detail))
            continue
        split = split_from_folders(file.relative_to(annotations))
        picture = pictures.find(file.stem, hint=split or "")
        if picture is None:
            problems.append(Problem(LEFT_OUT, "annotation without picture", file))
            continue
        if splits:
            split = split_by_share(file.stem, splits)
        split = split or split_from_folders(picture.relative_to(root)) or "train"
        hands = _hands(content, classes[0], file, problems)
        items.append(Annotated(picture, split, file, hands, lost=len(content) - len(hands)))
    return write(items, classes, out, problems=problems, link=link, force=force, source="Oxford Hand's .mat files")


def _need_scipy() -> None:
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise UserError(
            "reading .mat files needs scipy, which is not installed",
            todo="pip install scipy (the checkout's extra: pip install -e '.[convert]')",
        ) from error


def _hands(objects: Objects, name: str, file: Path, problems: list[Problem]) -> list[Corners]:
    """The boxes of one file."""
    found = []
    for number, points in enumerate(objects, 1):
        if points is None:
            problems.append(Problem(LEFT_OUT, "hand without four corners a, b, c, d", file, None, f"object {number}"))
            continue
        ys, xs = zip(*points, strict=True)
        found.append(Corners(name, min(xs), min(ys), max(xs), max(ys), None, f"object {number}", POINTS))
    return found


class MatFiles:
    """Reads .mat files in a process of its own (`data.mat_child`), and starts another where a file ended it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> MatFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def read(self, file: Path) -> Objects | str:
        """The corners of each object, or what is wrong with the file."""
        if reason := why_no_file(file):
            return f"not a MATLAB file scipy can read: {reason}"
        child = self._child = self._child or subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("mat_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdin
        assert child.stdout
        stopper = threading.Timer(PATIENCE, child.kill)
        stopper.start()
        try:
            child.stdin.write(json.dumps(str(file)) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            stopper.cancel()
        if not answer:
            self._stop()
            return "not a MATLAB file scipy can read: it ends the process that reads it"
        content = json.loads(answer)
        return content.get("problem") or content.get("objects", [])

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()
