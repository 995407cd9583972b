"""What shows only when many pictures or all splits are seen: leaks, crushed depth, crowds, classes that lack."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.copies import copies, groups_of_copies
from data.facts import FRAMES, RANGELESS, Facts
from data.pictures import DARK
from data.places import HIDDEN, NOT_READ, OTHERWISE_NAMED, VIDEO, unread_files
from data.problems import LEFT_OUT, WARNING, Problem
from data.spec import DataSpec

SAME = 0.01
"""So much, in shares of the picture, the numbers of two boxes of one object differ by rounding."""
MOSTLY = 0.5
TINY = 0.01
"""Of a picture's side: in a picture of some pixels a whole object may be smaller than one."""
FEWEST_ALIKE, NEARLY_ALL = 16, 0.9
"""Pictures with objects, and the share of them that has the same boxes, from which that is told."""
WHOLE_PICTURE = 0.95
"""A box whose sides are above it is what a set of classes becomes when it is converted."""


Contradict = Callable[[Path, Path], str]
"""How the labels of two pictures differ, for a message; "" where they are the same."""


def contradiction(first: np.ndarray, second: np.ndarray) -> str:
    """How two sets of labels ``(n, 5)`` of one picture differ, for a message; "" where both say the same.

    Boxes whose numbers differ by less than `SAME` of the picture are the same: tools round.
    """
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} boxes"
    near = (np.abs(first[:, None, 1:] - second[None, :, 1:]) < SAME).all(axis=2)
    same = near & (first[:, None, 0] == second[None, :, 0])
    if same.any(axis=0).all() and same.any(axis=1).all():
        return ""
    return "other classes" if near.any(axis=0).all() and near.any(axis=1).all() else "other boxes"


def copies_within(
    split: str, pictures: Sequence[Path], contradict: Contradict, stamps: np.ndarray | None = None
) -> list[Problem]:
    """Pictures of a split that are copies of others, whatever they are called; `stamps` as of `leaks`."""
    kind = f"copy of another picture of '{split}' with other labels: both cannot be right"
    todo = "look at both; correct the labels of one, or delete it with its labels"
    problems, alike = [], []
    for first, *others in groups_of_copies(pictures, stamps):
        for copy in others:
            if told := contradict(first, copy):
                problems.append(Problem(WARNING, kind, copy, None, f"same bytes as {first}, {told}", todo))
            else:
                alike.append((copy, first))
    if alike:
        copy, first = alike[0]
        what = f"{len(alike)} copies of other pictures" if alike[1:] else "a copy of another picture"
        kind = f"{what} of '{split}', with the same labels"
        todo = "delete them, unless these pictures shall count more than others: a copy shows nothing new"
        problems.append(Problem(WARNING, kind, copy, None, f"the first; same bytes as {first}", todo))
    return problems


def leaks(
    originals: Sequence[Path],
    first: str,
    pictures: Sequence[Path],
    second: str,
    contradict: Contradict,
    stamps: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Problem]:
    """Pictures of one split that are in another too: the same files, or files with the same bytes.

    Args:
        stamps: of the pictures and of the originals, where they are known.
    """
    kind = f"picture of '{second}' is also in '{first}'"
    if first == "train":
        kind = f"picture of '{second}' is also trained on; its score will be too good"
    todo = "keep each picture in one split, and what was filmed in the same moment with it"
    problems = []
    for picture, same in copies(pictures, originals, stamps).items():
        told = "the same file"
        if same != picture:
            other = contradict(same, picture)
            told = f"same bytes as {same}" + (f", and other labels: {other}" if other else "")
        problems.append(Problem(WARNING, kind, picture, None, told, todo))
    return problems


UNREAD = {
    NOT_READ: "convert them (to PNG or JPEG): they take no part",
    OTHERWISE_NAMED: "give it the ending it should have, such as .jpg",
    HIDDEN: "take the dot away, or delete the file",
    VIDEO: "take pictures out of it, if it should take part: ffmpeg -i VIDEO -r 1 NAME%05d.jpg",
}


def unread(folders: Iterable[Path]) -> list[Problem]:
    """Pictures in a split's folders that take no part."""
    every = dict.fromkeys(row for folder in folders for row in unread_files(folder))
    return [Problem(WARNING, kind, path, todo=UNREAD[kind]) for kind, path in every]


def without_range(spec: DataSpec, path: Path, fact: Facts) -> Problem | None:
    """What to say of a picture whose values mean nothing without a `pixel_range` that the data set lacks."""
    if RANGELESS not in fact.notes or spec.pixel_range is not None:
        return None
    low, high = fact.low or 0, fact.high or 0
    kind = "picture left out: its values have no range of their own"
    todo = "say which values are black and white in the data set's yaml, e.g. pixel_range: [0, 1]"
    return Problem(LEFT_OUT, kind, path, None, f"{fact.bits} bits, from {low:g} to {high:g}", todo)


def of_several_frames(pictures: Sequence[Path], facts: Sequence[Facts]) -> list[Problem]:
    """Pictures that move or have pages: what the labels of the others are, nobody knows."""
    kind = "picture of several frames or pages; the first is used"
    todo = "nothing, if the labels belong to the first; else store each as a picture of its own"
    return [
        Problem(WARNING, kind, path, todo=todo)
        for path, fact in zip(pictures, facts, strict=True)
        if FRAMES in fact.notes
    ]


def crushed(spec: DataSpec, pictures: Sequence[Path], facts: Sequence[Facts]) -> list[Problem]:
    """Pictures of which little is left in 8 bits: their values use a small part of what the file could hold."""
    problems = []
    deepest = math.inf if spec.pixel_range is None else 8  # of the others `wrong_range` tells
    for bits in sorted({fact.bits for fact in facts if fact.bits <= deepest}):
        alike = [
            (path, fact)
            for path, fact in zip(pictures, facts, strict=True)
            if fact.bits == bits and RANGELESS not in fact.notes
        ]
        if not alike or any(fact.high is None for _, fact in alike):
            continue  # at least one is well used, or not known
        low = int(min(fact.low or 0 for _, fact in alike))
        high = int(max(fact.high or 0 for _, fact in alike))
        file = next(path for path, fact in alike if fact.high == high)
        if bits == 8 and high < DARK and high > low:
            kind = f"all values of the pictures lie in {low} to {high} of 0 to 255: they are nearly black"
            todo = "store them with their values stretched to 0 to 255, or as 16 bits with a pixel_range in the yaml"
            problems.append(Problem(WARNING, kind, file, None, f"{len(alike)} pictures", todo))
        elif bits > 8 and (high - low) < 2 ** (bits - 1):
            left = max(1, (high >> (bits - 8)) - (low >> (bits - 8)) + 1)
            kind = (
                f"the values of the pictures of {bits} bits lie in {low} to {high}: {left} of 256 grey levels are left"
            )
            todo = f"add `pixel_range: [{low}, {high}]` (what becomes black and white) to the data set's yaml"
            if spec.source.suffix == ".data":
                todo += "; a .data file has no such line: write a yaml"
            problems.append(Problem(WARNING, kind, file, None, f"{len(alike)} pictures", todo))
    return problems


def wrong_range(
    pixel_range: tuple[float, float] | None, pictures: Sequence[Path], facts: Sequence[Facts]
) -> list[Problem]:
    """Where a `pixel_range` is not that of the pictures: they have 8 bits, or it leaves little of them."""
    if pixel_range is None or not facts:
        return []
    black, white = pixel_range
    problems = []
    if plain := [path for path, fact in zip(pictures, facts, strict=True) if fact.bits == 8]:
        kind = "pixel_range is not used for pictures of 8 bits: they are read as they are, 0 to 255"
        todo = "leave it out: it is for pictures with more bits"
        if len(plain) < len(facts):
            todo = "store all pictures with as many bits: an object looks different in these and in the others"
        problems.append(Problem(WARNING, kind, plain[0], None, f"{len(plain)} of {len(facts)} pictures", todo))
    deep = [(path, fact) for path, fact in zip(pictures, facts, strict=True) if fact.bits > 8]
    if not deep:
        return problems
    # A hot pixel stretches the values of its picture only: each is looked at by itself.
    spans = np.array([(fact.low or 0, fact.high or 0) for _, fact in deep])
    inside = np.minimum(spans[:, 1], white) - np.maximum(spans[:, 0], black)
    flat = (spans[:, 0] == spans[:, 1]) & (black <= spans[:, 0]) & (spans[:, 0] <= white)
    lost = float(np.median(np.where(flat, 0, 1 - inside.clip(0) / np.maximum(spans[:, 1] - spans[:, 0], 1e-9))))
    low, high = float(spans[:, 0].min()), float(spans[:, 1].max())
    left = max(0.0, min(high, white) - max(low, black)) / (white - black)
    said = f"the values of pictures with more than 8 bits lie in {low:g} to {high:g}; "
    said += f"pixel_range, {black:g} to {white:g}, "
    if flat.all():
        return problems
    if high <= black or low >= white:
        kind = said + "has none of them: all become black, or all white"
    elif lost > MOSTLY:
        kind = said + "has the smaller part of them: the others become plain black or white"
    elif left < MOSTLY:
        kind = said + f"leaves {max(1, round(256 * left))} of 256 grey levels"
    else:
        return problems
    todo = f"write what becomes black and white: `pixel_range: [{low:g}, {high:g}]` has all of them"
    return [*problems, Problem(WARNING, kind, deep[0][0], None, f"{len(deep)} pictures", todo)]


def below_a_pixel(pictures: Sequence[Path], shapes: np.ndarray, labels: Sequence[np.ndarray]) -> list[Problem]:
    """Where most boxes of a split are smaller than a pixel of their picture, ``(N, 2)`` (h, w): in another unit."""
    counts = np.array([len(rows) for rows in labels], int)
    sides = np.concatenate([np.zeros((0, 2), np.float32), *(rows[:, 3:] for rows in labels)])
    owners = np.repeat(np.arange(len(labels)), counts)
    below = ((sides * shapes[owners, ::-1] < 1) & (sides < TINY)).any(axis=1)
    if 2 * int(below.sum()) <= len(below):
        return []
    small = np.bincount(owners[below], minlength=len(labels))
    kind = "boxes smaller than a pixel, as most of this split are: their numbers seem to be of another unit"
    todo = "write cx cy w h as shares of the picture's width and height (0.5 0.5 1 1 is the whole picture)"
    return [
        Problem(WARNING, kind, picture, None, f"{few} of {count}", todo)
        for picture, few, count in zip(pictures, small.tolist(), counts.tolist(), strict=True)
        if few
    ]


def all_alike(pictures: Sequence[Path], labels: Sequence[np.ndarray]) -> list[Problem]:
    """Where nearly all pictures with objects have the very same boxes: one label file was copied over the others."""
    filled = [(picture, rows) for picture, rows in zip(pictures, labels, strict=True) if len(rows)]
    counts = Counter(rows.tobytes() for _, rows in filled)
    if len(filled) < FEWEST_ALIKE:
        return []
    (content, count), *_ = counts.most_common(1)
    whole = np.frombuffer(content, np.float32).reshape(-1, 5)
    if count < NEARLY_ALL * len(filled) or (whole[:, 3:] > WHOLE_PICTURE).all():
        return []
    first = next(picture for picture, rows in filled if rows.tobytes() == content)
    kind = "the same boxes in nearly all pictures: was one label file copied over the others?"
    todo = "look at some: thinyolo check --html draws them; take the labels from where they were made"
    return [Problem(WARNING, kind, first, None, f"{count} of {len(filled)} pictures", todo)]


def crowded(spec: DataSpec, pictures: Sequence[Path], labels: Sequence[np.ndarray]) -> list[Problem]:
    """Pictures with more objects of a class than are scored."""
    found = []
    for picture, rows in zip(pictures, labels, strict=True):
        if len(rows) <= spec.max_det:
            continue
        counts = np.bincount(rows[:, 0].astype(int), minlength=1)
        if counts.max() > spec.max_det:
            found.append((int(counts.max()), picture, spec.names[int(counts.argmax())]))
    if not found:
        return []
    most = max(count for count, _, _ in found)
    kind = f"more than {spec.max_det} objects of a class in a picture; no more boxes are scored, so mAP stays low"
    todo = f"add `max_det: {most}` to the data set's yaml (COCO scores 100, so say which number is behind an mAP)"
    return [Problem(WARNING, kind, picture, None, f"{count} of {name}", todo) for count, picture, name in found]


def across_splits(
    spec: DataSpec,
    pictures: Mapping[str, Sequence[Path]],
    counts: Mapping[str, np.ndarray],
    contradict: Contradict,
) -> list[Problem]:
    """What the whole data set shows.

    Args:
        pictures: split -> its pictures.
        counts: split -> ``(classes,)`` boxes of each class; nothing is said of classes where it is empty.
    """
    problems = []
    if pictures.get("val") and pictures.get("test"):
        problems += leaks(pictures["val"], "val", pictures["test"], "test", contradict)
    every = np.sum(list(counts.values()), axis=0)
    trained = counts.get("train", every)
    for number, name in enumerate(spec.names if counts else ()):
        detail = f"class {number}, {name}"
        if not every[number]:
            todo = "label it, or take it out of `names` (and renumber the labels of the classes behind it)"
            problems.append(Problem(WARNING, "class without a single object", spec.source, None, detail, todo))
        elif not trained[number]:
            todo = "put some of its pictures into train: it cannot be learnt"
            problems.append(Problem(WARNING, "class without an object in train", spec.source, None, detail, todo))
        elif not counts.get("val", every)[number]:
            todo = "put some of its pictures into val: nothing tells how well it is detected"
            problems.append(Problem(WARNING, "class without an object in val", spec.source, None, detail, todo))
    todo = "remove the link: what is below it is read once, by its own path"
    problems += [
        Problem(WARNING, "link that leads back to a folder above itself", path, todo=todo) for path in spec.loops
    ]
    return problems
