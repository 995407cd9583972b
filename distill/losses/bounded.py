"""Teacher-bounded box regression (Chen, Choi, Yu, Han, Chandraker: Learning Efficient Object Detection Models with
Knowledge Distillation, NeurIPS 2017, equations 4 and 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss

from distill.losses.cells import paired_heads
from models.spec import Matches, Outputs


def bounded(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    *,
    margin: float = 0.0,
    distance: str = "l2",
    target: str = "truth",
) -> dict[str, Tensor]:
    """The student's distance to the ground truth, on the boxes where the teacher is nearer to it, and 0 elsewhere.

    Each network's boxes are decoded by its own anchors and decode, then re-encoded, like the ground truth, relative to
    the student's anchor a and cell: R = (cx / stride - column, cy / stride - row, ln(w / a_w), ln(h / a_h)); without
    anchors the distances of the four sides, in strides. With
    d_s = |R_s - y|^2 and d_t = |R_t - y|^2 a matched box pays d_s where d_s + m > d_t. The mean is over all matched
    boxes, gated or not, by the weights of the matches where they have some.

    Args:
        student, teacher: raw heads, each ``(B, A, H, W, K)``, or the teacher's decoded where it is of another family
            (`models.heads.DecodedSpec`); no gradient reaches the teacher.
        margin: m; above 0, the student has to beat the teacher by that much.
        distance: "l2" as above, or "iou": 1 - GIoU of the boxes, for gate and loss.
        target: "truth"; or "teacher": on the same gate, the loss is the distance to the teacher's box.

    Returns:
        ``bounded``, and ``metric/gate_rate``: the share of matched boxes that pay; with m = 0 on these the teacher is
        nearer.
    """
    losses, gated = [], []
    for spec, their_spec, ours, theirs, match in paired_heads(student, teacher, matches):
        boxes = spec.finite_boxes_at(match.pick(ours), match)
        taught = their_spec.finite_boxes_at(match.pick(theirs), match)
        truth = match.box.to(boxes)
        if distance == "l2":
            boxes, taught, truth = (spec.encode(each, match) for each in (boxes, taught, truth))
            measure = _squared_distance
        else:
            boxes, taught, truth = (box_convert(each, "cxcywh", "xyxy") for each in (boxes, taught, truth))
            measure = generalized_box_iou_loss
        off = measure(boxes, truth)
        gate = off.detach() + margin > measure(taught, truth)
        loss = off if target == "truth" else measure(boxes, taught)
        counts = gate.to(loss) if match.weight is None else gate * match.weight
        losses.append(torch.where(gate, counts * loss, torch.zeros_like(loss)).sum())
        gated.append(counts.sum())
    count = matches.count
    return {"bounded": torch.stack(losses).sum() / count, "metric/gate_rate": torch.stack(gated).sum() / count}


def _squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """``(M, 4)`` and ``(M, 4)`` to ``(M,)``."""
    return (one - other).square().sum(dim=1)
