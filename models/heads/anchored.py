"""Anchored heads, Darknet's `[yolo]` and `[region]`: every place scales an anchor, and says objectness and classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.cfg import Cfg, Section
from models.heads.spec import AFTER_NMS, HeadSpec, at_least_fp32, log_odds_of_mean
from models.spec import Places

# Kinds whose anchors are written in cells, not in pixels of the network input.
_IN_CELLS = ("region",)
# exp(t) is cut off here, at 1100 anchors: no box of use is larger, and FP32 stays far from overflow.
_LARGEST_LOG_SIZE = 7.0
# Boxes in losses are at least so many pixels wide and high, so that no aspect ratio divides by zero.
_SMALLEST_SIZE = 1e-2
# Pixels a side: far above the largest picture.
_LARGEST_ANCHOR = 1e5
# Anchors count as equal within this factor: cfg files round to whole pixels.
_ANCHOR_TOLERANCE = 1.05


@dataclass(frozen=True)
class AnchoredSpec(HeadSpec):
    """How an anchored head is read: x, y, w, h, objectness and classes of each anchor, K = 5 + C.

    Attributes:
        anchors: ``(A, 2)`` widths and heights in pixels of the network input.
        stride: pixels of the network input a cell covers.
        classes: number of classes C; the head has ``A * (5 + C)`` channels.
        scale_x_y: s in ``sigma(t) * s - (s - 1) / 2``: how far past its cell a centre may lie.
        new_coords: sizes are ``(2 * sigma(t))^2 * anchor`` instead of ``exp(t) * anchor``.
        softmax: class scores by softmax (the `[region]` layer of YOLOv2) instead of independent sigmoids.
    """

    family = "anchored"
    has_objectness = True
    one_to_one = False
    bins = 1
    usual_objects = 8.0

    anchors: tuple[tuple[float, float], ...]
    stride: int
    classes: int
    scale_x_y: float = 1.0
    new_coords: bool = False
    softmax: bool = False

    @classmethod
    def read(cls, section: Section, stride: int) -> AnchoredSpec:
        anchors, mask = head_anchors(section), head_mask(section)
        unit = anchor_unit(section, stride)
        chosen = tuple((anchors[number][0] * unit, anchors[number][1] * unit) for number in mask)
        classes = section.int("classes", 20)
        if classes < 1:
            raise section.error(f"classes={classes} has to be at least 1", "classes")
        if section.int("coords", 4) != 4:
            raise section.error(f"coords={section.str('coords')} is not implemented", "coords", todo="only coords=4 is")
        scale, new_coords = section.float("scale_x_y", 1.0), section.int("new_coords", 0)
        if scale <= 0:
            raise section.error(f"scale_x_y={scale:g} has to be above 0: no centre of a box could move", "scale_x_y")
        if new_coords not in (0, 1):
            raise section.error(f"new_coords={new_coords} is neither 0 nor 1", "new_coords")
        if (side := max(map(max, chosen))) > _LARGEST_ANCHOR:
            raise section.error(f"an anchor has a side of {side:g} pixels", "anchors", todo="is it a slip of the pen?")
        return cls(
            chosen,
            stride,
            classes,
            scale_x_y=scale,
            new_coords=bool(new_coords),
            softmax=bool(section.int("softmax", 0)),
        )

    @classmethod
    def widths(cls, section: Section, classes: int) -> dict[str, int]:
        anchors = len(head_mask(section))
        return {f"{anchors} anchors and classes={classes}": anchors * (5 + classes)}

    @classmethod
    def logits_only(cls, head: Section, feeders: Sequence[Section], readers: Mapping[Section, list[Section]]) -> bool:
        """A head convolution's `activation=logistic` belongs to the decoding of `new_coords`, and to nothing else."""
        (feeder,) = feeders
        act = feeder.str("activation", "logistic")
        wants = bool(head.int("new_coords", 0))
        if wants and act != "logistic":
            raise feeder.error(
                f"activation={act} feeds a [yolo] with new_coords=1 (line {head.line}) without a sigmoid of its own",
                "activation",
                todo="write activation=logistic",
            )
        if not wants and act != "linear":
            raise feeder.error(
                f"activation={act} feeds a [{head.kind}] (line {head.line}) with a sigmoid of its own",
                "activation",
                todo="write activation=linear, or new_coords=1 in the [yolo]",
            )
        if wants:
            others = [reader for reader in readers[feeder] if not reader.facts.head]
            if others or feeder is not head.inputs[0]:
                raise feeder.error(
                    f"feeds a [yolo] with new_coords=1 and so gives logits, but is also read by "
                    f"{(others or [head.inputs[0]])[0]}",
                    todo="give each its own convolution",
                )
        return wants

    def start(self, convolutions: Sequence[nn.Conv2d], objects: float) -> None:
        """Objectness starts at `objects` spread over the cells of the head; classes at .6 / C (the prior of Focal
        Loss, ICCV 2017, section 3.3, with a count per head instead of one probability)."""
        (conv,) = convolutions
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is None:
            return
        bias = torch.zeros(self.places, self.channels)
        bias[:, 4] = math.log(objects / (640 / self.stride) ** 2)
        if not self.softmax:
            bias[:, 5:] = math.log(0.6 / (self.classes - 0.99999)) if self.classes > 1 else 0.0
        conv.bias.copy_(bias.flatten())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)  # files of before there were families read this too

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> AnchoredSpec:
        anchors = tuple((float(width), float(height)) for width, height in content["anchors"])
        return cls(**{**content, "anchors": anchors})

    def describe(self) -> str:
        return f"anchors {list(self.anchors)}, scale_x_y {self.scale_x_y:g}, new_coords {self.new_coords:d}"

    @classmethod
    def describe_places(cls, specs: Sequence[HeadSpec]) -> str:
        return f"with {', '.join(str(spec.places) for spec in specs)} anchors"

    def explain(self) -> str:
        anchors = ", ".join(f"{width:g} x {height:g}" for width, height in self.anchors)
        way = "(2 sigma(t))^2" if self.new_coords else "exp(t)"
        s = self.scale_x_y
        centre = f"(sigma(t) * {s:g} - {(s - 1) / 2:g} + cell) * stride"
        return f"anchors {anchors}; centre {centre}, size {way} * anchor"

    @property
    def outputs(self) -> dict[str, str]:
        return {
            "heads": "head0, head1, ...: (B, A, H, W, 5 + C) logits x, y, w, h, objectness, classes",
            "decoded": "decoded: (B, N, 5 + C) cx, cy, w, h in pixels of the input, objectness, class probabilities",
            "boxes": AFTER_NMS,
        }

    @property
    def places(self) -> int:
        return len(self.anchors)

    @property
    def channels(self) -> int:
        return 5 + self.classes

    @property
    def typical_sizes(self) -> tuple[tuple[float, float], ...]:
        return self.anchors

    def boxes(self, logits: Tensor) -> Tensor:
        """Darknet's decode: centre ``(sigma(t) s - (s - 1) / 2 + cell) * stride``; size ``exp(t) * anchor``, or
        ``(2 sigma(t))^2 * anchor`` with `new_coords`."""
        z = at_least_fp32(logits)
        rows = torch.arange(z.shape[2], device=z.device, dtype=z.dtype).view(1, 1, -1, 1)
        cols = torch.arange(z.shape[3], device=z.device, dtype=z.dtype).view(1, 1, 1, -1)
        anchors = z.new_tensor(self.anchors).view(1, -1, 1, 1, 2)
        row, col = torch.broadcast_tensors(rows, cols)
        return self._decode(z[..., :4], col, row, anchors)

    def boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        z = at_least_fp32(rows)
        anchors = z.new_tensor(self.anchors)[places.anchor]
        return self._decode(z[:, :4], places.col.to(z.dtype), places.row.to(z.dtype), anchors)

    def _decode(self, t: Tensor, col: Tensor, row: Tensor, anchors: Tensor) -> Tensor:
        s = self.scale_x_y
        centre = torch.sigmoid(t[..., :2]) * s - (s - 1) / 2 + torch.stack((col, row), -1)
        size = (2 * torch.sigmoid(t[..., 2:4])) ** 2 if self.new_coords else torch.exp(t[..., 2:4])
        return torch.cat((centre * self.stride, size * anchors), -1)

    def finite_boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        if not self.new_coords:
            rows = torch.cat((rows[:, :2], rows[:, 2:4].clamp(max=_LARGEST_LOG_SIZE)), dim=1)
        boxes = self.boxes_at(rows, places)
        return torch.cat((boxes[:, :2], boxes[:, 2:].clamp(min=_SMALLEST_SIZE)), dim=1)

    def encode(self, boxes: Tensor, places: Places) -> Tensor:
        """``(cx / stride - col, cy / stride - row, ln(w / anchor_w), ln(h / anchor_h))``: the regression vector of
        Chen et al., NeurIPS 2017, in which boxes of networks with different anchors can be compared."""
        boxes = at_least_fp32(boxes)
        anchors = boxes.new_tensor(self.anchors)[places.anchor]
        cell = torch.stack((places.col, places.row), -1).to(boxes.dtype)
        size = boxes[:, 2:].clamp(min=torch.finfo(torch.float32).tiny)
        return torch.cat((boxes[:, :2] / self.stride - cell, torch.log(size / anchors)), -1)

    def class_logits(self, logits: Tensor) -> Tensor:
        return logits[..., 5:]

    def objectness_logits(self, logits: Tensor) -> Tensor:
        return logits[..., 4:5]

    def pair_places(self, teacher: HeadSpec) -> tuple[tuple[int, ...], bool] | None:
        """Per anchor one of the teacher's of its own, the nearest in size first; whether all are equal."""
        if not isinstance(teacher, AnchoredSpec) or len(teacher.anchors) < len(self.anchors):
            return None
        ratio = torch.tensor(self.anchors)[:, None] / torch.tensor(teacher.anchors)  # (A, T, 2)
        factor = torch.maximum(ratio, 1 / ratio).amax(dim=-1)
        pairs: dict[int, int] = {}
        for place in factor.flatten().argsort(stable=True).tolist():
            ours, theirs = divmod(place, len(teacher.anchors))
            if ours not in pairs and theirs not in pairs.values():
                pairs[ours] = theirs
        chosen = tuple(pairs[number] for number in range(len(self.anchors)))
        return chosen, all(factor[ours, theirs].item() < _ANCHOR_TOLERANCE for ours, theirs in enumerate(chosen))

    def select(self, logits: Tensor, places: Sequence[int], classes: Sequence[int] | None) -> Tensor:
        if tuple(places) != tuple(range(self.places)):
            logits = logits[:, list(places)]
        return logits if classes is None else logits[..., [0, 1, 2, 3, 4, *(5 + number for number in classes)]]

    def selected(self, places: Sequence[int], classes: int) -> AnchoredSpec:
        return replace(self, anchors=tuple(self.anchors[number] for number in places), classes=classes)

    def averages_with(self, other: HeadSpec) -> bool:
        pairs = self.pair_places(other)
        return pairs is not None and pairs[1] and replace(self, anchors=other.anchors) == other

    def average(self, heads: Sequence[Tensor]) -> Tensor:
        stack = torch.stack([at_least_fp32(head) for head in heads])
        box, scores = stack[..., :4].mean(dim=0), stack[..., 4:]
        average = log_odds_of_mean(scores)
        if self.softmax:
            average = torch.cat([average[..., :1], scores[..., 1:].log_softmax(dim=-1).logsumexp(dim=0)], dim=-1)
        return torch.cat([box, average], dim=-1)


# -- anchors in a cfg ------------------------------------------------------------------------------------------------


def anchor_unit(section: Section, stride: int) -> int:
    """Pixels of the network input that an anchor of size 1 has in a section."""
    return stride if section.kind in _IN_CELLS else 1


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
    count = len(head_anchors(section))  # and not num=, before it is known that there are so many
    mask = section.ints("mask") if "mask" in section.options else list(range(count))
    for number in mask:
        if not 0 <= number < count:
            raise section.error(f"mask={section.str('mask')} names anchor {number}, but num={count}", "mask")
    if not mask:
        raise section.error("mask= names no anchor", "mask")
    return mask


def with_anchors(
    cfg: Cfg, specs: Sequence[HeadSpec], anchors: Sequence[Sequence[tuple[float, float]]]
) -> tuple[HeadSpec, ...]:
    """Write each head's anchors (pixels of the network input) into `cfg`, in place; returns the heads' new specs."""
    written = []
    for section, spec, head in zip(cfg.heads, specs, anchors):
        unit = anchor_unit(section, spec.stride)
        written.append([(float(width) / unit, float(height) / unit) for width, height in head])
        if not all(0 < side < math.inf for pair in written[-1] for side in pair):
            raise section.error(f"anchors have to be above 0 and finite, not {list(head)}", "anchors")
    set_head_anchors(cfg, written)
    return tuple(AnchoredSpec.read(section, spec.stride) for section, spec in zip(cfg.heads, specs))


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
