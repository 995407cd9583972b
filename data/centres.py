"""Lines of five numbers that are no ``class cx cy w h``, told by where the boxes would reach.

Corners, sides or top left and size are numbers in 0..1 too. Read as centre and size, most of them, or those of some
files, reach far out of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.dialects import shown
from data.problems import ERROR, Problem
from data.templates import (
    ALMOST_ALL,
    BOXES,
    CHANCE,
    CLOSE,
    CORNERS,
    FAR,
    FEW,
    MANY,
    MOST,
    OUTSIDE,
    SIDES,
    TOP_LEFT,
    Y_FIRST,
    either,
    fits,
)

SELDOM = 0.25
"""Where so few boxes make sense as corners, they are small: reaching out makes no corners of them."""
ALIKE = 8
"""Objects of one kind differ by less in area, by their medians."""
FORMS = {
    CORNERS: "the corners x1 y1 x2 y2 (or y1 x1 y2 x2)",
    TOP_LEFT: "the top left corner, width and height (or y1 x1 h w)",
    SIDES: "the sides x1 x2 y1 y2 (or y1 y2 x1 x2)",
}
UNSURE = (
    "compare a line with its picture, and write class cx cy w h as shares of the picture. From corners: "
    f"{BOXES[CORNERS]}; from top left and size: {BOXES[TOP_LEFT]}; y may stand before x ({Y_FIRST[CORNERS]})"
)


@dataclass(frozen=True)
class Five:
    """A line of five numbers that can be read as it is: where it stands, and its box."""

    file: Path
    line: int
    text: str
    box: tuple[float, ...]


def not_centres(lines: Sequence[Five]) -> list[Problem]:
    """An error where most boxes reach outside the picture, or all make sense as something else only.

    Args:
        lines: of the split, those whose numbers lie in 0..1.
    """
    if len(lines) < 3:
        return []
    boxes = np.array([line.box for line in lines])
    first, second = boxes[:, :2], boxes[:, 2:]
    before, behind = (second / 2 - first).max(axis=1), (first + second / 2 - 1).max(axis=1)
    over = np.maximum(before, behind)
    outside = float((over > OUTSIDE).mean())
    ones = np.ones((len(boxes), 2))
    share = {box: float(fits(box, boxes, ones).mean()) for box in (CORNERS, SIDES, TOP_LEFT)}
    forms = [box for box, fit in share.items() if fit >= max(ALMOST_ALL, max(share.values()) - CLOSE)]
    far = (over > FAR).mean() > CLOSE
    # Who draws carelessly leaves the picture on all sides; top left corners only on the left and at the top, and of
    # boxes that are spread over it.
    one_way = (before > OUTSIDE).sum() >= 2 * FEW and not (behind > OUTSIDE).any()
    leaving = (second / 2 - first > OUTSIDE).sum(axis=0) >= min(FEW, MANY * len(boxes))
    spread = bool(((first + 1.5 * second > 1).mean(axis=0) > CLOSE)[leaving].all())
    if not far:
        # Careless hands reach out a little; of the other forms only one does no more than that.
        forms = [TOP_LEFT] if TOP_LEFT in forms and one_way and spread else []
        if not forms:
            return _of_some_files(lines, boxes, over)
    if outside <= MANY:
        # Corners of small boxes in the middle are centres and sizes in the picture too; but not of all boxes.
        certain = len(boxes) >= 4 * FEW and max(share[CORNERS], share[SIDES]) > 1 - CLOSE
        if certain and far:
            forms = [box for box in forms if box != TOP_LEFT]
        elif one_way and spread and share[TOP_LEFT] > 1 - CLOSE:
            forms = [TOP_LEFT]
        else:
            return _of_some_files(lines, boxes, over)
    elif outside <= MOST and not (len(boxes) >= FEW and forms):
        return _of_some_files(lines, boxes, over)
    guess = " or ".join(FORMS[box] for box in forms) or "something else than centre and size"
    kind = f"{outside:.0%} of the boxes reach outside the picture: the numbers look like {guess}".replace("%", " %")
    worst = lines[int(over.argmax())]
    todo = UNSURE
    if len(forms) == 1:
        todo = f"write class cx cy w h, each as a share of the picture: {BOXES[forms[0]]}; {either(forms[0])}"
    return [Problem(ERROR, kind, worst.file, worst.line, f"{shown(worst.text)}; {len(boxes)} boxes looked at", todo)]


def _of_some_files(lines: Sequence[Five], boxes: np.ndarray, over: np.ndarray) -> list[Problem]:
    """An error where some label files are of another form than the others.

    What lies in the picture makes sense in another form as often in files that are carelessly drawn as in good ones; in
    files of that form all does. Of a box that reaches out that shows less: large ones do both.
    """
    files: dict[Path, list[int]] = {}
    for place, line in enumerate(lines):
        files.setdefault(line.file, []).append(place)
    reaching = over > FAR
    far = np.array([bool(reaching[places].any()) for places in files.values()])
    beside = np.zeros(len(boxes), bool)  # boxes in the picture, in a file with one that reaches out
    for places in files.values():
        beside[places] = reaching[places].any() & ~reaching[places]
    good = ~reaching & ~beside
    for form in (CORNERS, SIDES):
        right = fits(form, boxes, np.ones((len(boxes), 2)))
        whole = np.array([bool(right[places].all()) for places in files.values()])
        by_chance = (int(right[good].sum()) + 1) / (int(good.sum()) + 2)
        certain = right[beside].mean() >= ALMOST_ALL if beside.any() else False
        certain = certain and by_chance ** int(beside.sum()) < CHANCE
        alone = beside.sum() < FEW and by_chance < SELDOM and by_chance ** int(far.sum()) < CHANCE
        alone = (
            alone
            and np.median(over[reaching]) > 2 * FAR
            and _alike(_areas(form, boxes[reaching]), boxes[good, 2:].prod(axis=1))
        )
        if far.sum() < FEW or whole[far].mean() < ALMOST_ALL or not (certain or alone):
            continue
        kind = f"some label files look like {FORMS[form]}, the others like centre and size"
        places = list(files.values())[int((whole & far).argmax())]
        line = lines[max(places, key=lambda place: over[place])]
        detail = f"{int(far.sum())} files in which boxes reach far outside the picture, such as {shown(line.text)}"
        todo = f"write class cx cy w h in these and in those that come from where they do: {BOXES[form]}"
        return [Problem(ERROR, kind, line.file, line.line, detail, todo)]
    return []


def _areas(form: str, boxes: np.ndarray) -> np.ndarray:
    """The boxes' shares of the picture, where their numbers are corners or sides."""
    first, last = (boxes[:, :2], boxes[:, 2:]) if form == CORNERS else (boxes[:, 0::2], boxes[:, 1::2])
    return np.asarray((last - first).prod(axis=1))


def _alike(areas: np.ndarray, others: np.ndarray) -> bool:
    """Whether objects are about as large as others: large ones make sense as corners by chance."""
    if not len(others):
        return False
    ratio = np.median(areas) / np.median(others)
    return bool(1 / ALIKE < ratio < ALIKE)
