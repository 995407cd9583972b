"""Pearson distillation (Cao, Zhang, Gao, Cheng, Cheng, Zhu: PKD, NeurIPS 2022: features compared by correlation)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.losses.maps import correlation, paired
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


def pkd(
    student: Outputs, teacher: Outputs, matches: Matches, *, pairs: Sequence[FeaturePair], adapter: nn.Module
) -> dict[str, Tensor]:
    """Whether each channel follows the teacher's, whatever their magnitudes.

    With every channel brought to mean 0 and variance 1 over the batch's cells, half the mean squared difference is
    ``1 - r``, r being Pearson's correlation. The mean is over channels and pairs.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        adapter: `adapters.projections_where_needed`; the paper's necks have equally many channels.

    Returns:
        Scalar ``pkd`` from 0 (every channel follows) over 1 (unrelated) to 2 (opposed).
    """
    maps = zip(paired(student, teacher, pairs), adapter.children())
    return {"pkd": torch.stack([1 - correlation(project(s), t).mean() for (s, t), project in maps]).mean()}
