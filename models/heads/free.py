"""Anchor-free heads, `[detect]`: a place in the middle of each cell says how far the four sides of its box are.

The heads of YOLOv8, 11 (a distribution over `bins` distances for each side; Li et al., Generalized Focal Loss, NeurIPS
2020) and 26 (plain distances). Classes are independent sigmoids, and there is no objectness beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.cfg import Section
from models.heads.spec import HeadSpec, at_least_fp32, log_odds_of_mean
from models.spec import Places

# A usual box is so many cells wide.
_USUAL_CELLS = 4.0
# Boxes in losses are at least so many pixels wide and high, so that no aspect ratio divides by zero.
_SMALLEST_SIZE = 1e-2


@dataclass(frozen=True)
class FreeSpec(HeadSpec):
    """How an anchor-free head is read: of each place the left, top, right and lower side, then classes; A = 1.

    Attributes:
        stride: pixels of the network input a cell covers.
        classes: number of classes C; a place has ``4 * bins + C`` numbers.
        bins: a side's distance is the mean of a softmax over 0, 1, ... `bins` - 1 strides; 1: it is the number itself.
    """

    family = "free"
    has_objectness = False
    softmax = False
    usual_objects = 5.0
    anchors = ()
    outputs = {
        "heads": "head0, head1, ...: (B, 1, H, W, 4 bins + C) logits: bins of left, top, right, lower side, classes",
        "decoded": "decoded: (B, N, 4 + C) cx, cy, w, h in pixels of the input, class probabilities",
    }

    stride: int
    classes: int
    bins: int = 16
    one_to_one: bool = False

    @classmethod
    def read(cls, section: Section, stride: int) -> FreeSpec:
        for key in ("classes", "bins"):
            if section.int(key) < 1:
                raise section.error(f"{key}={section.str(key)} has to be at least 1", key)
        return cls(stride, section.int("classes"), section.int("bins"), bool(section.int("one_to_one", 0)))

    @classmethod
    def widths(cls, section: Section, classes: int) -> dict[str, int]:
        bins = section.int("bins")
        return {f"four sides of bins={bins}": 4 * bins, f"classes={classes}": classes}

    @classmethod
    def logits_only(cls, head: Section, feeders: Sequence[Section], readers: Mapping[Section, list[Section]]) -> bool:
        for feeder in feeders:
            if (act := feeder.str("activation", "logistic")) != "linear":
                raise feeder.error(
                    f"activation={act} feeds a [{head.kind}] (line {head.line}) that takes logits",
                    "activation",
                    todo="write activation=linear",
                )
        return False

    def start(self, convolutions: Sequence[nn.Conv2d], objects: float) -> None:
        """Plain distances start at those of a usual box (bins start alike, which is their mean); `objects` are spread
        over the cells of the head and the classes."""
        sides, classes = convolutions
        values = _USUAL_CELLS / 2, math.log(objects / self.classes / (640 / self.stride) ** 2)
        for conv, value in zip((sides, classes), values):
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.constant_(conv.bias, value)

    def as_dict(self) -> dict[str, Any]:
        return {"family": self.family, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FreeSpec:
        return cls(**content)

    def describe(self) -> str:
        return f"bins {self.bins}"

    @classmethod
    def describe_places(cls, specs: Sequence[HeadSpec]) -> str:
        return "without anchors"

    def explain(self) -> str:
        mean = f"the mean of the softmax over 0..{self.bins - 1}" if self.bins > 1 else "the number itself"
        return (
            "distances of the left, top, right and lower side from ((column + .5) * stride, (row + .5) * stride): "
            f"{mean}, times stride; class probabilities sigma(t)"
        )

    @property
    def places(self) -> int:
        return 1

    @property
    def channels(self) -> int:
        return 4 * self.bins + self.classes

    @property
    def typical_sizes(self) -> tuple[tuple[float, float], ...]:
        return ((_USUAL_CELLS * self.stride, _USUAL_CELLS * self.stride),)

    def boxes(self, logits: Tensor) -> Tensor:
        z = at_least_fp32(logits)
        rows = torch.arange(z.shape[2], device=z.device, dtype=z.dtype).view(1, 1, -1, 1)
        cols = torch.arange(z.shape[3], device=z.device, dtype=z.dtype).view(1, 1, 1, -1)
        row, col = torch.broadcast_tensors(rows, cols)
        return self._decode(z, col, row)

    def boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        z = at_least_fp32(rows)
        return self._decode(z, places.col.to(z.dtype), places.row.to(z.dtype))

    def _decode(self, z: Tensor, col: Tensor, row: Tensor) -> Tensor:
        near, far = self._distances(z).split(2, -1)  # left and top, right and bottom; in strides
        centre = torch.stack((col, row), -1) + 0.5 + (far - near) / 2
        return torch.cat((centre, near + far), -1) * self.stride

    def _distances(self, z: Tensor) -> Tensor:
        """``(..., 4)`` in strides of logits ``(..., K)``."""
        sides = self.sides(z)
        if self.bins == 1:
            return sides[..., 0]
        return (sides.softmax(-1) * torch.arange(self.bins, device=z.device, dtype=z.dtype)).sum(-1)

    def finite_boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        boxes = self.boxes_at(rows, places)
        return torch.cat((boxes[:, :2], boxes[:, 2:].clamp(min=_SMALLEST_SIZE)), dim=1)

    def encode(self, boxes: Tensor, places: Places) -> Tensor:
        """The distances of the left, top, right and lower side, in strides: what the head itself says."""
        boxes = at_least_fp32(boxes) / self.stride
        offset = boxes[:, :2] - torch.stack((places.col, places.row), -1).to(boxes.dtype) - 0.5
        half = boxes[:, 2:] / 2
        return torch.cat((half - offset, half + offset), -1)

    def sides(self, logits: Tensor) -> Tensor:
        """``(..., 4, bins)`` of ``(..., K)``: of the left, top, right and lower side the logits of its distances, or
        with one bin the distance itself, in strides."""
        return logits[..., : 4 * self.bins].unflatten(-1, (4, self.bins))

    def class_logits(self, logits: Tensor) -> Tensor:
        return logits[..., 4 * self.bins :]

    def objectness_logits(self, logits: Tensor) -> None:
        return None

    def pair_places(self, teacher: HeadSpec) -> tuple[tuple[int, ...], bool] | None:
        return ((0,), True) if isinstance(teacher, FreeSpec) else None

    def select(self, logits: Tensor, places: Sequence[int], classes: Sequence[int] | None) -> Tensor:
        if classes is None:
            return logits
        sides = 4 * self.bins
        return logits[..., [*range(sides), *(sides + number for number in classes)]]

    def selected(self, places: Sequence[int], classes: int) -> FreeSpec:
        return replace(self, classes=classes)

    def averages_with(self, other: HeadSpec) -> bool:
        return isinstance(other, FreeSpec) and other.bins == self.bins

    def average(self, heads: Sequence[Tensor]) -> Tensor:
        """Distances are averaged, as distributions where they are."""
        stack = torch.stack([at_least_fp32(head) for head in heads])
        sides, classes = stack[..., : 4 * self.bins], log_odds_of_mean(self.class_logits(stack))
        if self.bins == 1:
            return torch.cat((sides.mean(0), classes), -1)
        mixed = sides.unflatten(-1, (4, self.bins)).log_softmax(-1).logsumexp(0)
        return torch.cat((mixed.flatten(-2), classes), -1)
