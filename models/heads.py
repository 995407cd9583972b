"""What a detection head means: reading it from a cfg, decoding logits to boxes, encoding boxes as a head says them.

Boxes are ``cx, cy, w, h`` in pixels of the network input. All arithmetic is at least FP32, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.cfg import Cfg, Section
from models.spec import HeadMatches, HeadSpec


def head_anchors(section: Section) -> list[tuple[float, float]]:
    """All anchors of a `[yolo]` or `[region]` section as written, the mask not applied."""
    values = section.floats("anchors")
    count = section.int("num", 1)
    if len(values) != 2 * count:
        raise section.error(f"anchors= has {len(values)} numbers, num={count} asks for {2 * count}", "anchors")
    if any(value <= 0 for value in values):
        raise section.error("anchors= has a size that is not above 0", "anchors")
    return list(zip(values[::2], values[1::2]))


def head_mask(section: Section) -> list[int]:
    """Which of the section's anchors belong to this head."""
    count = section.int("num", 1)
    mask = section.ints("mask") if "mask" in section.options else list(range(count))
    for number in mask:
        if not 0 <= number < count:
            raise section.error(f"mask={section.str('mask')} names anchor {number}, but num={count}", "mask")
    if not mask:
        raise section.error("mask= names no anchor", "mask")
    return mask


def set_head_anchors(cfg: Cfg, wanted: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Write each head's anchors down, in the unit of its section, so that no head changes another's; in place.

    Sections that share one list of anchors, and of which no two masks name the same, keep their layout. Where two
    masks name one anchor (yolov3-tiny: 3,4,5 and 1,2,3), the shared list is written anew: it holds the anchors of all
    heads, and each head masks its own.
    """
    heads = cfg.heads
    lists, masks = [head_anchors(head) for head in heads], [head_mask(head) for head in heads]
    named = [number for mask in masks for number in mask]
    shared = all(other == lists[0] for other in lists)
    if shared and len(set(named)) == len(named):
        lists = [lists[0]] * len(heads)  # Darknet's habit: one list in all heads, each with its own mask
    elif shared and all("mask" in head.facts.effect for head in heads):
        # Still one list: Darknet's training gives an object to the best anchor of the whole list.
        ends = [sum(map(len, masks[: place + 1])) for place in range(len(heads))]
        masks = [list(range(end - len(mask), end)) for end, mask in zip(ends, masks)]
        lists = [[(0.0, 0.0)] * len(named)] * len(heads)
    else:
        for place, mask in enumerate(masks):
            if len(set(mask)) < len(mask):
                masks[place], lists[place] = list(range(len(mask))), [(0.0, 0.0)] * len(mask)
    for pairs, mask, anchors in zip(lists, masks, wanted, strict=True):
        for number, anchor in zip(mask, anchors, strict=True):
            pairs[number] = anchor
    for head, pairs, mask in zip(heads, lists, masks):
        if mask != head_mask(head) or ("mask" in head.facts.effect and "mask" not in head.options):
            head.set("mask", mask)  # OpenCV refuses a [yolo] without one
            head.set("num", len(pairs))
        head.set("anchors", [value for pair in pairs for value in pair])


def head_spec(section: Section, stride: int) -> HeadSpec:
    """The `HeadSpec` of a `[yolo]` or `[region]` section whose cells cover `stride` pixels."""
    assert section.facts.head, section
    anchors, mask = head_anchors(section), head_mask(section)
    unit = section.facts.head.anchor_unit(stride)
    chosen = tuple((anchors[number][0] * unit, anchors[number][1] * unit) for number in mask)
    classes = section.int("classes", 20)
    if classes < 1:
        raise section.error(f"classes={classes} has to be at least 1", "classes")
    if section.int("coords", 4) != 4:
        raise section.error(f"coords={section.str('coords')} is not implemented", "coords", todo="only coords=4 is")
    return HeadSpec(
        chosen,
        stride,
        classes,
        scale_x_y=section.float("scale_x_y", 1.0),
        new_coords=bool(section.int("new_coords", 0)),
        softmax=bool(section.int("softmax", 0)),
    )


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half formats, which cannot tell neighbouring pixels apart, become FP32; FP32 and FP64 stay."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _decode(t: Tensor, col: Tensor, row: Tensor, anchors: Tensor, spec: HeadSpec) -> Tensor:
    s = spec.scale_x_y
    centre = torch.sigmoid(t[..., :2]) * s - (s - 1) / 2 + torch.stack((col, row), -1)
    size = (2 * torch.sigmoid(t[..., 2:4])) ** 2 if spec.new_coords else torch.exp(t[..., 2:4])
    return torch.cat((centre * spec.stride, size * anchors), -1)


def decode_head(logits: Tensor, spec: HeadSpec) -> Tensor:
    """Logits `(B, A, H, W, 5+C)` -> boxes in pixels, objectness and class probabilities, same shape.

    Darknet's decode: centre ``(sigma(t) s - (s - 1) / 2 + cell) * stride``; size ``exp(t) * anchor``, or
    ``(2 sigma(t))^2 * anchor`` with `new_coords`.
    """
    z = at_least_fp32(logits)
    rows = torch.arange(z.shape[2], device=z.device, dtype=z.dtype).view(1, 1, -1, 1)
    cols = torch.arange(z.shape[3], device=z.device, dtype=z.dtype).view(1, 1, 1, -1)
    anchors = z.new_tensor(spec.anchors).view(1, -1, 1, 1, 2)
    row, col = torch.broadcast_tensors(rows, cols)
    boxes = _decode(z[..., :4], col, row, anchors, spec)
    scores = z[..., 5:].softmax(-1) if spec.softmax else torch.sigmoid(z[..., 5:])
    return torch.cat((boxes, torch.sigmoid(z[..., 4:5]), scores), -1)


def decode_heads(heads: Sequence[Tensor], specs: Sequence[HeadSpec]) -> Tensor:
    """Logits of all heads -> `(B, N, 5+C)`: cx, cy, w, h in pixels of the network input, objectness, class
    probabilities; head by head, within one anchor by anchor."""
    return torch.cat([decode_head(head, spec).flatten(1, 3) for head, spec in zip(heads, specs)], 1)


def decode_matched(pick: Tensor, matches: HeadMatches, spec: HeadSpec) -> Tensor:
    """Boxes `(M, 4)` in pixels of the matched cells' logits `pick` `(M, 5+C)`, with gradient."""
    z = at_least_fp32(pick)
    anchors = z.new_tensor(spec.anchors)[matches.anchor]
    return _decode(z[:, :4], matches.col.to(z.dtype), matches.row.to(z.dtype), anchors, spec)


def encode_boxes(boxes: Tensor, matches: HeadMatches, spec: HeadSpec) -> Tensor:
    """Boxes `(M, 4)` in pixels as offsets to the matched cells `(M, 4)`.

    ``(cx / stride - col, cy / stride - row, ln(w / anchor_w), ln(h / anchor_h))``: the regression vector of
    Chen et al., NeurIPS 2017, in which boxes of networks with different anchors can be compared.
    """
    boxes = at_least_fp32(boxes)
    anchors = boxes.new_tensor(spec.anchors)[matches.anchor]
    cell = torch.stack((matches.col, matches.row), -1).to(boxes.dtype)
    size = boxes[:, 2:].clamp(min=torch.finfo(torch.float32).tiny)
    return torch.cat((boxes[:, :2] / spec.stride - cell, torch.log(size / anchors)), -1)
