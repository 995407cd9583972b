"""Task-aligned assignment: an object goes to the places that detect it best already, score and overlap together.

Feng, Zhong, Gao, Scott, Huang: TOOD: Task-aligned One-stage Object Detection, ICCV 2021, with the numbers that YOLOv8
and its successors use. Made once per batch with the student's heads and shared by the detection loss and KD terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.heads.spec import HeadSpec, at_least_fp32
from models.spec import HeadMatches

# The exponents of score and overlap in the metric.
_ALPHA, _BETA = 0.5, 6.0


@torch.no_grad()
def assign(
    specs: Sequence[HeadSpec], heads: Sequence[Tensor], targets: Tensor, *, topk: int = 10
) -> tuple[HeadMatches, ...]:
    """Match every object to the `topk` places of all heads that have the highest metric for it.

    *Candidates*: places whose middle lies inside the object's box. A side below the smallest stride counts as two of
    them, or a small object could have no place in it (the rule for small targets of YOLO26).

    *Metric*: ``score^.5 * IoU^6``, with the place's probability of the object's class and the IoU of its box. A place
    whose box does not touch the object is not matched.

    *Conflicts*: a place that several objects claim goes to the one of the highest IoU, then to the earlier row of
    `targets`; the others are not given another place instead.

    *Weight*: what the place's class probability is to become, and how much its box counts: the metric, divided by the
    object's highest and multiplied by its highest IoU, both over the places it got (TOOD, section 3.2).

    Args:
        specs: one per head.
        heads: one ``(B, A, H, W, K)`` tensor of logits per spec.
        targets: ``(T, 6)`` picture in the batch, class, cx, cy, w, h in pixels of the network input.
        topk: places an object may claim; 1 for heads that are to need no NMS.

    Returns:
        Per head the matches with their weights, ordered by picture, place in the cell, row, column.
    """
    with torch.autocast(heads[0].device.type, enabled=False):
        heads = [at_least_fp32(head) for head in heads]
        boxes = torch.cat([spec.boxes(head).flatten(1, 3) for spec, head in zip(specs, heads)], 1)  # (B, P, 4)
        scores = torch.cat([spec.class_logits(head).flatten(1, 3) for spec, head in zip(specs, heads)], 1)  # (B, P, C)
        middles = torch.cat([_middles(spec, head) for spec, head in zip(specs, heads)])  # (P, 2)
        targets = targets.to(boxes)

        target, place = _inside(middles, specs, targets).nonzero(as_tuple=True)
        image, label = targets[target, :2].long().unbind(1)
        overlap = _iou(boxes[image, place], targets[target, 2:])
        metrics = boxes.new_zeros(len(targets), len(middles))  # (T, P)
        metrics[target, place] = scores[image, place, label].sigmoid() ** _ALPHA * overlap**_BETA

        best, chosen = metrics.topk(min(topk, len(middles)), dim=1)
        target, rank = (best > 0).nonzero(as_tuple=True)
        place, image = chosen[target, rank], targets[target, 0].long()
        overlap = _iou(boxes[image, place], targets[target, 2:])
        keep = _highest(image * len(middles) + place, overlap)

        image, target, place, overlap = (each[keep] for each in (image, target, place, overlap))
        metric = metrics[target, place]
        weight = metric / _most(metric, target, len(targets)) * _most(overlap, target, len(targets))
        return _by_head(heads, image, place, target, targets, weight)


def _middles(spec: HeadSpec, head: Tensor) -> Tensor:
    """The middles of a head's places in pixels ``(A * H * W, 2)``: x, y."""
    places, rows, cols = head.shape[1:4]
    row, col = torch.meshgrid(
        torch.arange(rows, device=head.device), torch.arange(cols, device=head.device), indexing="ij"
    )
    middle = (torch.stack((col, row), -1).to(head.dtype) + 0.5) * spec.stride
    return middle.expand(places, -1, -1, -1).reshape(-1, 2)


def _inside(middles: Tensor, specs: Sequence[HeadSpec], targets: Tensor) -> Tensor:
    """``(T, P)``: which of the `middles` ``(P, 2)`` lie inside which box, small ones widened."""
    finest = min(spec.stride for spec in specs)
    size = targets[:, 4:6]
    half = torch.where(size < finest, torch.full_like(size, 2 * finest), size) / 2
    off = (middles - targets[:, None, 2:4]).abs()  # (T, P, 2)
    return (off < half[:, None]).all(dim=-1)


def _iou(boxes: Tensor, truth: Tensor) -> Tensor:
    """IoU ``(R,)`` of boxes ``(R, 4)``, cx, cy, w, h, with those of objects; 0 of a box without area."""
    size = boxes[:, 2:].clamp(min=0)
    low = torch.maximum(boxes[:, :2] - size / 2, truth[:, :2] - truth[:, 2:] / 2)
    high = torch.minimum(boxes[:, :2] + size / 2, truth[:, :2] + truth[:, 2:] / 2)
    common = (high - low).clamp(min=0).prod(dim=1)
    return common / (size.prod(dim=1) + truth[:, 2:].prod(dim=1) - common)


def _highest(place: Tensor, overlap: Tensor) -> Tensor:
    """Of the ``(R,)`` claims, the indices of the one of the highest overlap, then the first, of each `place`, in order
    of place."""
    order = torch.argsort(overlap, descending=True, stable=True)
    order = order[torch.argsort(place[order], stable=True)]
    place = place[order]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[1:] != place[:-1]
    return order[first]


def _most(values: Tensor, target: Tensor, count: int) -> Tensor:
    """For every claim ``(R,)`` the highest of the `values` of its object's claims."""
    return values.new_zeros(count).scatter_reduce(0, target, values, "amax")[target]


def _by_head(
    heads: Sequence[Tensor], image: Tensor, place: Tensor, target: Tensor, targets: Tensor, weight: Tensor
) -> tuple[HeadMatches, ...]:
    found, start = [], 0
    for head in heads:
        count, rows, cols = head.shape[1:4]
        own = (place >= start) & (place < start + count * rows * cols)
        cell, object_ = place[own] - start, target[own]
        found.append(
            HeadMatches(
                image=image[own],
                anchor=cell // (rows * cols),
                row=cell // cols % rows,
                col=cell % cols,
                box=targets[object_, 2:6],
                label=targets[object_, 1].long(),
                target=object_,
                weight=weight[own],
            )
        )
        start += count * rows * cols
    return tuple(found)
