"""Hints (Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets, ICLR 2015, equation 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.losses.maps import paired, unexplained
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


def fitnets(
    student: Outputs, teacher: Outputs, matches: Matches, *, pairs: Sequence[FeaturePair], adapter: nn.Module
) -> dict[str, Tensor]:
    """How badly a linear map of the student's features predicts the teacher's.

    With r the regressor, a 1x1 convolution: the mean of ``|r(F_s) - F_t|^2`` over the variance of F_t, averaged over
    pairs. The paper's 1/2 ||.||^2 is its sum.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        adapter: `adapters.projections`.

    Returns:
        Scalar ``fitnets``, without unit; 1 is what a constant student pays.
    """
    maps = zip(paired(student, teacher, pairs), adapter.children())
    return {"fitnets": torch.stack([unexplained(regress(ours), theirs) for (ours, theirs), regress in maps]).mean()}
