"""What a teacher's head says to a student of another family: boxes, certainty and classes, already decoded.

Logits of two families mean different things, and their cells have different places; what they decode to does not. A
teacher's answer is therefore *translated*: decoded by its own head, then brought into the student's terms, place by
place. `DecodedSpec` does that, and reads the result as the losses read any head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.heads.spec import HeadReader, HeadSpec, at_least_fp32
from models.spec import Places

# Boxes in losses have sides in this range, in pixels: no aspect ratio divides by zero, no square overflows.
_SIZES = 1e-2, 1e6
# Probabilities keep so far from 0 and 1 where their logit or logarithm is taken.
_FAR_FROM_SURE = 1e-6


@dataclass(frozen=True)
class DecodedSpec(HeadReader):
    """Reads ``(B, A, H, W, 5 + C)``, or ``4 + C`` for a student without objectness: decoded rows, not logits.

    Attributes:
        student: the head that learns from them; places, classes and objectness are as it has them.
    """

    student: HeadSpec
    stride: int
    classes: int
    has_objectness: bool
    softmax: bool
    one_to_one: bool

    anchors = ()
    bins = 1

    @classmethod
    def towards(cls, student: HeadSpec) -> DecodedSpec:
        """Of what is translated for this head of a student."""
        has_objectness, softmax = student.has_objectness, student.softmax
        return cls(student, student.stride, student.classes, has_objectness, softmax, student.one_to_one)

    def translate(self, logits: Tensor, spec: HeadSpec) -> Tensor:
        """A teacher's answer ``(B, A', H, W, K)``, read by its `spec`, as ``(B, A, H, W, 5 + C)`` or ``4 + C``.

        In each cell the place that is most confident of a class speaks, for all places of the student. To a student
        without objectness class scores are multiplied by the teacher's. To one that has it and whose teacher has none,
        the best class is the probability of an object, and class scores, which are *given* an object, are divided by
        it: the class of an object is as sure as its label is.
        """
        rows = spec.decode(logits)
        best = spec.best_confidence(rows).argmax(1, keepdim=True)  # (B, 1, H, W)
        rows = rows.gather(1, best[..., None].expand(-1, -1, -1, -1, rows.shape[-1]))
        rows = rows.expand(-1, self.places, -1, -1, -1)
        if spec.has_objectness == self.has_objectness:
            return rows
        boxes, scores = rows[..., :4], rows[..., 4:]
        if spec.has_objectness:
            return torch.cat((boxes, scores[..., :1] * scores[..., 1:]), -1)
        sure = scores.amax(-1, keepdim=True)
        return torch.cat((boxes, sure, scores / sure.clamp(min=torch.finfo(sure.dtype).tiny)), -1)

    @property
    def places(self) -> int:
        return self.student.places

    @property
    def channels(self) -> int:
        return 4 + self.has_objectness + self.classes

    @property
    def typical_sizes(self) -> tuple[tuple[float, float], ...]:
        return self.student.typical_sizes

    def boxes(self, logits: Tensor) -> Tensor:
        return at_least_fp32(logits)[..., :4]

    def boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        return self.boxes(rows)

    def finite_boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        boxes = self.boxes(rows)
        return torch.cat((boxes[:, :2], boxes[:, 2:].clamp(*_SIZES)), 1)

    def encode(self, boxes: Tensor, places: Places) -> Tensor:
        return self.student.encode(boxes, places)

    def class_logits(self, logits: Tensor) -> Tensor:
        """Logits, or logarithms where classes compete, of the probabilities."""
        scores = logits[..., 4 + self.has_objectness :]
        return scores.clamp(min=_FAR_FROM_SURE).log() if self.softmax else scores.logit(_FAR_FROM_SURE)

    def objectness_logits(self, logits: Tensor) -> Tensor | None:
        return logits[..., 4:5].logit(_FAR_FROM_SURE) if self.has_objectness else None

    def certainty(self, logits: Tensor) -> Tensor:
        return logits[..., 4] if self.has_objectness else logits[..., 4:].amax(-1)

    def decode(self, logits: Tensor) -> Tensor:
        return logits

    def average(self, heads: Sequence[Tensor]) -> Tensor:
        """Boxes in pixels and probabilities, each by itself."""
        return torch.stack([at_least_fp32(head) for head in heads]).mean(0)
