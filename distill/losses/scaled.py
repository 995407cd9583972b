"""Objectness-scaled distillation with non-maximum suppression on the feature map (Mehta, Ozturk: Object Detection at
200 Frames Per Second, ECCV 2018 Workshops: "objectness scaled distillation" and "feature map-NMS")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import UserError
from distill.losses.cells import FAINT, cells_of, paired_heads
from distill.losses.hinton import binary_divergence, softmax_divergence
from models.heads import encode_boxes
from models.loss import matched_boxes
from models.spec import HeadSpec, Matches, Outputs


def scaled(student: Outputs, teacher: Outputs, matches: Matches, *, window: int = 5) -> dict[str, Tensor]:
    """Follow the teacher where it is sure of an object, once per object.

    o_t is the teacher's objectness, set to 0 where a cell nearby says the same class with a higher one (FM-NMS), and
    below 0.001. With sums over all cells and anchors:

    - ``scaled_obj``: mean of ``(o_s - o_t)^2`` on the cells that are left, weighted by o_t, and with weight 1 where an
      object is matched. The paper's sum over all cells is mostly background;
    - ``scaled_cls``: mean, weighted by o_t, of the KL divergence of the class scores (per class, summed over
      classes; the softmax's where the head decodes so);
    - ``scaled_box``: mean, weighted by o_t, of the squared distance of the boxes as encoded with the student's anchors
      (see `bounded`).

    A suppressed cell that is matched keeps the teacher's own objectness as its target: neighbours of an object's cell
    are positives here, and were not in the paper.

    Args:
        student, teacher: raw heads, each ``(B, A, H, W, 5 + C)``; no gradient reaches the teacher.
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
        sure = strongest_nearby(theirs, window)
        weight = sure.clone()
        weight[match.image, match.anchor, match.row, match.col] = 1
        error = (ours[..., 4].sigmoid() - theirs[..., 4].sigmoid()).square()
        sums["scaled_obj"].append((weight * error).sum())
        weights.append(weight.sum())
        places = cells_of(sure > 0)
        mine, taught, certainty = places.pick(ours), places.pick(theirs), places.pick(sure)
        sums["scaled_cls"].append((certainty * _class_divergence(mine, taught, spec)).sum())
        boxes, other = (
            encode_boxes(matched_boxes(rows, its, places), places, spec)
            for rows, its in ((mine, spec), (taught, their_spec))
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


def strongest_nearby(teacher: Tensor, window: int) -> Tensor:
    """FM-NMS: the objectness ``(B, A, H, W)`` of logits ``(B, A, H, W, 5 + C)``.

    It is 0 where another anchor or cell within `window` x `window` says the same class (its most probable one) with a
    higher objectness, and where it is faint.
    """
    objectness, label = teacher[..., 4].sigmoid(), teacher[..., 5:].argmax(dim=-1)
    pictures, _, rows, cols = label.shape
    per_class = objectness.new_zeros(pictures, teacher.shape[-1] - 5, rows, cols)
    per_class = per_class.scatter_reduce(1, label, objectness, "amax")
    nearby = functional.max_pool2d(per_class, window, stride=1, padding=window // 2)
    stays = (objectness >= nearby.gather(1, label)) & (objectness >= FAINT)
    return objectness * stays


def _class_divergence(student: Tensor, teacher: Tensor, spec: HeadSpec) -> Tensor:
    """``(M, 5 + C)`` logits to ``(M,)``."""
    divergence = softmax_divergence if spec.softmax else binary_divergence
    return divergence(student[:, 5:], teacher[:, 5:], 1.0)
