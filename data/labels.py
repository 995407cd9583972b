"""A data set's labels: every split read as a training reads it, and what training would be misled by."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.log import say_once
from common.memory import collector_paused
from common.reading import read_bytes
from data.columns import spread
from data.facts import Facts
from data.findings import (
    across_splits,
    all_alike,
    below_a_pixel,
    contradiction,
    copies_within,
    crowded,
    crushed,
    leaks,
    of_several_frames,
    unread,
    without_range,
    wrong_range,
)
from data.label_files import MOST_LABELS, ROUNDING, find_labels, read_label_files
from data.label_lines import Reading, how_to_read, read_label_file, read_labels
from data.near_names import Pair, nearly_named, what_to_do
from data.pairing import (
    labels_elsewhere,
    labels_twice,
    labels_without_picture,
    looked_for,
    shared_labels,
    without_labels,
)
from data.pictures import LFS, picture_facts
from data.problems import ERROR, LEFT_OUT, WARNING, Problem, announce, remedy
from data.remembered import stamps_of
from data.spec import SPLITS, DataSpec, load_spec

__all__ = ["ROUNDING", "CheckReport", "Scan", "check", "read_labels", "scan"]


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
        facts: depth and values of the pictures, where they were looked at.
        unusable: how many of the pictures have a label file with lines, none of which is a box.
    """

    split: str
    pictures: list[Path]
    shapes: np.ndarray
    labels: list[np.ndarray]
    problems: list[Problem]
    absent: list[Path] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    unusable: int = 0

    def digest(self) -> str:
        """What two splits share only if their pictures have the same sizes and the same boxes, in the same order."""
        parts = [np.asarray(self.shapes, np.int64), *(np.asarray(boxes, np.float64) for boxes in self.labels)]
        found = hashlib.sha256()
        for part in parts:
            found.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
        return found.hexdigest()

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
        absent, unusable = len(self.absent), self.unusable
        text += f"; background: {absent} without a label file, {self.background - absent - unusable} with an empty one"
        return text + (f", {unusable} without a line that is a box" if unusable else "")

    def per_class(self, classes: int) -> np.ndarray:
        """(classes,) boxes of each class."""
        numbers = np.concatenate([labels[:, 0] for labels in self.labels]) if self.labels else np.zeros(0)
        return np.bincount(numbers.astype(int), minlength=classes)


def scan(spec: DataSpec, split: str, stamps: dict[str, np.ndarray] | None = None) -> Scan:
    """Read all labels of a split and the size of every picture, and look for what training would be misled by.

    Args:
        stamps: split -> those of its listed pictures (`data.remembered`); what is lacking is filled in.

    Raises:
        UserError: the split has no pictures at all; everything else is in the result's `problems`.
    """
    listed = spec.require(split)
    stamps = {} if stamps is None else stamps
    for each in (split, "train"):
        if each not in stamps:
            stamps[each] = stamps_of(spec.distinct.get(each, ()))
    result = Scan(split, [], np.zeros((0, 2), int), [], [])
    usable = _find_pictures(result, spec, spec.distinct.get(split, listed), stamps[split])
    files = find_labels(result.pictures)
    reading = _readings(spec, result, files)
    classes = len(spec.label_names)
    plain = read_label_files(files, classes).boxes
    unread_labels: set[str] = set()
    for picture, path, boxes in zip(result.pictures, files, plain, strict=True):
        if path is None:
            result.absent.append(picture)
            labels = np.zeros((0, 5), np.float32)
        elif boxes is not None:
            labels = boxes
        else:
            labels, problems = read_label_file(Path(path), classes, reading(picture))
            result.problems += problems
            result.unusable += not len(labels) and bool(problems)
            if any(problem.severity == ERROR for problem in problems):
                unread_labels.add(path)
        spec.renumber(labels)
        result.labels.append(labels)
    near = nearly_named(result.absent)
    result.problems += _emptiness(spec, result, near) or without_labels(
        spec, split, result.pictures, result.absent, near
    )
    result.problems += shared_labels(result.pictures, files)
    result.problems += labels_twice(result.pictures, files, partial(_files_contradict, spec, reading))
    known, contradict = stamps[split][usable], partial(_contradict, spec)
    read = np.array([file not in unread_labels for file in files], bool)
    pictures = result.pictures if read.all() else [result.pictures[place] for place in np.flatnonzero(read)]
    result.problems += copies_within(split, pictures, contradict, known[read])
    result.problems += labels_without_picture(spec, split, near)
    result.problems += unread(spec.folders.get(split, ()))
    result.problems += of_several_frames(result.pictures, result.facts)
    result.problems += crushed(spec, result.pictures, result.facts)
    result.problems += wrong_range(spec.pixel_range, result.pictures, result.facts)
    result.problems += below_a_pixel(result.pictures, result.shapes, result.labels)
    result.problems += all_alike(result.pictures, result.labels)
    if split != "train":
        result.problems += crowded(spec, result.pictures, result.labels)
        trained, both = spec.distinct.get("train", ()), (known, stamps["train"])
        result.problems += leaks(trained, "train", result.pictures, split, contradict, both)
    return _as_listed(result, listed, spec)


def _find_pictures(result: Scan, spec: DataSpec, listed: Sequence[Path], stamps: np.ndarray) -> np.ndarray:
    """Fill in which pictures can be used, and what they are; ``(n,)`` bool, whether each of the listed can."""
    usable = np.ones(len(listed), bool)
    for place, (picture, facts) in enumerate(zip(listed, picture_facts(listed, stamps), strict=True)):
        if isinstance(facts, str):
            usable[place] = False
            todo = "fetch the files: git lfs pull" if facts == LFS else ""
            result.problems.append(Problem(LEFT_OUT, "picture left out", picture, None, facts, todo))
        elif rangeless := without_range(spec, picture, facts):
            usable[place] = False
            result.problems.append(rangeless)
        else:
            result.pictures.append(picture)
            result.facts.append(facts)
    result.shapes = np.array([facts.shape for facts in result.facts], int).reshape(-1, 2)
    return usable


def _as_listed(found: Scan, listed: Sequence[Path], spec: DataSpec) -> Scan:
    """The split with each picture as often as it is listed, where some are more than once; and what is said of that."""
    if said := spec.again.get(found.split):
        kind = f"lines of the lists of '{found.split}' name pictures again; "
        train = found.split == "train"
        kind += "each is trained on as often as it is named" if train else "each picture counts once"
        todo = (
            f"nothing, if these are meant to count more{'' if train else ' in train'}; else delete the lines: sort -u"
        )
        found.problems.append(Problem(WARNING, kind, said[1], None, f"the first of {said[0]}", todo))
    if spec.distinct.get(found.split) is listed:
        return found
    place = {picture: number for number, picture in enumerate(found.pictures)}
    order = [place[picture] for picture in listed if picture in place]
    lacking = set(found.absent)
    pictures = [found.pictures[number] for number in order]
    return replace(
        found,
        pictures=pictures,
        shapes=found.shapes[order],
        labels=[found.labels[number] for number in order],
        facts=[found.facts[number] for number in order],
        absent=[picture for picture in pictures if picture in lacking],
    )


def _contradict(spec: DataSpec, first: Path, second: Path) -> str:
    """How the labels of two pictures differ; see `data.findings.Contradict`."""
    return _differ(spec, [read_labels(picture, spec.label_names)[0] for picture in (first, second)])


def _files_contradict(
    spec: DataSpec, reading_of: Callable[[Path], Reading], picture: Path, read: Path, other: Path
) -> str:
    """The same of two label files of a picture, of which the second is read as the first."""
    with contextlib.suppress(UserError):
        if read_bytes(read, MOST_LABELS) == read_bytes(other, MOST_LABELS):
            return ""
    classes, reading = len(spec.label_names), reading_of(picture)
    (first, _), (second, wrong) = (read_label_file(path, classes, reading) for path in (read, other))
    if not len(second) and any(problem.severity == ERROR for problem in wrong):
        return "there are no boxes as they are written here"
    return _differ(spec, [first, second])


def _differ(spec: DataSpec, labels: Sequence[np.ndarray]) -> str:
    for rows in labels:
        spec.renumber(rows)
    return contradiction(*labels)


def _readings(spec: DataSpec, result: Scan, files: Sequence[str | None]) -> Callable[[Path], Reading]:
    """How the label file of a picture is read. What came from one source was written by one program: it is looked at
    together."""
    folders = spec.folders.get(result.split, ())

    @cache
    def source(folder: str) -> Path | None:
        return next((each for each in folders if Path(folder).is_relative_to(each)), None)

    together: dict[Path | None, dict[str, int]] = {}  # label file -> the place of its picture
    for place, (picture, path) in enumerate(zip(result.pictures, files, strict=True)):
        if path is not None:
            together.setdefault(source(str(picture).rpartition(os.sep)[0]), {})[path] = place
    readings = {}
    for folder, places in together.items():
        sides = {}
        for path in spread(list(places)):
            height, width = result.shapes[places[path]].tolist()
            sides[Path(path)] = width, height
        readings[folder], wrong = how_to_read(list(sides), spec.label_names, spec.keypoints, sides)
        result.problems += wrong
    return lambda picture: readings[source(str(picture).rpartition(os.sep)[0])]


def _emptiness(spec: DataSpec, result: Scan, near: Sequence[Pair]) -> list[Problem]:
    todo = "labels/NAME.txt belongs to images/NAME.jpg; correct the paths or add the files"
    if not result.pictures:
        kind = f"none of the pictures of '{result.split}' can be read"
        first = next((problem for problem in result.problems if problem.severity == LEFT_OUT), None)
        why = remedy(first) if first else todo
        return [Problem(ERROR, kind, spec.source, None, str(first or ""), why)]
    if result.boxes or any(problem.severity == ERROR for problem in result.problems):
        return []
    detail = f"{len(result.absent)} of {len(result.pictures)} have no label file"
    detail += f"; labels are looked for like {looked_for((result.absent or result.pictures)[0])}"
    todo = labels_elsewhere(spec, result.absent) or what_to_do(near) or todo
    return [Problem(ERROR, f"no picture of '{result.split}' has a box", spec.source, None, detail, todo)]


@dataclass
class CheckReport:
    """All splits of a data set, read and checked.

    Attributes:
        spec: the data set.
        scans: split -> what was read.
        problems: those of all splits.
        notes: what a training goes on without a word about, and the owner of the data set wants to know.
    """

    spec: DataSpec
    scans: dict[str, Scan] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity != ERROR]

    def announce(self) -> None:
        """Log counts and warnings; raise `UserError` where there are errors."""
        for name, found in self.scans.items():
            say_once(logging.INFO, "%s: %s", name, found.counts)
        announce(self.spec, self.problems)

    def refuse(self) -> None:
        """Raise `UserError` where there are errors."""
        announce(self.spec, self.errors)


def check(spec: DataSpec | str | Path, splits: Sequence[str] | None = None) -> CheckReport:
    """Read and check splits; nothing is logged or raised until `announce`. (A `Dataset` does so for its own split.)

    Args:
        splits: those to check; by default all the data set has, and that it has those a training needs.

    Raises:
        UserError: the data set's file itself is wrong, or a split asked for has no pictures.
    """
    spec = load_spec(spec)
    report = CheckReport(spec)
    stamps: dict[str, np.ndarray] = {}
    with collector_paused():  # it would walk through the facts of all pictures again and again
        for split in splits or list(spec.splits):
            report.scans[split] = scan(spec, split, stamps)
    every = [problem for found in report.scans.values() for problem in found.problems]
    # Splits that share a folder name the same files.
    report.problems = list(dict.fromkeys(every if splits else [*_absent_splits(spec), *every]))
    if not splits:
        pictures = {split: found.pictures for split, found in report.scans.items()}
        counts = {split: found.per_class(spec.classes) for split, found in report.scans.items()}
        report.notes = across_splits(spec, pictures, {} if report.errors else counts, partial(_contradict, spec))
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
