"""Masked generative distillation (Yang, Li, Shao, Shi, Yuan, Yuan: MGD, ECCV 2022: "generation with masked
features")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.adapters import FitConv, where_needed
from distill.losses.maps import paired, unexplained
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


class Generator(nn.Module):
    """What rebuilds the teacher's map from the student's, masked in between.

    Attributes:
        align: the student's channels to the teacher's (1x1 convolution, where they differ).
        rebuild: G: 3x3 convolution, ReLU, 3x3 convolution.
    """

    def __init__(self, pair: FeaturePair):
        super().__init__()
        width = pair.teacher_channels
        self.align = where_needed(pair)
        first, second = (FitConv(width, width, 3, padding=1) for _ in range(2))
        self.rebuild = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, features: Tensor, keep: Tensor) -> Tensor:
        """``(B, C_s, H, W)`` and a mask ``(1, 1, H, W)`` of cells that stay to ``(B, C_t, H, W)``."""
        rebuilt: Tensor = self.rebuild(self.align(features) * keep)
        return rebuilt


def generators(pairs: Sequence[FeaturePair]) -> nn.ModuleList:
    """A `Generator` per pair."""
    return nn.ModuleList(Generator(pair) for pair in pairs)


def mgd(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    *,
    pairs: Sequence[FeaturePair],
    adapter: nn.Module,
    masked: float = 0.65,
) -> dict[str, Tensor]:
    """Whether the teacher's whole map can be rebuilt from a random part of the student's.

    The mean of ``|G(f(F_s) * M) - F_t|^2`` over the variance of F_t, averaged over pairs. M drops each cell with
    probability `masked`; it is drawn from torch's generator, once per call and pair, for all pictures of the batch.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        adapter: `generators`.
        masked: lambda, 0 to below 1 (the paper: 0.65 for one-stage detectors).

    Returns:
        Scalar ``mgd``, without unit; 1 is what a constant student pays.
    """
    terms = []
    for (ours, theirs), generate in zip(paired(student, teacher, pairs), adapter.children()):
        keep = torch.rand(1, 1, *ours.shape[2:], device=ours.device) >= masked
        terms.append(unexplained(generate(ours, keep.to(ours.dtype)), theirs))
    return {"mgd": torch.stack(terms).mean()}
