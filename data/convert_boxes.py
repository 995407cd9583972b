"""Annotated objects become boxes of their picture: what is none is named, what cannot be meant stops the conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.convert_form import Annotations, WrongForm, wrong_form
from data.convert_objects import AS_WRITTEN, Annotated, Corners, sources
from data.convert_sizes import UNTURN, Frame, frames_of, stored
from data.facts import Facts
from data.label_files import ROUNDING
from data.pictures import picture_facts
from data.problems import LEFT_OUT, WARNING, Problem, summary
from data.templates import TOP_LEFT
from data.yolo_text import Box

FEWEST = 10
"""Of fewer objects than this, some may be left out however many these are of all."""


Kept = tuple[Annotated, list[Box], tuple[int, int]]
"""A picture, its boxes in pixels, and the (height, width) they are relative to."""


def with_boxes(
    items: Sequence[Annotated], names: Sequence[str], found: list[Problem], as_written: bool = False
) -> list[Kept]:
    """Each readable picture with its good boxes.

    Args:
        as_written: the numbers are what their format says, though they look otherwise.

    Raises:
        UserError: the numbers of the boxes are not what their format says, or of which size nothing tells.
    """
    readable: list[tuple[Annotated, Facts]] = []
    for item, facts in zip(items, picture_facts([item.picture for item in items]), strict=True):
        if isinstance(facts, str):
            found.append(Problem(LEFT_OUT, "picture left out", item.picture, None, facts))
        else:
            readable.append((item, facts))
    frames = frames_of(readable, found, as_written)
    if not as_written:
        _refuse_other_forms(readable, frames)
    numbers = {name: number for number, name in enumerate(names)}
    kept: list[Kept] = []
    for (item, _), frame in zip(readable, frames, strict=True):
        boxes = []
        for thing in item.objects:
            if thing.name in numbers and (box := _box(thing, numbers[thing.name], frame.size, item.annotation, found)):
                boxes.append(frame.turned(box))
        kept.append((item, boxes, frame.shown))
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


def _refuse_other_forms(readable: Sequence[tuple[Annotated, Facts]], frames: Sequence[Frame]) -> None:
    """Look at the boxes of each annotation file (where each picture has its own, of each folder of them) together.

    Raises:
        UserError: they are not what their format says.
    """
    whence = sources([item for item, _ in readable])
    groups: dict[tuple[Path, str], list[tuple[int, Corners]]] = {}
    for place, (item, _) in enumerate(readable):
        for thing in item.objects:
            if thing.form and thing.plausible:
                groups.setdefault((whence[place], thing.form), []).append((place, thing))
    for (_, form), members in groups.items():
        places = np.array([place for place, _ in members])
        numbers = np.array([thing.sides for _, thing in members])
        if form == TOP_LEFT:
            numbers[:, 2:] -= numbers[:, :2]
        boxes = Annotations(form, numbers, np.array([frames[place].size[::-1] for place in places], float), places)
        if wrong := _unturned(boxes, readable, frames) or wrong_form(boxes):
            place, thing = members[wrong.first]
            row = " ".join(f"{number:g}" for number in numbers[wrong.first])
            problem = f"{wrong.problem} (the first is {f'{thing.what}: ' if thing.what else ''}{row})"
            todo = f"{wrong.todo}; or, if they are right as they are: {AS_WRITTEN}"
            raise UserError(problem, where=readable[place][0].annotation, line=thing.line, todo=todo)


def _unturned(
    boxes: Annotations, readable: Sequence[tuple[Annotated, Facts]], frames: Sequence[Frame]
) -> WrongForm | None:
    """Boxes that make no sense in pictures that EXIF turns, and do in these as they are stored; None: it is not so."""
    unturned: dict[int, tuple[int, int] | None] = {}
    for place in np.unique(boxes.owners).tolist():
        item, facts = readable[place]
        unturned[place] = stored(item, facts, frames[place])
    which = np.flatnonzero([unturned[place] is not None for place in boxes.owners.tolist()])
    owners = boxes.owners[which]
    sizes = np.array([size[::-1] for place in owners.tolist() if (size := unturned[place])], float).reshape(-1, 2)
    shown = wrong_form(Annotations(boxes.form, boxes.numbers[which], boxes.sizes[which], owners))
    if shown is None or wrong_form(Annotations(boxes.form, boxes.numbers[which], sizes, owners)):
        return None
    problem = (
        f"{len(which)} boxes are in pictures that EXIF turns: they do not fit these as they are shown, but as they are "
        "stored, unturned, so they were drawn by a program that ignores EXIF orientation"
    )
    todo = f"{UNTURN}, or write the size of each as it is stored, width and height, into the annotations"
    return WrongForm(problem, todo, int(which[shown.first]))


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
