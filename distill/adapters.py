"""The modules that feature terms train between the student's channels and the teacher's.

They belong to the objective, not to the student: optimised and resumed with it, absent from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from distill.pairs import FeaturePair


class FitConv(nn.Conv2d):
    """A convolution that computes in the number format of its input: KD stays FP32 whatever Apex makes of weights."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, H, W)``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.conv2d(x, self.weight.to(x.dtype), bias, self.stride, self.padding)


def projection(pair: FeaturePair, size: int = 1) -> nn.Module:
    """A convolution of `size` x `size` from the student's number of channels to the teacher's."""
    return FitConv(pair.student_channels, pair.teacher_channels, size, padding=size // 2)


def projections(pairs: Sequence[FeaturePair]) -> nn.ModuleList:
    """A 1x1 convolution per pair."""
    return nn.ModuleList(projection(pair) for pair in pairs)


def projections_where_needed(pairs: Sequence[FeaturePair]) -> nn.ModuleList:
    """A 1x1 convolution per pair whose numbers of channels differ, nothing for the others."""
    return nn.ModuleList(where_needed(pair) for pair in pairs)


def where_needed(pair: FeaturePair) -> nn.Module:
    """A 1x1 convolution if the pair's numbers of channels differ, else the identity."""
    return nn.Identity() if pair.student_channels == pair.teacher_channels else projection(pair)
