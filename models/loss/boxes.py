"""How far boxes are from the truth: what `models.options.BOX_LOSSES` names, for the losses of every family."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

_LOSSES = {"ciou": complete_box_iou_loss, "giou": generalized_box_iou_loss}


def box_losses(name: str, boxes: Tensor, truth: Tensor) -> Tensor:
    """``(M,)``: 1 - CIoU (Zheng et al., AAAI 2020) or 1 - GIoU (Rezatofighi et al., CVPR 2019) of boxes ``(M, 4)``,
    cx, cy, w, h, whose sizes are above 0."""
    return _LOSSES[name](_corners(boxes), _corners(truth))


def _corners(boxes: Tensor) -> Tensor:
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((centre - half, centre + half), dim=1)
