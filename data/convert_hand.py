"""Oxford Hand: one MATLAB file a picture, each hand a turned rectangle of four corners stored as (y, x).

Mittal, Zisserman, Torr, "Hand detection using multiple proposals", BMVC 2011. The cell array ``boxes`` holds one struct
a hand with the fields a, b, c, d; the hand's box is the axis-aligned one around these corners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.convert_writer import (
    Annotated,
    Converted,
    Corners,
    Pictures,
    Shares,
    split_by_share,
    split_from_folders,
    write,
)
from data.problems import LEFT_OUT, Problem

CORNERS = ("a", "b", "c", "d")


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
    load = _loader()
    classes = list(names or ["hand"])
    if len(classes) != 1:
        raise UserError(f"these annotations have one class, not {len(classes)}: {classes}", todo="give one name")
    files = sorted(annotations.rglob("*.mat")) if annotations.is_dir() else []
    if not files:
        raise UserError("there are no .mat files in this folder", where=annotations, todo="give the data set's folder")
    root = images or annotations
    pictures = Pictures(root)
    problems: list[Problem] = []
    items = []
    for file in files:
        try:
            content = load(file)
        except Exception as error:  # scipy raises whatever a damaged file makes it stumble over
            problems.append(Problem(LEFT_OUT, "not a MATLAB file scipy can read", file, None, str(error)[:80]))
            continue
        if "boxes" not in content:
            problems.append(Problem(LEFT_OUT, "MATLAB file without `boxes`", file))
            continue
        split = split_from_folders(file.relative_to(annotations))
        picture = pictures.find(file.stem, hint=split or "")
        if picture is None:
            problems.append(Problem(LEFT_OUT, "annotation without picture", file))
            continue
        if splits:
            split = split_by_share(file.stem, splits)
        split = split or split_from_folders(picture.relative_to(root)) or "train"
        items.append(Annotated(picture, split, file, _hands(content["boxes"], classes[0], file, problems)))
    return write(items, classes, out, problems=problems, link=link, force=force, source="Oxford Hand's .mat files")


def _loader() -> Callable[[Path], dict[str, Any]]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            "reading .mat files needs scipy, which is not installed",
            todo="pip install scipy (the checkout's extra: pip install -e '.[convert]')",
        ) from error
    return lambda file: loadmat(str(file))


def _hands(boxes: np.ndarray, name: str, file: Path, problems: list[Problem]) -> list[Corners]:
    """The boxes of one file; `boxes` is the cell array as scipy reads it: objects of 1 x 1 structs."""
    found = []
    for number, cell in enumerate(np.asarray(boxes, dtype=object).ravel(), 1):
        struct = np.asarray(cell)
        try:
            # Each corner is a 1 x 2 matrix y, x.
            points = np.array([np.asarray(struct[corner].ravel()[0], float).ravel()[:2] for corner in CORNERS])
            ys, xs = points.T
        except (IndexError, ValueError, TypeError, KeyError):
            problems.append(Problem(LEFT_OUT, "hand without four corners a, b, c, d", file, None, f"object {number}"))
            continue
        left, top, right, bottom = (float(edge) for edge in (xs.min(), ys.min(), xs.max(), ys.max()))
        found.append(Corners(name, left, top, right, bottom, None, f"object {number}"))
    return found
