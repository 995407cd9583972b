"""Objectness-scaled distillation with non-maximum suppression on the feature map (Mehta, Ozturk: Object Detection at
200 Frames Per Second, ECCV 2018 Workshops: "objectness scaled distillation" and "feature map-NMS")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import UserError
from distill.losses.cells import FAINT, cells_of, paired_heads
from distill.losses.hinton import binary_divergence, softmax_divergence
from models.heads import HeadReader
from models.spec import Matches, Outputs


def scaled(student: Outputs, teacher: Outputs, matches: Matches, *, window: int = 5) -> dict[str, Tensor]:
    """Follow the teacher where it is sure of an object, once per object.

    o_t is the teacher's certainty of an object (its objectness), set to 0 where a cell nearby says the same class with
    a higher one (FM-NMS), and below 0.001. With sums over all cells and anchors:

    - ``scaled_obj``: mean of ``(o_s - o_t)^2`` on the cells that are left, weighted by o_t, and with weight 1 where an
      object is matched. The paper's sum over all cells is mostly background;
    - ``scaled_cls``: mean, weighted by o_t, of the KL divergence of the class scores (per class, summed over
      classes; the softmax's where the head decodes so);
    - ``scaled_box``: mean, weighted by o_t, of the squared distance of the boxes as encoded with the student's anchors
      (see `bounded`).

    A suppressed cell that is matched keeps the teacher's own objectness as its target: neighbours of an object's cell
    are positives here, and were not in the paper.

    Args:
        student, teacher: raw heads, each ``(B, A, H, W, K)``, or the teacher's decoded where it is of another family
            (`models.heads.DecodedSpec`); no gradient reaches the teacher.
        window: K, odd: the teacher's detections compete within K x K cells; 1 switches FM-NMS off between cells.

    Returns:
        Scalars ``scaled_obj``, ``scaled_cls`` (nats), ``scaled_box`` (squared cells and logarithms).

    Raises:
        UserError: `window` is not odd.
    """
    check_window(window)
    sums: dict[str, list[Tensor]] = {"scaled_obj": [], "scaled_cls": [], "scaled_box": []}
    weights, certain = [], []
    for spec, their_spec, ours, theirs, match in paired_heads(student, teacher, matches):
        sure = strongest_nearby(theirs, their_spec, window)
        weight = sure.clone()
        weight[match.image, match.anchor, match.row, match.col] = 1
        error = (spec.certainty(ours) - their_spec.certainty(theirs)).square()
        sums["scaled_obj"].append((weight * error).sum())
        weights.append(weight.sum())
        places = cells_of(sure > 0)
        mine, taught, certainty = places.pick(ours), places.pick(theirs), places.pick(sure)
        sums["scaled_cls"].append((certainty * _class_divergence(mine, taught, spec, their_spec)).sum())
        boxes, other = (
            spec.encode(its.finite_boxes_at(rows, places), places) for rows, its in ((mine, spec), (taught, their_spec))
        )
        sums["scaled_box"].append((certainty * (boxes - other).square().sum(dim=1)).sum())
        certain.append(sure.sum())
    by_weight, by_certainty = (matches.normaliser(torch.stack(each).sum()) for each in (weights, certain))
    return {
        name: torch.stack(each).sum() / (by_weight if name == "scaled_obj" else by_certainty)
        for name, each in sums.items()
    }


def check_window(window: int) -> None:
    """Refuse a window that has no middle cell (UserError)."""
    if window < 1 or window % 2 == 0:
        raise UserError(f"the FM-NMS window {window} is not odd", todo="--kd-scaled-window 5")


def strongest_nearby(teacher: Tensor, spec: HeadReader, window: int) -> Tensor:
    """FM-NMS: how certain logits ``(B, A, H, W, K)`` are of an object, ``(B, A, H, W)``.

    It is 0 where another anchor or cell within `window` x `window` says the same class (its most probable one) with a
    higher certainty, and where it is faint.
    """
    certainty, label = spec.certainty(teacher), spec.class_logits(teacher).argmax(dim=-1)
    pictures, _, rows, cols = label.shape
    per_class = certainty.new_zeros(pictures, spec.classes, rows, cols)
    per_class = per_class.scatter_reduce(1, label, certainty, "amax")
    nearby = functional.max_pool2d(per_class, window, stride=1, padding=window // 2)
    stays = (certainty >= nearby.gather(1, label)) & (certainty >= FAINT)
    return certainty * stays


def _class_divergence(student: Tensor, teacher: Tensor, spec: HeadReader, their_spec: HeadReader) -> Tensor:
    """``(M, K)`` logits to ``(M,)``."""
    divergence = softmax_divergence if spec.softmax else binary_divergence
    return divergence(spec.class_logits(student), their_spec.class_logits(teacher), 1.0)
