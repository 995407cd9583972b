"""Label files: read, checked, and every wrong line named with file and line.

A label file has one line an object: class, cx, cy, w, h, all but the class as shares of the picture. What a line with
more numbers is, all lines of a split tell together (`data.columns`): a polygon becomes the box around it, keypoints
after a box are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.reading import read_bytes
from data.centres import Five, not_centres
from data.columns import KEYPOINTS, UNKNOWN, Lengths, columns_of, spread
from data.dialects import LARGE, Dialect, Make, Wrong, as_number, make_of, recognised, shown
from data.label_files import MOST_LABELS, ROUNDING, SMALLEST, cut_at_the_edge
from data.problems import ERROR, WARNING, Problem
from data.spec import find_label

TOLERANCE = 0.01
"""How far past 0..1 a number may lie and still count as rounding (one pixel in a hundred)."""
OUTLINE = 0.1
"""The same of an outline: turned boxes leave the picture with a corner, and what is cut off is told."""

FIVE = "needs 5 numbers: class cx cy w h"
OUT_OF_RANGE = "class out of range"
FROM_ONE = "class numbers begin at 0: subtract 1 from each, awk '{$1 = $1 - 1; print}' OLD > NEW"
Fields = list[str]
_Fault = tuple[str, str, str, str]
"""Severity, kind, detail, todo."""
_Found = list[_Fault]


@dataclass(frozen=True)
class Reading:
    """How the lines of a split are read: what all of them together tell.

    Attributes:
        columns: what lines with more than five numbers are.
        dialects: what lines are that cannot be read, by their make.
        ones: the class numbers begin at 1 and not at 0.
    """

    columns: Lengths = field(default_factory=Lengths)
    dialects: Mapping[Make, Dialect] = field(default_factory=dict)
    ones: bool = False


def read_labels(picture: str | Path, names: Sequence[str]) -> tuple[np.ndarray, list[Problem]]:
    """The labels of one picture, as its own lines tell them.

    Args:
        picture: the picture's path; the label file is found from it (`data.spec.find_label`).
        names: the classes; a class number beyond them is a problem.

    Returns:
        ``(n, 5)`` float32: class, cx, cy, w, h as shares of the picture, the good lines only; and what was wrong.
        No label file means no objects.
    """
    path = find_label(picture)
    if path is None:
        return np.zeros((0, 5), np.float32), []
    return read_label_file(path, len(names), how_to_read([path], names)[0])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number and the text of each line that has any.

    Raises:
        UserError: the file cannot be read.
    """
    # Not splitlines(): it also splits at form feeds and the like, and lines would be counted unlike in an editor.
    text = read_bytes(path, MOST_LABELS).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line := line.strip():
            yield number, line


def read_label_file(path: Path, classes: int, reading: Reading) -> tuple[np.ndarray, list[Problem]]:
    """The labels in one file; what comes out is as of `read_labels`.

    Args:
        classes: number of classes; a class outside 0..classes-1 is a problem.
        reading: how the lines are to be read.
    """
    rows: dict[tuple[float, ...], None] = {}
    problems: list[Problem] = []
    try:
        lines = list(_lines(path))
    except UserError as error:
        return np.zeros((0, 5), np.float32), [
            Problem(ERROR, "labels cannot be read", path, error.line, error.problem, error.todo)
        ]
    for number, text in lines:
        fields = text.split()
        row, found = _parse(fields, classes, reading.columns)
        if any(each[0] == ERROR for each in found):
            found = [_explained(text, each, reading) for each in found]
        problems += [Problem(severity, kind, path, number, detail, todo) for severity, kind, detail, todo in found]
        if row is None:
            continue
        key = tuple(round(value, 6) for value in row)
        if key in rows:
            twice = "the same box twice; one is dropped"
            problems.append(Problem(WARNING, twice, path, number, " ".join(fields)[:60]))
        rows[key] = None
    return np.array(list(rows), np.float32).reshape(-1, 5), problems


def _explained(text: str, found: _Fault, reading: Reading) -> _Fault:
    """A fault of a line, in the words of what all such lines are, where that is known; the line's beginning with it."""
    severity, kind, detail, todo = found
    if severity != ERROR:
        return found
    if dialect := reading.dialects.get(make_of(text)):
        return severity, dialect.kind, shown(text), dialect.todo
    detail = f"{detail}: {shown(text)}"
    if kind == OUT_OF_RANGE and reading.ones:
        return severity, kind, f"{detail}; all class numbers are 1 or more", FROM_ONE
    return severity, kind, detail, todo


def _long(lines: Iterable[Fields]) -> list[list[float]]:
    """Those of more than five words that are numbers, of a size that can be reckoned with."""
    found = (_numbers(fields) for fields in lines if len(fields) > 5)
    return [values for values in found if values and all(abs(value) < LARGE for value in values)]


def _numbers(fields: Fields) -> list[float] | None:
    try:
        return [as_number(text) for text in fields]
    except ValueError:
        return None


def how_to_read(
    labels: Sequence[Path],
    names: Sequence[str],
    keypoints: tuple[int, int] | None = None,
    sizes: Mapping[Path, tuple[float, float]] | None = None,
) -> tuple[Reading, list[Problem]]:
    """How the label files of a split are read, and an error where all together are no boxes.

    Args:
        labels: the files.
        names: the classes.
        keypoints: see `data.columns.columns_of`.
        sizes: label file -> (width, height) of its picture, where it is known.
    """
    lines: list[tuple[Path, int, str]] = []
    for path in spread(labels):
        try:
            lines += [(path, *line) for line in _lines(path)]
        except UserError:
            continue  # named where it is read
    long = _long(text.split() for _, _, text in lines)
    columns = columns_of(long, keypoints) if long or keypoints else Lengths()
    wrong: list[Wrong] = []
    boxes: list[Five] = []
    numbers: set[float] = set()
    for path, number, text in lines:
        fields = text.split()
        row, found = _parse(fields, len(names), columns)
        faults = {kind for severity, kind, _, _ in found if severity == ERROR}
        values = _numbers(fields[:5]) if len(fields) >= 5 else None
        if values is not None and (not faults or faults == {OUT_OF_RANGE}):
            numbers.add(values[0])
        if faults and not (keypoints and len(fields) > 5 and _numbers(fields)):  # what those are, is said
            wrong.append(Wrong(path, text, (sizes or {}).get(path, (math.nan, math.nan))))
        if (
            len(fields) == 5
            and values
            and values[0].is_integer()
            and all(0 <= value <= 1 + TOLERANCE for value in values[1:])
        ):
            boxes.append(Five(path, number, text, tuple(values[1:])))
    ones = bool(numbers) and min(numbers) == 1 and max(numbers) == len(names) and all(map(float.is_integer, numbers))
    return Reading(columns, recognised(wrong, names, len(lines)), ones), not_centres(boxes)


def _parse(fields: Fields, classes: int, lengths: Lengths) -> tuple[tuple[float, ...] | None, _Found]:
    """One line: its row class, cx, cy, w, h, or None if unusable; and (severity, kind, detail, todo) of each fault."""
    found: _Found = []
    polygon = len(fields) > 5
    columns = lengths.of(len(fields))
    if polygon and columns.kind == UNKNOWN:
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
        return None, [(ERROR, "not a number", repr(wrong[:20]), "")]
    if not all(map(math.isfinite, values)):
        return None, [(ERROR, "not a finite number", "nan or inf", "")]
    number = values[0]
    if number != int(number) or not 0 <= number < classes:
        allowed = f"0 to {classes - 1}" if classes > 1 else "only 0"
        return None, [(ERROR, OUT_OF_RANGE, f"class {fields[0][:40]}; {allowed} allowed", "")]
    if polygon:
        xs, ys = values[1::2], values[2::2]
        if min(*xs, *ys) < -OUTLINE or max(*xs, *ys) > 1 + OUTLINE:
            return None, [(ERROR, "coordinates outside 0..1", "an outline", "")]
        found.append((WARNING, "polygon turned into the box around it", f"{len(fields) // 2} points", ""))
        corners = min(xs), min(ys), max(xs), max(ys)
    else:
        cx, cy, w, h = values[1:5]
        if w < 0 or h < 0:
            return None, [(ERROR, "negative size", f"w {fields[3]}, h {fields[4]}", "")]
        if min(cx, cy) < -TOLERANCE or max(cx, cy, w, h) > 1 + TOLERANCE:
            return None, [(ERROR, "coordinates outside 0..1", "a box", "")]
        corners = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    return _row(fields, values, corners, polygon, found)


def _row(
    fields: Fields, values: list[float], corners: tuple[float, float, float, float], polygon: bool, found: _Found
) -> tuple[tuple[float, ...] | None, _Found]:
    """The row of a line that is a box, cut at the picture's edge."""
    x1, y1, x2, y2 = corners
    over = max(-x1, -y1, x2 - 1, y2 - 1)
    if over > ROUNDING:
        kind = "box reaches outside the picture; cut at its edge"
        found.append((WARNING, kind, f"by {over:.4g} of the picture", ""))
    if over > 0 or polygon:
        values[1:5] = cut_at_the_edge(corners)
    if min(values[3], values[4]) < SMALLEST:
        return None, [*found, (WARNING, "box of zero size; dropped", " ".join(fields[1:])[:60], "")]
    return tuple(values[:5]), found
