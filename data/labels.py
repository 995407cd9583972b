"""Labels are read, checked, and every wrong line is named with file and line.

A label file has one line an object: class, cx, cy, w, h, all but the class as shares of the picture. A line with more
numbers (class, then x y pairs) is a polygon and becomes the box around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.log import log
from data.copies import copies
from data.pairing import labels_without_picture, looked_for, without_labels
from data.pictures import picture_shapes
from data.problems import ERROR, LEFT_OUT, WARNING, Problem, announce
from data.spec import SPLITS, DataSpec, find_label, load_spec

TOLERANCE = 0.01
"""How far past 0..1 a number may lie and still count as rounding (one pixel in a hundred)."""
ROUNDING = 1e-5
"""Edges this little outside come from six written digits; they are cut without a word."""
SMALLEST = 1e-6
"""A side below this share of the picture is no side."""


def read_labels(picture: str | Path, classes: int) -> tuple[np.ndarray, list[Problem]]:
    """The labels of one picture.

    Args:
        picture: the picture's path; the label file is found from it (`data.spec.find_label`).
        classes: number of classes; a class outside 0..classes-1 is a problem.

    Returns:
        ``(n, 5)`` float32: class, cx, cy, w, h as shares of the picture, the good lines only; and what was wrong.
        No label file means no objects.
    """
    path = find_label(picture)
    return (np.zeros((0, 5), np.float32), []) if path is None else _read_label_file(path, classes)


def _read_label_file(path: Path, classes: int) -> tuple[np.ndarray, list[Problem]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        return np.zeros((0, 5), np.float32), [Problem(ERROR, "labels cannot be read", path, None, str(error))]
    rows: dict[tuple[float, ...], None] = {}
    problems: list[Problem] = []
    # Not splitlines(): it also splits at form feeds and the like, and lines would be counted unlike in an editor.
    text = raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        row, found = _parse(fields, classes)
        for severity, kind, detail in found:
            problems.append(Problem(severity, kind, path, number, detail))
        if row is None:
            continue
        key = tuple(round(value, 6) for value in row)
        if key in rows:
            problems.append(Problem(WARNING, "the same box twice; one is dropped", path, number, line.strip()[:60]))
        rows[key] = None
    return np.array(list(rows), np.float32).reshape(-1, 5), problems


_Found = list[tuple[str, str, str]]


def _parse(fields: list[str], classes: int) -> tuple[tuple[float, ...] | None, _Found]:
    """One line: its row class, cx, cy, w, h, or None if unusable; and (severity, kind, detail) of each fault."""
    found: _Found = []
    polygon = len(fields) > 5 and len(fields) % 2 == 1
    if len(fields) != 5 and not polygon:
        return None, [(ERROR, "needs 5 numbers: class cx cy w h", f"{len(fields)} given")]
    try:
        values = [float(text) for text in fields]
    except ValueError:
        wrong = next(text for text in fields if not _is_number(text))
        return None, [(ERROR, "not a number", repr(wrong[:40]))]
    if not all(map(math.isfinite, values)):
        return None, [(ERROR, "not a finite number", " ".join(fields)[:60])]
    number = values[0]
    if number != int(number) or not 0 <= number < classes:
        allowed = f"0 to {classes - 1}" if classes > 1 else "only 0"
        return None, [(ERROR, "class out of range", f"class {fields[0]}; {allowed} allowed")]
    if polygon:
        found.append((WARNING, "polygon turned into the box around it", f"{len(fields) // 2} points"))
        xs, ys = values[1::2], values[2::2]
        if min(*xs, *ys) < -TOLERANCE or max(*xs, *ys) > 1 + TOLERANCE:
            return None, [*found, (ERROR, "coordinates outside 0..1", " ".join(fields[1:])[:60])]
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    else:
        cx, cy, w, h = values[1:]
        if w < 0 or h < 0:
            return None, [(ERROR, "negative size", f"w {fields[3]}, h {fields[4]}")]
        if min(cx, cy) < -TOLERANCE or max(cx, cy, w, h) > 1 + TOLERANCE:
            return None, [(ERROR, "coordinates outside 0..1", " ".join(fields[1:])[:60])]
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    over = max(-x1, -y1, x2 - 1, y2 - 1)
    if over > 0:
        if over > ROUNDING:
            found.append((WARNING, "box reaches outside the picture; cut at its edge", f"by {over:.4g} of the picture"))
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2))
        values[1:] = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    elif polygon:
        values[1:] = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    if min(values[3], values[4]) < SMALLEST:
        return None, [*found, (WARNING, "box of zero size; dropped", " ".join(fields[1:])[:60])]
    return tuple(values[:5]), found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass
class Scan:
    """One split, read and checked.

    Attributes:
        split: its name.
        pictures: those that take part: present and readable.
        shapes: ``(N, 2)`` int, their height and width in pixels as shown (EXIF orientation applied).
        labels: N arrays ``(n, 5)``: class, cx, cy, w, h as shares of the picture.
        problems: all that was wrong.
        absent: those of the pictures that have no label file.
    """

    split: str
    pictures: list[Path]
    shapes: np.ndarray
    labels: list[np.ndarray]
    problems: list[Problem]
    absent: list[Path] = field(default_factory=list)

    @property
    def boxes(self) -> int:
        return sum(map(len, self.labels))

    @property
    def background(self) -> int:
        """Pictures without a box: they train as background."""
        return sum(not len(labels) for labels in self.labels)

    @property
    def counts(self) -> str:
        """Pictures, background and boxes, for a line of the log."""
        text = f"{len(self.pictures)} pictures ({self.background} background), {self.boxes} boxes"
        if not self.background:
            return text
        absent = len(self.absent)
        return f"{text}; background: {absent} without a label file, {self.background - absent} with an empty one"

    def per_class(self, classes: int) -> np.ndarray:
        """(classes,) boxes of each class."""
        numbers = np.concatenate([labels[:, 0] for labels in self.labels]) if self.labels else np.zeros(0)
        return np.bincount(numbers.astype(int), minlength=classes)


def scan(spec: DataSpec, split: str) -> Scan:
    """Read all labels of a split and the size of every picture, and look for what training would be misled by.

    Raises:
        UserError: the split has no pictures at all; everything else is in the result's `problems`.
    """
    listed = spec.require(split)
    shapes = picture_shapes(listed)
    result = Scan(split, [], np.zeros((0, 2), int), [], [])
    kept = []
    for picture, shape in zip(listed, shapes, strict=True):
        if isinstance(shape, str):
            result.problems.append(Problem(LEFT_OUT, "picture left out", picture, None, shape))
            continue
        path = find_label(picture)
        if path is None:
            result.absent.append(picture)
            labels = np.zeros((0, 5), np.float32)
        else:
            labels, problems = _read_label_file(path, spec.label_classes)
            result.problems += problems
        if spec.single_cls:
            labels[:, 0] = 0
        result.pictures.append(picture)
        result.labels.append(labels)
        kept.append(shape)
    result.shapes = np.array(kept, int).reshape(-1, 2)
    result.problems += _emptiness(spec, result) or without_labels(spec, split, result.pictures, result.absent)
    result.problems += labels_without_picture(spec, split)
    if split != "train":
        result.problems += _leaks(spec.splits.get("train", ()), result)
    return result


def _emptiness(spec: DataSpec, result: Scan) -> list[Problem]:
    todo = "labels/NAME.txt belongs to images/NAME.jpg; correct the paths or add the files"
    if not result.pictures:
        kind = f"none of the pictures of '{result.split}' can be read"
        return [Problem(ERROR, kind, spec.source, todo=todo)]
    if result.boxes or any(problem.severity == ERROR for problem in result.problems):
        return []
    detail = f"{len(result.absent)} of {len(result.pictures)} have no label file"
    detail += f"; labels are looked for like {looked_for((result.absent or result.pictures)[0])}"
    return [Problem(ERROR, f"no picture of '{result.split}' has a box", spec.source, None, detail, todo)]


@dataclass
class CheckReport:
    """All splits of a data set, read and checked.

    Attributes:
        spec: the data set.
        scans: split -> what was read.
        problems: those of all splits.
    """

    spec: DataSpec
    scans: dict[str, Scan] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity != ERROR]

    def announce(self) -> None:
        """Log counts and warnings; raise `UserError` where there are errors."""
        for name, found in self.scans.items():
            log.info("%s: %s", name, found.counts)
        announce(self.spec, self.problems)


def check(spec: DataSpec | str | Path, splits: Sequence[str] | None = None) -> CheckReport:
    """Read and check splits; nothing is logged or raised until `announce`. (A `Dataset` does so for its own split.)

    Args:
        splits: those to check; by default all the data set has, and that it has those a training needs.

    Raises:
        UserError: the data set's file itself is wrong, or a split asked for has no pictures.
    """
    spec = load_spec(spec)
    report = CheckReport(spec)
    for split in splits or list(spec.splits):
        report.scans[split] = scan(spec, split)
    every = [problem for found in report.scans.values() for problem in found.problems]
    # Splits that share a folder name the same files.
    report.problems = list(dict.fromkeys(every if splits else [*_absent_splits(spec), *every]))
    return report


def _absent_splits(spec: DataSpec) -> list[Problem]:
    """What a training would stop for (train, val) or go on without (test)."""
    problems = []
    for split in SPLITS:
        if spec.splits.get(split) or (split == "test" and split not in spec.missing):
            continue
        try:
            spec.require(split)
        except UserError as error:
            severity = WARNING if split == "test" else ERROR
            problems.append(Problem(severity, error.problem, spec.source, error.line, "", error.todo))
    return problems


def _leaks(trained: Sequence[Path], other: Scan) -> list[Problem]:
    """Pictures of `other` that are trained on: the same files, or files with the same bytes."""
    kind = f"picture of '{other.split}' is also trained on; its score will be too good"
    return [
        Problem(WARNING, kind, picture, None, "the same file" if same == picture else f"same bytes as {same}")
        for picture, same in copies(other.pictures, trained).items()
    ]
