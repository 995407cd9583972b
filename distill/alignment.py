"""Which part of a teacher's answer is about the same thing as which part of a student's: heads, anchors, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from common.errors import UserError
from common.log import log
from models.spec import HeadSpec

# Anchors count as equal within this factor: cfg files round to whole pixels.
_ANCHOR_TOLERANCE = 1.05


@dataclass(frozen=True)
class Alignment:
    """Which of the teacher's heads, anchors and classes answer to which of the student's.

    Attributes:
        heads: per head of the student, the number of the teacher's.
        anchors: per head of the student and anchor, the number of the teacher's anchor.
        same_anchors: whether paired anchors are equal; if not, paired cells stand for boxes of different size.
        classes: per class of the student, the number of the teacher's; None where they are the same in the same order.
    """

    heads: tuple[int, ...]
    anchors: tuple[tuple[int, ...], ...]
    same_anchors: bool
    classes: tuple[int, ...] | None = None


def align(
    student: Sequence[HeadSpec], teacher: Sequence[HeadSpec], classes: tuple[int, ...] | None = None
) -> Alignment:
    """Pair the heads by stride (cfgs list them coarse to fine or fine to coarse) and their anchors by size.

    The teacher may have more than the student: heads of further strides, further anchors in a head.

    Args:
        student, teacher: their heads.
        classes: per class of the student the teacher's, as of `pair_classes`; None: the same ones.

    Raises:
        UserError: naming both sides, where a head of the student has no counterpart of its stride, or one with fewer
            anchors, or the numbers of classes differ and no pairing says which are which.
    """
    heads = _pair_heads(student, teacher)
    fits = heads is not None and all(len(s.anchors) <= len(teacher[n].anchors) for s, n in zip(student, heads))
    same_classes = classes is not None or {spec.classes for spec in student} == {spec.classes for spec in teacher}
    if heads is None or not fits or not same_classes:
        raise UserError(
            f"the student has {describe(student)}; the teacher has {describe(teacher)}",
            todo="each head of the student needs one of the teacher with its stride and at least as many anchors, and "
            "the classes have to be the same; train the teacher on this data set",
        )
    anchors, same = zip(*(_pair_anchors(spec, teacher[n]) for spec, n in zip(student, heads)))
    return Alignment(heads, anchors, all(same), classes)


def describe(specs: Sequence[HeadSpec]) -> str:
    """A set of heads in words."""
    strides = ", ".join(str(spec.stride) for spec in specs)
    counts = ", ".join(str(len(spec.anchors)) for spec in specs)
    return f"{len(specs)} heads of strides {strides} with {counts} anchors and {specs[0].classes} classes"


def _pair_heads(student: Sequence[HeadSpec], teacher: Sequence[HeadSpec]) -> tuple[int, ...] | None:
    free = list(range(len(teacher)))
    pairs = []
    for spec in student:
        found = next((number for number in free if teacher[number].stride == spec.stride), None)
        if found is None:
            return None
        free.remove(found)
        pairs.append(found)
    return tuple(pairs)


def _pair_anchors(student: HeadSpec, teacher: HeadSpec) -> tuple[tuple[int, ...], bool]:
    """Per anchor of the student one of the teacher's of its own, the nearest in size first; whether all are equal."""
    ratio = torch.tensor(student.anchors)[:, None] / torch.tensor(teacher.anchors)  # (A, T, 2)
    factor = torch.maximum(ratio, 1 / ratio).amax(dim=-1)
    pairs: dict[int, int] = {}
    for place in factor.flatten().argsort(stable=True).tolist():
        ours, theirs = divmod(place, len(teacher.anchors))
        if ours not in pairs and theirs not in pairs.values():
            pairs[ours] = theirs
    chosen = tuple(pairs[number] for number in range(len(student.anchors)))
    return chosen, all(factor[ours, theirs].item() < _ANCHOR_TOLERANCE for ours, theirs in enumerate(chosen))


def pair_classes(student: Sequence[str], teacher: Sequence[str]) -> tuple[int, ...] | None:
    """Per class of the student the teacher's of that name; None where they are the same ones in the same order.

    Names that are only numbers (a cfg says no others) mean the classes in their order. So do different words for as
    many classes, with a warning.

    Raises:
        UserError: naming both sides, where a class of the student is none of the teacher's.
    """
    ours, theirs = ([name.strip().lower() for name in names] for names in (student, teacher))
    if ours == theirs:
        return None
    if all(name in theirs for name in ours) and not _numbers(ours) and not _numbers(theirs):
        log.info("the teacher's classes are taken by name: %d of its %d", len(ours), len(theirs))
        return tuple(theirs.index(name) for name in ours)
    sides = f"{', '.join(student[:20])} and {', '.join(teacher[:20])}"
    if len(ours) != len(theirs):
        if _numbers(ours) or _numbers(theirs):
            return None  # `align` refuses, with the heads of both
        raise UserError(
            f"student and teacher detect different classes: {sides}",
            todo="every class of the student has to be one of the teacher's; train the teacher on this data set",
        )
    if _numbers(ours) or _numbers(theirs):
        return None
    if moved := [name for place, name in enumerate(ours) if name in theirs and theirs[place] != name]:
        raise UserError(
            f"student and teacher order the classes differently ({moved[0]}), and not all names agree: {sides}",
            todo="train both on data sets with the same names",
        )
    log.warning("student and teacher name their classes differently: %s", sides)
    return None


def _numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]
