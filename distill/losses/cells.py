"""What the KD terms on responses share: reading paired heads, how much a cell counts, and which cells are looked at."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from models.heads import HeadReader
from models.spec import HeadMatches, Matches, Outputs, Places

# Cells in which the teacher sees less than this do not count: there are thousands, and they would only cost time.
FAINT = 1e-3


def paired_heads(
    student: Outputs, teacher: Outputs, matches: Matches
) -> Iterator[tuple[HeadReader, HeadReader, Tensor, Tensor, HeadMatches]]:
    """Per head both specs, both ``(B, A, H, W, K)``, the teacher's detached, and the matches."""
    heads = zip(student.specs, teacher.specs, student.heads, teacher.heads, matches.heads)
    for spec, their_spec, ours, theirs, match in heads:
        yield spec, their_spec, ours, theirs.detach(), match


def cell_weights(teacher: Tensor, spec: HeadReader, match: HeadMatches) -> Tensor:
    """``(B, A, H, W)``: 1 on matched places; else how certain the teacher's ``(B, A, H, W, K)`` is of an object."""
    weight = spec.certainty(teacher).clone()
    weight[match.image, match.anchor, match.row, match.col] = 1
    return weight


def cells_of(mask: Tensor) -> Places:
    """The True places of a ``(B, A, H, W)`` mask, to pick and decode by."""
    return Places(*mask.nonzero(as_tuple=True))
