"""What is wrong in a data set: one record a fault, and the words for it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.log import say_once
from data.spec import DataSpec

SHOWN = 5
"""How many examples of a kind of problem a message names."""

ERROR, LEFT_OUT, WARNING = "error", "left out", "warning"


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set.

    Attributes:
        severity: "error" (training refuses to start), "left out" (the picture does not take part) or "warning".
        kind: the short phrase under which problems are counted.
        file: the label file or picture.
        line: 1-based line, or None where the whole file is meant.
        detail: the offending value.
        todo: what to do about it, where it is not to correct a line.
    """

    severity: str
    kind: str
    file: Path
    line: int | None = None
    detail: str = ""
    todo: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else str(self.file)
        return f"{place}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


def announce(spec: DataSpec, problems: Sequence[Problem]) -> None:
    """Log what is to be known and stop where training on it would be wrong.

    Raises:
        UserError: there is at least one error; the message counts them by kind and names the first.
    """
    warnings = [problem for problem in problems if problem.severity == WARNING]
    left_out = [problem for problem in problems if problem.severity == LEFT_OUT]
    errors = [problem for problem in problems if problem.severity == ERROR]
    if warnings:
        say_once(logging.WARNING, "%s: %s", spec.source, summary(warnings))
    if left_out:
        say_once(logging.ERROR, "%s: %s", spec.source, summary(left_out))
    if not errors:
        return
    first = errors[0]
    if len(errors) == 1:
        raise UserError(
            first.kind + (f" ({first.detail})" if first.detail else ""),
            where=first.file,
            line=first.line,
            todo=remedy(first),
        )
    raise UserError(f"the data set has errors: {summary(errors)}", where=spec.source)  # what to do stands in it


REMEDIES = {
    "class out of range": (
        "correct the class numbers (they begin at 0), or name more classes: in `names` (and `nc`) of the yaml; of a "
        ".data file in its names file (and `classes =`)"
    ),
    "coordinates": (
        "numbers are shares of the picture, 0 to 1: divide pixels by its width and height, cut what reaches out a "
        "little"
    ),
    "polygon": "nothing, if the labels are outlines: the box around each is trained on",
    "keypoints": "nothing, if only boxes are to be detected",
    "box reaches outside": "nothing, if it is little; else look whether the labels belong to these pictures",
    "box of zero size": "delete the lines named, or draw the objects again",
    "the same box twice": "delete one of the two lines",
    "labels without a picture": "delete the files, or look where their pictures are",
    "no label file": "nothing, if these pictures show no object; else look where their labels are",
    "picture left out": "replace the files named, or remove them",
    "labels cannot be read": "make the file readable, or replace it",
    "needs 5 numbers": "write one object a line, class cx cy w h, or delete the line",
    "the annotation's size": "nothing, if pictures were shrunk later; else look whether they belong together",
    "annotation without picture": "nothing, if they are not needed; else give --images the folder that has them",
    "annotated picture is not there": "give --images the folder that has them",
    "picture without": "nothing, if they are not needed; one that shows no object needs an empty annotation",
    "class not among the names": "add it to --names, if it is wanted",
    "crowd": "give --keep-crowd, if such boxes are wanted",
    "in no split's list": "add it to train.txt, val.txt or test.txt, if it is wanted",
    "picture in two splits": "keep each picture in one list",
    "not valid XML": "export the file again, or delete it",
    "annotation without bbox; the box": "nothing, if the outlines are right",
    "annotation without bbox, whose": "export the annotations with boxes (bbox), or with polygons in place of masks",
    "annotation of an unknown category": "write in `category_id` the `id` that its category has in `categories`",
    "annotation of an unknown image": "write in `image_id` the `id` that its image has in `images`",
    "annotation whose bbox": "write bbox as a list: [x, y, width, height] in pixels",
    "object with ": "nothing, if upright boxes are wanted: they are what is trained on",
    "annotation": "mend the annotation named, or annotate the object again",
    "object": "mend the annotation named, or annotate the object again",
    "box": "mend the annotation named, or draw the object again",
    "image without": "mend the entry named, or leave it out",
    "hand without": "mend the annotation named, or leave it out",
}
"""What to do about a kind of problem, by the words it begins with."""


def remedy(problem: Problem) -> str:
    """What to do about it."""
    known = (todo for kind, todo in REMEDIES.items() if problem.kind.startswith(kind))
    return problem.todo or next(known, "correct or delete the lines named")


def summary(problems: Iterable[Problem]) -> str:
    """Counts by kind, each with the first few places: several lines."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    counts = Counter({kind: len(found) for kind, found in by_kind.items()})
    lines = [", ".join(f"{count} x {kind}" for kind, count in counts.most_common())]
    for kind, _ in counts.most_common():
        lines += [f"    {problem}" for problem in by_kind[kind][:SHOWN]]
        if counts[kind] > SHOWN:
            lines.append(f"    ... and {counts[kind] - SHOWN} more: {kind}")
        lines.append(f"    -> {remedy(by_kind[kind][0])}")
    return "\n".join(lines)
