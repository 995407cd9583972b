"""Label files: read, checked, and every wrong line named with file and line.

A label file has one line an object: class, cx, cy, w, h, all but the class as shares of the picture. What a line with
more numbers is, all lines of a split tell together (`data.columns`): a polygon becomes the box around it, keypoints
after a box are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.reading import read_bytes
from data.columns import KEYPOINTS, UNKNOWN, Columns, columns_of, not_centres, spread
from data.problems import ERROR, WARNING, Problem
from data.spec import find_label

TOLERANCE = 0.01
"""How far past 0..1 a number may lie and still count as rounding (one pixel in a hundred)."""
ROUNDING = 1e-5
"""Edges this little outside come from six written digits; they are cut without a word."""
SMALLEST = 1e-6
"""A side below this share of the picture is no side."""
MOST_LABELS = 64 * 2**20
"""More bytes than this are no labels of one picture."""

FIVE = "needs 5 numbers: class cx cy w h"
Fields = list[str]


def read_labels(picture: str | Path, classes: int, columns: Columns | None = None) -> tuple[np.ndarray, list[Problem]]:
    """The labels of one picture.

    Args:
        picture: the picture's path; the label file is found from it (`data.spec.find_label`).
        classes: number of classes; a class outside 0..classes-1 is a problem.
        columns: what lines with more than five numbers are; without, the file's own lines tell.

    Returns:
        ``(n, 5)`` float32: class, cx, cy, w, h as shares of the picture, the good lines only; and what was wrong.
        No label file means no objects.
    """
    path = find_label(picture)
    return (np.zeros((0, 5), np.float32), []) if path is None else read_label_file(path, classes, columns)


def _lines(path: Path) -> Iterator[tuple[int, Fields]]:
    """The number and the words of each line that has any.

    Raises:
        UserError: the file cannot be read.
    """
    # Not splitlines(): it also splits at form feeds and the like, and lines would be counted unlike in an editor.
    text = read_bytes(path, MOST_LABELS).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if fields := line.split():
            yield number, fields


def read_label_file(path: Path, classes: int, columns: Columns | None) -> tuple[np.ndarray, list[Problem]]:
    """The labels in one file; arguments and what comes out as of `read_labels`."""
    rows: dict[tuple[float, ...], None] = {}
    problems: list[Problem] = []
    try:
        lines = list(_lines(path))
    except UserError as error:
        return np.zeros((0, 5), np.float32), [Problem(ERROR, "labels cannot be read", path, None, error.problem)]
    columns = columns or columns_of(_long(fields for _, fields in lines))
    for number, fields in lines:
        row, found = _parse(fields, classes, columns)
        problems += [Problem(severity, kind, path, number, detail, todo) for severity, kind, detail, todo in found]
        if row is None:
            continue
        key = tuple(round(value, 6) for value in row)
        if key in rows:
            twice = "the same box twice; one is dropped"
            problems.append(Problem(WARNING, twice, path, number, " ".join(fields)[:60]))
        rows[key] = None
    return np.array(list(rows), np.float32).reshape(-1, 5), problems


def _long(lines: Iterable[Fields]) -> list[list[float]]:
    """Those of more than five words that are numbers."""
    found = (_numbers(fields) for fields in lines if len(fields) > 5)
    return [values for values in found if values and all(map(math.isfinite, values))]


def _numbers(fields: Fields) -> list[float] | None:
    try:
        return [_number(text) for text in fields]
    except ValueError:
        return None


def _number(text: str) -> float:
    if "_" in text:  # Python reads 1_0 as 10
        raise ValueError
    return float(text)


def split_columns(
    labels: Sequence[Path], keypoints: tuple[int, int] | None = None
) -> tuple[Columns | None, list[Problem]]:
    """What the columns of a split's label files are, and an error where all together are no boxes.

    Args:
        labels: the files.
        keypoints: see `data.columns.columns_of`.
    """
    long: list[list[float]] = []
    boxes: list[list[float]] = []
    first = None
    for path in spread(labels):
        try:
            lines = [fields for _, fields in _lines(path)]
        except UserError:
            continue  # named where it is read
        long += _long(lines)
        short = [values for fields in lines if len(fields) == 5 and (values := _numbers(fields))]
        boxes += [values[1:] for values in short if all(0 <= value <= 1 + TOLERANCE for value in values[1:])]
        first = first or (path if boxes else None)
    columns = columns_of(long, keypoints) if long or keypoints else None
    return columns, not_centres(np.array(boxes), first) if first else []


_Found = list[tuple[str, str, str, str]]


def _parse(fields: Fields, classes: int, columns: Columns) -> tuple[tuple[float, ...] | None, _Found]:
    """One line: its row class, cx, cy, w, h, or None if unusable; and (severity, kind, detail, todo) of each fault."""
    found: _Found = []
    polygon = len(fields) > 5
    if polygon and columns.kind == UNKNOWN and len(fields) == columns.length:
        return None, [(ERROR, FIVE, f"{len(fields)} given: {columns.why}", columns.todo)]
    if len(fields) < 5 or (polygon and columns.kind != KEYPOINTS and len(fields) % 2 == 0):
        return None, [(ERROR, FIVE, f"{len(fields)} given", "")]
    if polygon and columns.kind == KEYPOINTS:
        if len(fields) != columns.length:
            detail = f"{len(fields)} given, with keypoints {columns.length}"
            return None, [(ERROR, FIVE, detail, "")]
        found.append((WARNING, "keypoints left out; the box before them is taken", "", ""))
        polygon = False
    values = _numbers(fields)
    if values is None:
        wrong = next(text for text in fields if _numbers([text]) is None)
        return None, [(ERROR, "not a number", repr(wrong[:40]), "")]
    if not all(map(math.isfinite, values)):
        return None, [(ERROR, "not a finite number", " ".join(fields)[:60], "")]
    number = values[0]
    if number != int(number) or not 0 <= number < classes:
        allowed = f"0 to {classes - 1}" if classes > 1 else "only 0"
        return None, [(ERROR, "class out of range", f"class {fields[0][:40]}; {allowed} allowed", "")]
    if polygon:
        found.append((WARNING, "polygon turned into the box around it", f"{len(fields) // 2} points", ""))
        xs, ys = values[1::2], values[2::2]
        if min(*xs, *ys) < -TOLERANCE or max(*xs, *ys) > 1 + TOLERANCE:
            return None, [*found, (ERROR, "coordinates outside 0..1", " ".join(fields[1:])[:60], "")]
        corners = min(xs), min(ys), max(xs), max(ys)
    else:
        cx, cy, w, h = values[1:5]
        if w < 0 or h < 0:
            return None, [(ERROR, "negative size", f"w {fields[3]}, h {fields[4]}", "")]
        if min(cx, cy) < -TOLERANCE or max(cx, cy, w, h) > 1 + TOLERANCE:
            return None, [(ERROR, "coordinates outside 0..1", " ".join(fields[1:])[:60], "")]
        corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    return _row(fields, values, corners, polygon, found)


def _row(
    fields: Fields, values: list[float], corners: tuple[float, float, float, float], polygon: bool, found: _Found
) -> tuple[tuple[float, ...] | None, _Found]:
    """The row of a line that is a box, cut at the picture's edge."""
    x1, y1, x2, y2 = corners
    over = max(-x1, -y1, x2 - 1, y2 - 1)
    if over > 0:
        if over > ROUNDING:
            kind = "box reaches outside the picture; cut at its edge"
            found.append((WARNING, kind, f"by {over:.4g} of the picture", ""))
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in corners)
    if over > 0 or polygon:
        values[1:5] = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    if min(values[3], values[4]) < SMALLEST:
        return None, [*found, (WARNING, "box of zero size; dropped", " ".join(fields[1:])[:60], "")]
    return tuple(values[:5]), found
