"""Localisation distillation weighted by the gap between the scores (Yang, Zhou, Wang, Li, Chen, Yao, Yang: Bridging
Cross-task Protocol Inconsistency for Distillation in Dense Object Detection, ICCV 2023: "IoU-based localization
distillation"), for heads that predict a box and no distribution of its sides."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss

from distill.losses.cells import FAINT, cell_weights, cells_of, paired_heads
from models.spec import Matches, Outputs


def gap(student: Outputs, teacher: Outputs, matches: Matches) -> dict[str, Tensor]:
    """The overlap of the student's box with the teacher's, where their scores differ.

    With p_j the probability of an object of class j (sigma(objectness) * P(class j) of anchored heads), a cell pays
    ``max_j |p_t,j - p_s,j| * (1 - GIoU(b_s, b_t))``; the factor has no gradient. The mean is weighted by the teacher's
    certainty (its objectness; 1 where an object is matched, 0 below 0.001), where the paper, whose scores have no
    objectness, sums over all cells: a student's false alarm on the background would count and pull its box to nothing.

    Args:
        student, teacher: raw heads, each ``(B, A, H, W, K)``; no gradient reaches the teacher.

    Returns:
        ``gap``, from 0 to 2 without unit, and ``metric/score_gap``: the weighted mean of the factor.
    """
    losses, gaps, weights = [], [], []
    for spec, their_spec, ours, theirs, match in paired_heads(student, teacher, matches):
        weight = cell_weights(theirs, their_spec, match)
        places = cells_of(weight >= FAINT)
        weight, mine, taught = places.pick(weight), places.pick(ours), places.pick(theirs)
        apart = (spec.scores(mine.detach()) - their_spec.scores(taught)).abs().amax(dim=1)
        boxes, other = (
            box_convert(its.finite_boxes_at(rows, places), "cxcywh", "xyxy")
            for rows, its in ((mine, spec), (taught, their_spec))
        )
        losses.append((weight * apart * generalized_box_iou_loss(boxes, other)).sum())
        gaps.append((weight * apart).sum())
        weights.append(weight.sum())
    total = matches.normaliser(torch.stack(weights).sum())
    return {"gap": torch.stack(losses).sum() / total, "metric/score_gap": torch.stack(gaps).sum() / total}
