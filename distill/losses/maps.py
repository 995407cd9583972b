"""What the KD terms on feature maps share: reading paired maps, and distances whose size says the same everywhere.

The papers sum squared differences over a map and hide its size, and how loud the teacher's features are, in weights of
1e-7 to 1e-3. Here every term is a mean, and squared differences are divided by the variance of the teacher's map: 1 is
what a constant student would pay, on every data set, layer and picture size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from distill.pairs import FeaturePair
from models.heads import at_least_fp32
from models.spec import Matches, Outputs

# No variance of the teacher is taken to be smaller: a map that is constant teaches nothing and may not divide by 0.
_SMALLEST_VARIANCE = 1e-8
# No variance of the student is taken to be a smaller share of the teacher's: the gradient on a channel that is nearly
# silent (pruning leaves some) stays bounded.
_SMALLEST_SHARE = 0.01


def paired(student: Outputs, teacher: Outputs, pairs: Sequence[FeaturePair]) -> Iterator[tuple[Tensor, Tensor]]:
    """Per pair the student's ``(B, C_s, H, W)`` and the teacher's ``(B, C_t, H, W)`` map, the latter detached."""
    for pair in pairs:
        ours, theirs = student.features[pair.student_layer], teacher.features[pair.teacher_layer]
        assert ours.shape[2:] == theirs.shape[2:], (pair, ours.shape, theirs.shape)
        yield at_least_fp32(ours), at_least_fp32(theirs.detach())


def variance(teacher: Tensor) -> Tensor:
    """Scalar: the variance of each channel of ``(B, C, H, W)`` over pictures and cells, averaged over channels."""
    return teacher.var(dim=(0, 2, 3), correction=0).mean().clamp(min=_SMALLEST_VARIANCE)


def unexplained(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar: the mean squared difference of two ``(B, C, H, W)`` maps over `variance` of the teacher's (1 - R^2)."""
    return (student - teacher).square().mean() / variance(teacher)


def correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """``(C,)``: Pearson's r of each channel of two ``(B, C, H, W)`` maps over pictures and cells; 0 for constants.

    A student's channel of less than a tenth of the teacher's standard deviation counts as having that tenth.
    """
    ours = student - student.mean(dim=(0, 2, 3), keepdim=True)
    theirs = teacher - teacher.mean(dim=(0, 2, 3), keepdim=True)
    covariance = (ours * theirs).mean(dim=(0, 2, 3))
    spread = theirs.square().mean(dim=(0, 2, 3)).clamp(min=_SMALLEST_VARIANCE)
    own = torch.maximum(ours.square().mean(dim=(0, 2, 3)), _SMALLEST_SHARE * spread)
    return covariance / (own * spread).sqrt()


def ground_truth(matches: Matches) -> tuple[Tensor, Tensor]:
    """The batch's boxes that answer for a cell on any head: their pictures ``(T,)``, and cx, cy, w, h ``(T, 4)``."""
    target = torch.cat([match.target for match in matches.heads])
    image = torch.cat([match.image for match in matches.heads])
    box = torch.cat([match.box for match in matches.heads])
    order = target.argsort(stable=True)
    target = target[order]
    first = torch.ones_like(target, dtype=torch.bool)
    first[1:] = target[1:] != target[:-1]
    return image[order[first]], box[order[first]]
