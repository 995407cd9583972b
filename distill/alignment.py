"""Which part of a teacher's answer is about the same thing as which part of a student's: heads, places, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.log import log
from models.classes import class_order, numbers_only
from models.heads import HeadSpec


@dataclass(frozen=True)
class Alignment:
    """Which of the teacher's heads, places (anchors) and classes answer to which of the student's.

    Attributes:
        heads: per head of the student, the number of the teacher's.
        places: per head of the student and place in a cell, the number of the teacher's place.
        same_places: whether paired places are for the same boxes; if not, their anchors are of different size.
        across: whether the heads are of different families, so that the teacher's are to be decoded.
        classes: per class of the student, the number of the teacher's; None where they are the same in the same order.
    """

    heads: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]
    same_places: bool
    classes: tuple[int, ...] | None = None
    across: bool = False


def align(
    student: Sequence[HeadSpec], teacher: Sequence[HeadSpec], classes: tuple[int, ...] | None = None
) -> Alignment:
    """Pair the heads by stride (cfgs list them coarse to fine or fine to coarse), those that give an object one place
    with such ones, and the places in their cells as their family does (anchors by size). Between families all of the
    teacher's places are taken: what they decode to answers to the student's.

    The teacher may have more than the student: heads of further strides, further anchors in a head.

    Args:
        student, teacher: their heads.
        classes: per class of the student the teacher's, as of `pair_classes`; None: the same ones.

    Raises:
        UserError: naming both sides, where a head of the student has no counterpart of its stride, or one with fewer
            anchors, or the numbers of classes differ and no pairing says which are which.
    """
    heads = _pair_heads(student, teacher)
    across = student[0].family != teacher[0].family
    found = [_pair_places(spec, teacher[number], across) for spec, number in zip(student, heads or ())]
    pairs = [each for each in found if each is not None]
    same_classes = classes is not None or {spec.classes for spec in student} == {spec.classes for spec in teacher}
    if heads is None or len(pairs) < len(heads) or not same_classes:
        raise UserError(
            f"the student has {describe(student)}; the teacher has {describe(teacher)}",
            todo="each head of the student needs one of the teacher with its stride, of its kind (those that give each "
            "object one place learn from such) and with at least as many anchors, if both have some, and the classes "
            "have to be the same; train the teacher on this data set",
        )
    return Alignment(heads, tuple(places for places, _ in pairs), all(same for _, same in pairs), classes, across)


def describe(specs: Sequence[HeadSpec]) -> str:
    """A set of heads in words."""
    strides = ", ".join(str(spec.stride) for spec in specs)
    places = specs[0].describe_places(specs)
    if single := sum(spec.one_to_one for spec in specs):
        places += f" ({single} give each object one place)"
    return f"{len(specs)} heads of strides {strides} {places} and {specs[0].classes} classes"


def _pair_heads(student: Sequence[HeadSpec], teacher: Sequence[HeadSpec]) -> tuple[int, ...] | None:
    free = list(range(len(teacher)))
    pairs = []
    for spec in student:
        like = (spec.stride, spec.one_to_one)
        found = next((n for n in free if (teacher[n].stride, teacher[n].one_to_one) == like), None)
        if found is None:
            return None
        free.remove(found)
        pairs.append(found)
    return tuple(pairs)


def _pair_places(student: HeadSpec, teacher: HeadSpec, across: bool) -> tuple[tuple[int, ...], bool] | None:
    return (tuple(range(teacher.places)), True) if across else student.pair_places(teacher)


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
    if (order := class_order(student, teacher)) is not None:
        log.info("the teacher's classes are taken by name: %d of its %d", len(ours), len(theirs))
        return order
    nameless = numbers_only(ours) or numbers_only(theirs)
    sides = f"{', '.join(student[:20])} and {', '.join(teacher[:20])}"
    if len(ours) != len(theirs):
        if nameless:
            return None  # `align` refuses, with the heads of both
        raise UserError(
            f"student and teacher detect different classes: {sides}",
            todo="every class of the student has to be one of the teacher's; train the teacher on this data set",
        )
    if nameless:
        return None
    if moved := [name for place, name in enumerate(ours) if name in theirs and theirs[place] != name]:
        raise UserError(
            f"student and teacher order the classes differently ({moved[0]}), and not all names agree: {sides}",
            todo="train both on data sets with the same names",
        )
    log.warning("student and teacher name their classes differently: %s", sides)
    return None
