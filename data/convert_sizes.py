"""Which pixels annotated boxes are counted in, where the annotation's size is not that of the picture as it is shown.

A program that ignores EXIF orientation shows, measures and annotates a picture as it is stored; the readers that train
turn it. One that was shrunk after it was annotated keeps its aspect. Another aspect has no such reason: width and
height were exchanged, are a template's, the picture was turned or stretched later, or is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.convert_objects import AS_WRITTEN, Annotated, sources
from data.facts import TURNED, Facts
from data.pictures import MOST_PIXELS, orientation_applied
from data.problems import WARNING, Problem
from data.templates import FAR, OUTSIDE
from data.yolo_text import Box

Size = tuple[int, int]
SHRUNK = "the annotation's size is not the picture's"
TURNED_TOO = "boxes of the picture as it is stored, which are turned with it as its EXIF orientation says"
LEFT_UNTURNED = "boxes left as they are, though EXIF turns the picture and others of this set were annotated unturned"
OF_THE_PICTURE = "the annotation's size cannot be meant; the picture's, which all boxes fit, is taken"
STRETCHED = "the annotation's size, which alone all boxes fit, is taken as if the picture was stretched"
UNTURN = "take the orientation out of the pictures (exiftool -Orientation= FOLDER)"
LOOK = "look at some with their boxes (thinyolo check --html)"
EXCHANGE = (
    "if only the numbers are exchanged, exchange width and height; if the picture was turned later, give --images the "
    "one that was annotated"
)
CORRECT = (
    "if boxes are pixels of this picture, correct width and height (0: not known, the picture's are taken); if it was "
    f"cut later, give --images the one that was annotated; if it was stretched, that, or: {AS_WRITTEN}"
)
ADVICE = {
    TURNED_TOO: f"nothing, if they are right: {LOOK}",
    LEFT_UNTURNED: f"{LOOK}; if they are wrong, {UNTURN} and convert again",
    OF_THE_PICTURE: f"nothing, if they are right: {LOOK}; else correct width and height",
    STRETCHED: f"nothing, if they are right: {LOOK}; else give --images the pictures that were annotated",
}


@dataclass(frozen=True)
class Frame:
    """What the numbers of a picture's boxes are relative to.

    Attributes:
        size: (height, width) of the picture that they were drawn on.
        orientation: the EXIF orientation, 1 to 8, that turns this picture into the one that is shown.
    """

    size: Size
    orientation: int = 1

    @property
    def shown(self) -> Size:
        """(height, width) after turning."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    def turned(self, box: Box) -> Box:
        """A box (class, cx, cy, w, h) in pixels, as it lies in what is shown."""
        label, x, y, w, h = box
        height, width = self.size
        # Of 5 to 8 the stored rows become columns: x and y change places, then one or both are mirrored.
        if self.orientation >= 5:
            x, y, w, h, height, width = y, x, h, w, width, height
        if self.orientation in (2, 3, 6, 7):
            x = width - x
        if self.orientation in (3, 4, 7, 8):
            y = height - y
        return label, x, y, w, h


def frames_of(
    readable: Sequence[tuple[Annotated, Facts]], found: list[Problem], as_written: bool = False
) -> list[Frame]:
    """The frame of each picture's boxes; what is not as it should be is added to `found`.

    Args:
        as_written: sizes of another aspect than the picture's are meant.

    Raises:
        UserError: nothing tells which of two sizes boxes are counted in.
    """
    frames: list[Frame] = []
    unclear: list[int] = []
    for place, (item, facts) in enumerate(readable):
        size = _given(item) or facts.shape
        turn = _turn(item, facts, size)
        frames.append(Frame(size, turn))
        if turn > 1 or not (as_written or _alike(size, facts.shape)):
            unclear.append(place)
        elif size != facts.shape:
            found.append(_told(SHRUNK, item, _sizes(item, size, facts)))
    _settle(readable, frames, unclear, found)
    if any(frame.orientation > 1 for frame in frames):
        for (item, facts), frame in zip(readable, frames, strict=True):
            if TURNED not in facts.notes or frame.orientation > 1 or not item.objects:
                continue
            # Upside down, mirrored or square it has one size either way. Others were annotated as they are shown.
            turn = orientation_applied(item.picture, facts.shape)
            if 1 < turn < 5 or (turn >= 5 and (not _given(item) or facts.shape[0] == facts.shape[1])):
                found.append(_told(LEFT_UNTURNED, item, f"{item.picture}, orientation {turn}"))
    return frames


def stored(item: Annotated, facts: Facts, frame: Frame) -> Size | None:
    """The (height, width) that a picture has unturned, where it is another than the one its boxes are taken in."""
    if TURNED in facts.notes and frame.orientation == 1 and orientation_applied(item.picture, facts.shape) >= 5:
        return frame.size[::-1]
    return None


def _given(item: Annotated) -> Size | None:
    """The size that an annotation gives, if a picture can have it."""
    return item.size if item.size and min(item.size) > 0 and max(item.size) <= MOST_PIXELS else None


def _turn(item: Annotated, facts: Facts, size: Size) -> int:
    """The EXIF orientation by which a size has its sides exchanged; 1: it has not."""
    if TURNED not in facts.notes or not _skew(size, facts.shape[::-1]) < _skew(size, facts.shape):
        return 1
    turn = orientation_applied(item.picture, facts.shape)
    return turn if turn >= 5 and _alike(size, facts.shape[::-1]) else 1


def _skew(size: Size, other: Size) -> float:
    """How much more one side is shrunk than the other, from one size to another: 1 where both are alike."""
    height, width = other[0] / size[0], other[1] / size[1]
    return max(height, width) / min(height, width)


def _alike(size: Size, other: Size) -> bool:
    """Whether a picture of one size, shrunk, may have the other: the same aspect, but for a rounded side."""
    small, large = sorted((size, other))
    rounded = any(abs(large[side] * small[1 - side] / large[1 - side] - small[side]) <= 1 for side in (0, 1))
    return _skew(size, other) <= 1 + (FAR if rounded else OUTSIDE)


def _settle(
    readable: Sequence[tuple[Annotated, Facts]], frames: list[Frame], unclear: Sequence[int], found: list[Problem]
) -> None:
    """Decide by the boxes between the annotation's size and the picture's, where these have different aspects.

    Who wrote one size wrongly did so with the others of its source, so all of these are looked at together.

    Raises:
        UserError: they fit both, or neither.
    """
    whence = sources([item for item, _ in readable])
    groups: dict[tuple[Path, bool, bool], list[int]] = {}
    for place in unclear:
        exchanged = _alike(frames[place].size, readable[place][1].shape[::-1])
        groups.setdefault((whence[place], frames[place].orientation > 1, exchanged), []).append(place)
    for (_, turned, exchanged), places in groups.items():
        full = [place for place in places if readable[place][0].objects]
        picture = all(_fit(readable[place][0], readable[place][1].shape) for place in full)
        size = all(_fit(readable[place][0], frames[place].size) for place in full)
        if turned:  # what explains the size is believed, unless the boxes cannot be of the unturned picture
            picture = picture and not size
        # A picture that was turned later is not stretched; and which way it was turned nothing tells.
        elif full and (picture == size or (exchanged and not picture)):
            _refuse(readable, frames, full, exchanged)
        for place in places:
            item, facts = readable[place]
            frame = frames[place]
            detail = _sizes(item, frame.size, facts)
            if picture:
                frames[place] = Frame(facts.shape)
            elif turned:
                height, width = facts.shape
                detail = f"{item.picture}, orientation {frame.orientation}: shown as {width} x {height}"
            found.append(_told(OF_THE_PICTURE if picture else TURNED_TOO if turned else STRETCHED, item, detail))


def _fit(item: Annotated, size: Size) -> bool:
    """Whether no box reaches so far out of a picture of this size as nobody draws it."""
    height, width = ((1 + FAR) * side for side in size)
    return all(thing.right <= width and thing.bottom <= height for thing in item.objects if thing.plausible)


def _refuse(
    readable: Sequence[tuple[Annotated, Facts]], frames: Sequence[Frame], places: Sequence[int], exchanged: bool
) -> None:
    item, facts = readable[places[0]]
    size = frames[places[0]].size
    more = f" (and so with {len(places) - 1} more)" if len(places) > 1 else ""
    problem = (
        f"the annotation's size is {_sizes(item, size, facts)}: "
        f"{'width and height are exchanged' if exchanged else 'another aspect, so it was not shrunk'}{more}, and the "
        "boxes do not tell which of both they were drawn on"
    )
    raise UserError(problem, where=item.annotation, line=item.size_line, todo=EXCHANGE if exchanged else CORRECT)


def _sizes(item: Annotated, size: Size, facts: Facts) -> str:
    return f"{size[1]} x {size[0]}, but {item.picture} has {facts.shape[1]} x {facts.shape[0]}"


def _told(kind: str, item: Annotated, detail: str) -> Problem:
    return Problem(WARNING, kind, item.annotation, item.size_line, detail, ADVICE.get(kind, ""))
