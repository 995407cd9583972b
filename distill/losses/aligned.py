"""Distillation along the lineage: the student's channels against the same channels of the network it was cut from.

The aim is that of pruning by reconstruction (He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural
Networks, ICCV 2017; Luo, Wu, Lin: ThiNet, ICCV 2017): what is left of a layer is to say what it said
before. They solve for it layer by layer; here it is a term of the student's training. The distance is PKD's (Cao et
al., NeurIPS 2022), because sparsity training has changed the channels' magnitudes, or the squared one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.losses.maps import correlation, paired, unexplained
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


def aligned(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    *,
    pairs: Sequence[FeaturePair],
    distance: str = "pearson",
) -> dict[str, Tensor]:
    """How far the student's channel k has moved from the ancestor's channel ``kept[k]``. Nothing adapts them.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        pairs: from `pairs_on_lineage`.
        distance: "pearson": 1 - r per channel over the batch's cells, averaged over channels; blind to a channel's
            magnitude and offset. "l2": mean squared difference over the variance of the ancestor's kept channels.

    Returns:
        Scalar ``aligned``, the mean over pairs, without unit; 0 where every channel still says the same, 1 where a
        student is constant.
    """
    terms = []
    for pair, (ours, theirs) in zip(pairs, paired(student, teacher, pairs)):
        if pair.kept is not None:
            theirs = theirs[:, list(pair.kept)]
        terms.append(unexplained(ours, theirs) if distance == "l2" else 1 - correlation(ours, theirs).mean())
    return {"aligned": torch.stack(terms).mean()}
