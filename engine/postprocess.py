"""From decoded heads to the boxes a person sees: confidence filter, non-maximum suppression, original pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from data.batch import Letterbox
from models.heads import HeadSpec

# NMS costs time with the square of its candidates. An untrained network puts nearly every cell of every class above
# a confidence of .001 (2 million candidates at 640 px and 80 classes), of which 300 boxes are kept: only the most
# confident ones enter. Trained networks stay far below the cap, so it does not change their scores.
MAX_CANDIDATES = 30_000
FEW = 1000
"""So many boxes are suppressed in one call, classes moved apart by an offset; more, class by class (as torchvision has
it on a CPU, with less around each class)."""


def postprocess(
    decoded: Tensor | Sequence[Tensor],
    spec: HeadSpec,
    conf: float = 0.001,
    iou: float = 0.6,
    max_boxes: int = 300,
    multi_label: bool = True,
    class_agnostic: bool = False,
) -> list[Tensor]:
    """Confidence filter and non-maximum suppression, one picture at a time.

    Heads that give each object one place (`spec.one_to_one`) need no suppression: the most confident boxes stay.

    Args:
        decoded: ``(B, N, 5 + C)`` from `Network.decode`: cx, cy, w, h in pixels, objectness, class probabilities; or
            what else the family of `spec` decodes to. Or such rows picture by picture, as `Network.decode_above` gives
            those that may pass `conf`.
        spec: one of the heads that were decoded (`models.heads.spec_read`), all of which are read alike.
        conf: least confidence (objectness x class probability) a box needs.
        iou: boxes of one class overlapping a more confident one by more than this are dropped.
        max_boxes: most confident boxes kept per picture.
        multi_label: a box may stand for every class above `conf` (right for mAP), not only for its best one.
        class_agnostic: boxes of different classes suppress each other too.

    Returns:
        Per picture ``(n, 6)``: x1, y1, x2, y2 in pixels of the network input, confidence, class; most confident first.
    """
    overlap = None if spec.one_to_one else iou
    return [
        _one_picture(*spec.candidates(rows, conf), conf, overlap, max_boxes, multi_label, class_agnostic)
        for rows in (each.detach().float() for each in decoded)
    ]


def _one_picture(
    rows: Tensor,
    scores: Tensor,
    conf: float,
    iou: float | None,
    max_boxes: int,
    multi_label: bool,
    class_agnostic: bool,
) -> Tensor:
    if multi_label:
        row, label = (scores > conf).nonzero(as_tuple=True)
        confidence = scores[row, label]
    else:
        confidence, label = scores.max(1)
        row = (confidence > conf).nonzero(as_tuple=True)[0]
        confidence, label = confidence[row], label[row]
    confidence, order = confidence.sort(descending=True, stable=True)
    confidence, order = confidence[:MAX_CANDIDATES], order[:MAX_CANDIDATES]
    row, label = row[order], label[order]
    centre, half = rows[row, :2], rows[row, 2:] / 2
    boxes = torch.cat((centre - half, centre + half), 1)
    sound = boxes.isfinite().all(1)  # exp() of a diverging network's logits overflows
    if not multi_label:  # a file that chooses boxes itself may put one out for several classes
        sound &= label == label[_first_of_equal(boxes)]
    boxes, confidence, label = boxes[sound], confidence[sound], label[sound]
    found = torch.cat((boxes, confidence[:, None], label[:, None].float()), 1)
    if iou is None:
        return found[:max_boxes]
    return found[_first_kept(boxes, confidence, torch.zeros_like(label) if class_agnostic else label, iou, max_boxes)]


def _first_of_equal(boxes: Tensor) -> Tensor:
    """``(n,)``: for each of ``(n, 4)`` the place of the first that is equal."""
    places = torch.arange(len(boxes), device=boxes.device)
    _, group = boxes.unique(dim=0, return_inverse=True)
    return places.new_full((len(boxes),), len(boxes)).scatter_reduce(0, group, places, "amin")[group]


def _first_kept(boxes: Tensor, confidence: Tensor, group: Tensor, iou: float, count: int) -> Tensor:
    """The first `count` boxes NMS keeps of candidates sorted by confidence.

    Suppression only ever runs from the more to the less confident, so what it keeps of the first k candidates is the
    beginning of what it keeps of all: growing k until `count` are kept is exact, and quick on untrained networks.
    """
    k = 2 * count
    while True:
        keep = _kept(boxes[:k], confidence[:k], group[:k], iou)
        if len(keep) >= count or k >= len(boxes):
            return keep[:count]
        # As many as it takes if the share that is kept stays; at least twice, at most four times as many.
        k = min(max(math.ceil(1.5 * k * count / max(1, len(keep))), 2 * k), 4 * k)


def _kept(boxes: Tensor, confidence: Tensor, group: Tensor, iou: float) -> Tensor:
    """The places NMS keeps of candidates sorted by confidence, each group for itself."""
    if len(boxes) <= FEW or boxes.device.type != "cpu":
        kept: Tensor = batched_nms(boxes, confidence, group, iou)
        return kept
    order = group.argsort(stable=True)
    counts = group.bincount()
    parts = zip(*(each.split(counts.tolist()) for each in (order, boxes[order], confidence[order])), strict=True)
    found = [places[nms(mine, sure, iou)] if len(places) > 1 else places for places, mine, sure in parts if len(places)]
    return torch.cat(found).sort()[0]


def to_original(boxes: Tensor, letterbox: Letterbox) -> Tensor:
    """Boxes back in pixels of the original picture, clipped to it.

    Args:
        boxes: ``(n, 4 + K)``; the first four columns are x1, y1, x2, y2 in pixels of the network input.
        letterbox: how the picture was fitted into the network input.

    Returns:
        A new tensor of the same shape; the K further columns are unchanged.
    """
    height, width = letterbox.original
    out = boxes.clone()
    for column, pad, scale, limit in (
        (0, letterbox.pad[0], letterbox.scale[0], width),
        (1, letterbox.pad[1], letterbox.scale[1], height),
        (2, letterbox.pad[0], letterbox.scale[0], width),
        (3, letterbox.pad[1], letterbox.scale[1], height),
    ):
        out[:, column] = ((boxes[:, column] - pad) / scale).clamp(0, limit)
    return out
