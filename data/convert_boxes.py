"""Annotated objects become boxes of their picture: what is none is named, what cannot be meant stops the conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.convert_form import Annotations, wrong_form
from data.label_files import ROUNDING
from data.pictures import ANY_RANGE, MOST_PIXELS, picture_shapes
from data.problems import LEFT_OUT, WARNING, Problem, summary
from data.templates import TOP_LEFT
from data.yolo_text import Box

AS_WRITTEN = "--as-written"
"""The option that takes numbers for what their format says."""
LARGE = 1e9
"""No number of a box, in whatever unit, is as large as this."""
FEWEST = 10
"""Of fewer objects than this, some may be left out however many these are of all."""


@dataclass(frozen=True)
class Corners:
    """One object as annotated.

    Attributes:
        name: its class.
        left, top, right, bottom: in pixels of the picture.
        line: where in the annotation file, if the format has lines.
        what: what the object is called in a message where it has no line: "annotation 17".
        form: what its numbers are meant to be, a key of `data.convert_form.FORMATS`; "": known, and not looked at.
    """

    name: str
    left: float
    top: float
    right: float
    bottom: float
    line: int | None = None
    what: str = ""
    form: str = ""

    @property
    def sides(self) -> tuple[float, float, float, float]:
        return self.left, self.top, self.right, self.bottom


@dataclass
class Annotated:
    """A picture and its objects.

    Attributes:
        picture: the file.
        split: "train", "val" or "test".
        annotation: the file its objects come from.
        objects: in the order of that file.
        size: (height, width) the annotation gives, or None.
        lost: objects of it that were not understood, and named.
    """

    picture: Path
    split: str
    annotation: Path
    objects: list[Corners] = field(default_factory=list)
    size: tuple[int, int] | None = None
    lost: int = 0


Kept = tuple[Annotated, list[Box], tuple[int, int]]
"""A picture, its boxes in pixels, and the (height, width) they are relative to."""


def with_boxes(
    items: Sequence[Annotated], names: Sequence[str], found: list[Problem], as_written: bool = False
) -> list[Kept]:
    """Each readable picture with its good boxes.

    Args:
        as_written: the numbers are what their format says, though they look otherwise.

    Raises:
        UserError: the numbers of the boxes are not what their format says.
    """
    readable: list[tuple[Annotated, tuple[int, int]]] = []
    shapes = picture_shapes([item.picture for item in items], ANY_RANGE)
    for item, shape in zip(items, shapes):
        if isinstance(shape, str):
            found.append(Problem(LEFT_OUT, "picture left out", item.picture, None, shape))
            continue
        size = item.size if item.size and min(item.size) > 0 and max(item.size) <= MOST_PIXELS else shape
        if size != shape:
            detail = f"{size[1]} x {size[0]}, but {item.picture} has {shape[1]} x {shape[0]}"
            found.append(Problem(WARNING, "the annotation's size is not the picture's", item.annotation, None, detail))
        readable.append((item, size))
    if not as_written:
        _refuse_other_forms(readable)
    numbers = {name: number for number, name in enumerate(names)}
    kept: list[Kept] = []
    for item, size in readable:
        boxes = []
        for thing in item.objects:
            if thing.name in numbers and (box := _box(thing, numbers[thing.name], size, item.annotation, found)):
                boxes.append(box)
        kept.append((item, boxes, size))
    return kept


def refuse_the_remains(kept: Sequence[Kept], names: Sequence[str], found: Sequence[Problem]) -> None:
    """Stop where no object, or only a small part of them, has become a box.

    Args:
        kept: the pictures with their boxes.
        names: the classes; objects of others were to be left out.
        found: what was wrong with what was left out.

    Raises:
        UserError: so it is.
    """
    boxes = sum(len(each) for _, each, _ in kept)
    wanted = set(names)
    every = sum(item.lost + sum(thing.name in wanted for thing in item.objects) for item, _, _ in kept)
    if boxes and (every < FEWEST or 2 * boxes >= every):
        return
    what = f"{boxes if boxes else 'none'} of {every} annotated objects became a box" if every else "there is no object"
    todo = "mend the annotations, or export them again: what is left is not what was annotated"
    if boxes:
        todo += f"; if it is what you want: {AS_WRITTEN}"
    elif not every:
        todo = "a data set needs objects: are those of other classes meant (--names), or crowds (--keep-crowd)?"
    raise UserError(what + (f":\n{summary(found)}" if found else ""), todo=todo)


def _refuse_other_forms(readable: Sequence[tuple[Annotated, tuple[int, int]]]) -> None:
    """Look at the boxes of each annotation file (where each picture has its own, of each folder of them) together.

    Raises:
        UserError: they are not what their format says.
    """
    owners: dict[Path, int] = {}
    for item, _ in readable:
        owners[item.annotation] = owners.get(item.annotation, 0) + 1
    groups: dict[tuple[Path, str], list[tuple[int, Corners]]] = {}
    for place, (item, _) in enumerate(readable):
        source = item.annotation if owners[item.annotation] > 1 else item.annotation.parent
        for thing in item.objects:
            if thing.form and all(abs(side) < LARGE for side in thing.sides):
                groups.setdefault((source, thing.form), []).append((place, thing))
    for (_, form), members in groups.items():
        places = np.array([place for place, _ in members])
        numbers = np.array([thing.sides for _, thing in members])
        if form == TOP_LEFT:
            numbers[:, 2:] -= numbers[:, :2]
        sizes = np.array([readable[place][1][::-1] for place in places], float)
        if wrong := wrong_form(Annotations(form, numbers, sizes, places)):
            place, thing = members[wrong.first]
            row = " ".join(f"{number:g}" for number in numbers[wrong.first])
            problem = f"{wrong.problem} (the first is {f'{thing.what}: ' if thing.what else ''}{row})"
            todo = f"{wrong.todo}; or, if they are right as they are: {AS_WRITTEN}"
            raise UserError(problem, where=readable[place][0].annotation, line=thing.line, todo=todo)


def _box(thing: Corners, label: int, size: tuple[int, int], file: Path, found: list[Problem]) -> Box | None:
    """The object's box cut at the picture's edge, or None where nothing is left of it."""
    height, width = size
    detail = f"{thing.what} {thing.left:g},{thing.top:g} to {thing.right:g},{thing.bottom:g}".strip()
    if not all(map(math.isfinite, thing.sides)):
        found.append(Problem(LEFT_OUT, "box that is not of finite numbers", file, thing.line, detail))
        return None
    left, right = max(thing.left, 0.0), min(thing.right, float(width))
    top, bottom = max(thing.top, 0.0), min(thing.bottom, float(height))
    if thing.right <= thing.left or thing.bottom <= thing.top:
        found.append(Problem(LEFT_OUT, "box of zero or negative size", file, thing.line, detail))
        return None
    if right <= left or bottom <= top:
        found.append(Problem(LEFT_OUT, "box outside the picture", file, thing.line, detail))
        return None
    over = max(
        (left - thing.left) / width,
        (thing.right - right) / width,
        (top - thing.top) / height,
        (thing.bottom - bottom) / height,
    )
    if over > ROUNDING:
        found.append(Problem(WARNING, "box reaches outside the picture; cut at its edge", file, thing.line, detail))
    return label, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
