"""What `thinyolo check` tells of a data set: tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.facts import NOTES
from data.labels import CheckReport, Scan
from data.problems import LEFT_OUT, summary

SMALL, LARGE = 32, 96
"""COCO's bounds of small and large objects, in pixels of the picture."""


def counts_table(report: CheckReport) -> str:
    """Pictures and boxes of each split."""
    rows = [["split", "pictures", "left out", "boxes", "no label file", "empty label file", "boxes a picture"]]
    for split, found in report.scans.items():
        left_out = len({problem.file for problem in found.problems if problem.severity == LEFT_OUT})
        empty = found.background - len(found.absent) - found.unusable
        each = [len(labels) for labels in found.labels] or [0]
        spread = f"{np.mean(each):.1f} (at most {max(each)})"
        numbers = [len(found.pictures), left_out, found.boxes, len(found.absent), empty]
        rows.append([split, *(f"{number:,}" for number in numbers), spread])
    return _aligned(rows)


def classes_table(report: CheckReport) -> str:
    """Boxes of each class in each split, and in how many of its pictures they are."""
    classes, scans = report.spec.classes, report.scans
    rows = [["", "class", *(text for split in scans for text in (split, "in pictures"))]]
    boxes = {split: found.per_class(classes) for split, found in scans.items()}
    pictures = {split: pictures_per_class(found, classes) for split, found in scans.items()}
    for number, name in enumerate(report.spec.names):
        cells = [f"{counts[split][number]:,}" for split in scans for counts in (boxes, pictures)]
        rows.append([str(number), name, *cells])
    return _aligned(rows, left=(1,))


def pictures_per_class(found: Scan, classes: int) -> np.ndarray:
    """(classes,) pictures with at least one box of the class."""
    kinds = [np.unique(labels[:, 0]) for labels in found.labels]
    return np.bincount(np.concatenate(kinds).astype(int) if kinds else np.zeros(0, int), minlength=classes)


def box_sizes(found: Scan) -> np.ndarray:
    """``(n, 2)`` width and height of all boxes, in pixels of their pictures."""
    parts = [labels[:, 3:5] * shape[::-1] for labels, shape in zip(found.labels, found.shapes, strict=True)]
    return np.concatenate([np.zeros((0, 2)), *parts])


def sizes_lines(report: CheckReport) -> list[str]:
    """Sizes of pictures and boxes and the depth of the values, a sentence each."""
    lines = []
    shapes = np.concatenate([np.zeros((0, 2), int), *(found.shapes for found in report.scans.values())])
    if len(shapes):
        low, high = shapes.min(axis=0), shapes.max(axis=0)
        same = (low == high).all()
        text = f"all {low[1]} x {low[0]}" if same else f"{low[1]} x {low[0]} to {high[1]} x {high[0]}"
        lines.append(f"pictures (width x height, turned as they are shown): {text} pixels")
    sides = np.concatenate([np.zeros((0, 2)), *(box_sizes(found) for found in report.scans.values())])
    if len(sides):
        side = np.sqrt(sides.prod(axis=1))
        small, large = (side < SMALL).mean(), (side > LARGE).mean()
        width, height = np.median(sides, axis=0)
        lines.append(
            f"boxes: median {width:.0f} x {height:.0f} pixels; {small:.0%} small (below {SMALL} x {SMALL}), "
            f"{1 - small - large:.0%} medium, {large:.0%} large (above {LARGE} x {LARGE})".replace("%", " %")
        )
    facts = [fact for found in report.scans.values() for fact in found.facts]
    for bits in sorted({fact.bits for fact in facts}):
        alike = [fact for fact in facts if fact.bits == bits]
        known = [fact for fact in alike if fact.low is not None and fact.high is not None]
        text = f"{len(alike):,} pictures of {bits} bits"
        if len(known) == len(alike):
            text += f", values {min(fact.low or 0 for fact in known):g} to {max(fact.high or 0 for fact in known):g}"
        lines.append(text)
    for note, told in NOTES.items():
        if count := sum(note in fact.notes for fact in facts):
            lines.append(f"{count:,} pictures {told}")
    return lines


def check_text(report: CheckReport) -> str:
    """Everything for the terminal but what stops a training: `CheckReport.announce` raises that."""
    parts = [counts_table(report), classes_table(report), "\n".join(sizes_lines(report))]
    if report.warnings or report.notes:
        parts.append("to look at:\n" + summary([*report.warnings, *report.notes]))
    return "\n\n".join(part for part in parts if part)


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
