"""What the KD terms on responses share: reading paired heads, how much a cell counts, and boxes at chosen cells."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.spec import HeadMatches, HeadSpec, Matches, Outputs

# Cells in which the teacher sees less than this do not count: there are thousands, and they would only cost time.
FAINT = 1e-3


def paired_heads(
    student: Outputs, teacher: Outputs, matches: Matches
) -> Iterator[tuple[HeadSpec, HeadSpec, Tensor, Tensor, HeadMatches]]:
    """Per head both specs, both ``(B, A, H, W, 5 + C)``, the teacher's detached, and the matches."""
    heads = zip(student.specs, teacher.specs, student.heads, teacher.heads, matches.heads)
    for spec, their_spec, ours, theirs, match in heads:
        yield spec, their_spec, ours, theirs.detach(), match


def cell_weights(teacher: Tensor, match: HeadMatches) -> Tensor:
    """``(B, A, H, W)``: 1 on matched cells; else the objectness in the teacher's ``(B, A, H, W, 5 + C)``."""
    weight = teacher[..., 4].sigmoid()
    weight[match.image, match.anchor, match.row, match.col] = 1
    return weight


def cells_of(mask: Tensor) -> HeadMatches:
    """The True cells of a ``(B, A, H, W)`` mask, to pick and decode by; their ``box``, ``label``, ``target`` are 0."""
    image, anchor, row, col = mask.nonzero(as_tuple=True)
    none = torch.zeros_like(image)
    return HeadMatches(image, anchor, row, col, torch.zeros(len(image), 4, device=mask.device), none, none)


def class_scores(rows: Tensor, spec: HeadSpec) -> Tensor:
    """Class probabilities ``(..., C)`` of logits ``(..., 5 + C)``."""
    return rows[..., 5:].softmax(dim=-1) if spec.softmax else rows[..., 5:].sigmoid()
