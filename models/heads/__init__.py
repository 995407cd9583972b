"""Families of detection heads: the face they share (`HeadSpec`), and where each one's parts are found.

A family owns all that heads differ in: what its sections say, what its convolutions give, boxes and scores, how it is
exported, which places answer for an object, and the loss. A further one is a module here with its `HeadSpec`, a
criterion in `models.loss` with the assignment it uses (`models.assign`), a line in `FAMILIES`, and the section kind
that names it in `models.kinds`. Nothing here needs torch before a part is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from models.cfg import Section
    from models.heads.anchored import AnchoredSpec
    from models.heads.decoded import DecodedSpec
    from models.heads.free import FreeSpec
    from models.heads.spec import (
        HeadReader,
        HeadSpec,
        at_least_fp32,
        decode_heads,
        decode_heads_above,
        spec_read,
    )
    from models.loss.criterion import Criterion

__all__ = [
    "FAMILIES",
    "ONE_TO_MANY",
    "ONE_TO_ONE",
    "AnchoredSpec",
    "DecodedSpec",
    "Family",
    "FreeSpec",
    "HeadReader",
    "HeadSpec",
    "at_least_fp32",
    "decode_heads",
    "decode_heads_above",
    "spec_class",
    "spec_read",
]


@dataclass(frozen=True)
class Family:
    """Where the parts of a family are found; each is imported when it is needed.

    Attributes:
        spec: loads how one of its heads is read.
        criterion: loads what training needs: the assignment and the loss.
    """

    spec: Callable[[], type[HeadSpec]]
    criterion: Callable[[], type[Criterion]]


def _anchored() -> type[HeadSpec]:
    from models.heads.anchored import AnchoredSpec

    return AnchoredSpec


def _anchored_loss() -> type[Criterion]:
    from models.loss.anchored import DetectionLoss

    return DetectionLoss


def _free() -> type[HeadSpec]:
    from models.heads.free import FreeSpec

    return FreeSpec


def _free_loss() -> type[Criterion]:
    from models.loss.free import FreeLoss

    return FreeLoss


FAMILIES = {"anchored": Family(_anchored, _anchored_loss), "free": Family(_free, _free_loss)}
"""By `HeadSpec.family`, which `SectionKind.head` names too."""

ONE_TO_MANY, ONE_TO_ONE = "one-to-many", "one-to-one"
"""The two kinds of heads, by how many places may answer for an object; the first needs NMS (`HeadSpec.one_to_one`)."""


def spec_class(head: Section) -> type[HeadSpec]:
    """How the heads of a section's family are read."""
    return FAMILIES[head.facts.head].spec()


lazily(__name__)
