"""Features behind a small projection, weighted by the teacher's confidence: what the most used YOLO trainer offers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.adapters import FitConv
from distill.losses.maps import paired, variance
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


def projected(
    student: Outputs, teacher: Outputs, matches: Matches, *, pairs: Sequence[FeaturePair], adapter: nn.Module
) -> dict[str, Tensor]:
    """How badly the student's neck, behind a small projection, predicts the teacher's where that sees an object.

    The mean of ``|f(F_s) - F_t|^2`` over channels and cells, weighted by how certain the teacher is of an object in
    each cell (at its best place), over the variance of F_t. f is two 1x1 convolutions with a ReLU between.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        pairs: each feeding a head.
        adapter: `projectors`.

    Returns:
        Scalar ``projected``, without unit; 1 is what a constant student pays where all cells count alike.
    """
    sums, counts = [], []
    for pair, (ours, theirs), project in zip(pairs, paired(student, teacher, pairs), adapter.children()):
        assert pair.head is not None, pair
        head, spec = teacher.heads[pair.head].detach(), teacher.specs[pair.head]
        certainty = spec.certainty(head).amax(dim=1).to(ours.dtype)  # (B, H, W)
        error = (project(ours) - theirs).square().mean(dim=1)
        sums.append((certainty * error).sum() / variance(theirs))
        counts.append(certainty.sum())
    return {"projected": torch.stack(sums).sum() / matches.normaliser(torch.stack(counts).sum())}


def projectors(pairs: Sequence[FeaturePair]) -> nn.ModuleList:
    """Per pair two 1x1 convolutions with a ReLU between, from the student's number of channels to the teacher's."""
    return nn.ModuleList(
        nn.Sequential(
            FitConv(pair.student_channels, pair.teacher_channels, 1),
            nn.ReLU(),
            FitConv(pair.teacher_channels, pair.teacher_channels, 1),
        )
        for pair in pairs
    )
