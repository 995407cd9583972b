"""Attention transfer (Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, equation 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distill.losses.maps import paired
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


def attention(
    student: Outputs, teacher: Outputs, matches: Matches, *, pairs: Sequence[FeaturePair]
) -> dict[str, Tensor]:
    """Whether the two networks are active at the same places.

    The attention map of features F is ``Q = sum_c F_c^2``, as a vector over the cells. A picture pays
    ``|Q_s / |Q_s| - Q_t / |Q_t||^2``; the mean is over pictures and pairs. It is the square of the paper's distance,
    which has no gradient where the maps agree. Numbers of channels may differ.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.

    Returns:
        Scalar ``attention`` from 0 (the same map up to a factor) to 2 (nowhere active together).
    """
    terms = [(_map(ours) - _map(theirs)).square().sum(dim=1).mean() for ours, theirs in paired(student, teacher, pairs)]
    return {"attention": torch.stack(terms).mean()}


def _map(features: Tensor) -> Tensor:
    """``(B, C, H, W)`` to unit vectors ``(B, H * W)``."""
    return functional.normalize(features.square().sum(dim=1).flatten(1), dim=1)
