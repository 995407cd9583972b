"""The face of a detection head, whatever its family: `HeadReader` reads its answer, `HeadSpec` is all of it.

A head's answer is one tensor of logits ``(B, A, H, W, K)``: every cell of H x W has A *places*, and K numbers say what
a place sees. Boxes are ``cx, cy, w, h`` in pixels of the network input. All arithmetic is at least FP32, whatever
comes in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from models.cfg import Section

if TYPE_CHECKING:
    from models.spec import Places

AFTER_NMS = "detections: (K, 7) picture, x1, y1, x2, y2 in pixels of the input, confidence, class"
BEST = "detections: (B, K, 6) x1, y1, x2, y2 in pixels of the input, confidence, class; the best first, no NMS needed"


class HeadReader(ABC):
    """How one head's answer is read: boxes, scores and certainty of its numbers, whatever they are.

    Attributes:
        has_objectness: does a place say apart from its classes whether it sees an object? If so, its confidence in a
            class is the product, and decoded rows hold the objectness before the classes.
        stride: pixels of the network input a cell covers.
        classes: number of classes C.
        one_to_one: is it trained to give each object one place, so that it needs no NMS?
        softmax: do class scores compete, or is each a sigmoid of its own?
        bins: over how many distances a side of a box is a distribution; 1: it is one number.
        anchors: ``(A, 2)`` widths and heights in pixels that boxes are scaled from; () where there are none.
    """

    has_objectness: bool
    stride: int
    classes: int
    softmax: bool
    one_to_one: bool
    bins: int
    anchors: tuple[tuple[float, float], ...]

    # -- reading logits ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def places(self) -> int:
        """A: places in a cell."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """K: numbers a place has."""

    @property
    @abstractmethod
    def typical_sizes(self) -> tuple[tuple[float, float], ...]:
        """Widths and heights ``(n, 2)`` in pixels of boxes that this head is for."""

    @abstractmethod
    def boxes(self, logits: Tensor) -> Tensor:
        """Boxes ``(B, A, H, W, 4)`` of a whole head ``(B, A, H, W, K)``."""

    @abstractmethod
    def boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        """Boxes ``(M, 4)`` of the logits `rows` ``(M, K)`` of some places, with gradient."""

    @abstractmethod
    def finite_boxes_at(self, rows: Tensor, places: Places) -> Tensor:
        """As `boxes_at`, for losses: finite and larger than 0 whatever the logits."""

    @abstractmethod
    def encode(self, boxes: Tensor, places: Places) -> Tensor:
        """Boxes ``(M, 4)`` relative to their places ``(M, 4)``: numbers of like size for small and large boxes, the
        same for every network with such places."""

    @abstractmethod
    def class_logits(self, logits: Tensor) -> Tensor:
        """``(..., C)`` of ``(..., K)``."""

    @abstractmethod
    def objectness_logits(self, logits: Tensor) -> Tensor | None:
        """``(..., 1)`` of ``(..., K)``; None where the family has no objectness."""

    def sides(self, logits: Tensor) -> Tensor | None:
        """``(..., 4, bins)`` of ``(..., K)``: of the left, top, right and lower side the logits of its distances; None
        where the family has none."""
        return None

    def class_scores(self, logits: Tensor) -> Tensor:
        """Class probabilities ``(..., C)`` of ``(..., K)``, given an object where there is an objectness."""
        classes = self.class_logits(logits)
        return classes.softmax(-1) if self.softmax else torch.sigmoid(classes)

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities ``(..., C)`` of an object of each class, of ``(..., K)``."""
        objectness = self.objectness_logits(logits)
        return self.class_scores(logits) if objectness is None else objectness.sigmoid() * self.class_scores(logits)

    def certainty(self, logits: Tensor) -> Tensor:
        """How sure each place is of an object ``(...)``, of ``(..., K)``: objectness, or else the best class."""
        objectness = self.objectness_logits(logits)
        return self.class_scores(logits).amax(-1) if objectness is None else objectness.sigmoid()[..., 0]

    # -- decoded rows: box, objectness where the family has it, class probabilities ----------------------------------

    def decode(self, logits: Tensor) -> Tensor:
        """Logits ``(B, A, H, W, K)`` -> ``(B, A, H, W, 5 + C)``: boxes in pixels, objectness, class probabilities; or
        ``(B, A, H, W, 4 + C)`` without objectness."""
        z = at_least_fp32(logits)
        boxes, scores, objectness = self.boxes(z), self.class_scores(z), self.objectness_logits(z)
        return torch.cat((boxes, scores) if objectness is None else (boxes, torch.sigmoid(objectness), scores), -1)

    def candidates(self, rows: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """Boxes ``(M, 4)`` and class confidences ``(M, C)`` of the decoded rows ``(N, ...)`` in which some confidence
        may be above `least`."""
        if not self.has_objectness:
            rows = rows[rows[:, 4:].amax(1) > least]
            return rows[:, :4], rows[:, 4:]
        # Confidence can only be below objectness: most rows go before the (N, C) product is made.
        rows = rows[rows[:, 4] > least]
        return rows[:, :4], rows[:, 5:] * rows[:, 4:5]

    def best_confidence(self, rows: Tensor) -> Tensor:
        """How sure decoded rows ``(..., n)`` are of their most probable class, ``(...)``."""
        return rows[..., 4] * rows[..., 5:].amax(-1) if self.has_objectness else rows[..., 4:].amax(-1)

    def decoded_rows(self, boxes: Tensor, confidence: Tensor, label: Tensor) -> Tensor:
        """Boxes ``(n, 4)`` of one class each, with their confidence ``(n,)``, as decoded rows."""
        classes = nn.functional.one_hot(label.long(), self.classes).to(boxes.dtype)
        sure = confidence[:, None]
        return torch.cat((boxes, sure, classes) if self.has_objectness else (boxes, sure * classes), 1)

    @abstractmethod
    def average(self, heads: Sequence[Tensor]) -> Tensor:
        """The average of several networks' answers ``(B, A, H, W, K)``, as such an answer.

        Scores are averaged as *probabilities*.
        """


class HeadSpec(HeadReader):
    """A detection head of a network. A family of heads is a subclass; see `models.heads` for what else it has.

    Attributes:
        family: its name in `models.heads.FAMILIES`.
        usual_objects: how many a training from random weights expects in a picture of 640 pixels.
    """

    family: ClassVar[str]
    usual_objects: ClassVar[float]

    # -- in a cfg ----------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def read(cls, section: Section, stride: int) -> HeadSpec:
        """The head a section describes, whose cells cover `stride` pixels."""

    @classmethod
    @abstractmethod
    def widths(cls, section: Section, classes: int) -> dict[str, int]:
        """The channels that the head needs of each of its inputs, in their order, by what asks for them."""

    @classmethod
    @abstractmethod
    def logits_only(cls, head: Section, feeders: Sequence[Section], readers: Mapping[Section, list[Section]]) -> bool:
        """Whether the activation of the convolutions that feed a head belongs to its decoding, which applies it.

        Args:
            feeders: the convolutions, one for each input of the head.
            readers: section -> the sections that read it.

        Raises:
            UserError: their activation does not fit the head.
        """

    @abstractmethod
    def start(self, convolutions: Sequence[nn.Conv2d], objects: float) -> None:
        """Set the convolutions that feed the head (one per input) to its prior, in place.

        Args:
            objects: expected in a picture of 640 pixels.
        """

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the description of an exported file; with "family" where that is not "anchored"."""

    @classmethod
    @abstractmethod
    def from_dict(cls, content: Mapping[str, Any]) -> HeadSpec:
        """The inverse of `as_dict`."""

    @abstractmethod
    def describe(self) -> str:
        """What decides its boxes, in words, to tell it from another of its family."""

    @classmethod
    @abstractmethod
    def describe_places(cls, specs: Sequence[HeadSpec]) -> str:
        """What heads of this family have in each cell: "with 3, 3 anchors"."""

    @abstractmethod
    def explain(self) -> str:
        """How its logits become boxes, for whoever decodes them elsewhere."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, str]:
        """What an exported graph puts out, in words, by the keys of `export.formats.OUTPUTS`."""

    # -- a teacher's head beside a student's ---------------------------------------------------------------------------

    @abstractmethod
    def pair_places(self, teacher: HeadSpec) -> tuple[tuple[int, ...], bool] | None:
        """Which of the places in a teacher's cell answers to each of this head's, and whether they see the same boxes.

        None where there is no such pairing. Both heads have one stride.
        """

    @abstractmethod
    def select(self, logits: Tensor, places: Sequence[int], classes: Sequence[int] | None) -> Tensor:
        """The logits of some of this head's places and classes (None: all); a view where nothing moves."""

    @abstractmethod
    def selected(self, places: Sequence[int], classes: int) -> HeadSpec:
        """How the result of `select` is read."""

    @abstractmethod
    def averages_with(self, other: HeadSpec) -> bool:
        """Do box logits mean the same in both?"""

    def decode_above(self, logits: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """As `decode`, of those places alone in which some confidence may be above `least`.

        Most are told from their logits, before anything is made of them.

        Returns:
            ``(M,)`` the picture of each, in order, and within a picture as `decode` has them; ``(M, 5 + C)`` or
            ``(M, 4 + C)`` decoded rows.
        """
        from models.spec import Places

        z = at_least_fp32(logits)
        objectness = self.objectness_logits(z)
        # A score can only be below the objectness; `<=` and not `>`, so that what is no number goes on as it did.
        if objectness is not None:
            hopeless = objectness[..., 0] <= _logit_below(least)
        elif not self.softmax:
            hopeless = self.class_logits(z).amax(-1) <= _logit_below(least)
        else:
            hopeless = torch.zeros(z.shape[:-1], dtype=torch.bool, device=z.device)
        places = Places(*(~hopeless).nonzero(as_tuple=True))
        rows = places.pick(z)
        if objectness is not None and not self.softmax:
            best = self.class_logits(rows).amax(-1).sigmoid() * objectness[..., 0][places.numbers].sigmoid()
            kept = (~(best <= least * (1 - _MARGIN))).nonzero(as_tuple=True)[0]
            rows, places = rows[kept], Places(*(each[kept] for each in places.numbers))
        certain = self.objectness_logits(rows)
        parts = [
            self.boxes_at(rows, places),
            *(() if certain is None else (certain.sigmoid(),)),
            self.class_scores(rows),
        ]
        return places.image, torch.cat(parts, 1)


# Far above what two ways of computing one sigmoid differ by.
_MARGIN = 1e-4


def _logit_below(probability: float) -> float:
    """The logit of a little less than `probability`."""
    probability = min(probability * (1 - _MARGIN), 1 - _MARGIN)
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf


Reader = TypeVar("Reader", bound=HeadReader)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half formats, which cannot tell neighbouring pixels apart, become FP32; FP32 and FP64 stay."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def decode_heads(heads: Sequence[Tensor], specs: Sequence[HeadReader]) -> Tensor:
    """Logits of all heads -> ``(B, N, 5 + C)``: cx, cy, w, h in pixels of the network input, objectness, class
    probabilities; ``(B, N, 4 + C)`` in a family without objectness. Head by head, within one place by place.

    Where a network has heads of both kinds, those that give each object one place are left out: their boxes are said
    twice.
    """
    read = spec_read(specs).one_to_one
    chosen = [(spec, head) for spec, head in zip(specs, heads, strict=True) if spec.one_to_one == read]
    return torch.cat([spec.decode(head).flatten(1, 3) for spec, head in chosen], 1)


def decode_heads_above(heads: Sequence[Tensor], specs: Sequence[HeadSpec], least: float) -> list[Tensor]:
    """As `decode_heads`, of each picture only the rows in which some confidence may be above `least`, ``(n, 5 + C)``
    or ``(n, 4 + C)``, in the same order."""
    read = spec_read(specs).one_to_one
    found: list[list[Tensor]] = [[] for _ in heads[0]]
    for spec, head in zip(specs, heads, strict=True):
        if spec.one_to_one == read:
            image, rows = spec.decode_above(head, least)
            counts = image.bincount(minlength=len(head)).tolist()
            for parts, part in zip(found, rows.split(counts), strict=True):
                parts.append(part)
    return [torch.cat(parts) for parts in found]


def spec_read(specs: Sequence[Reader]) -> Reader:
    """One of the heads that `decode_heads` reads: what their decoded rows mean, and whether they need NMS."""
    return next((spec for spec in specs if not spec.one_to_one), specs[0])


def log_odds_of_mean(logits: Tensor) -> Tensor:
    """The logit of the mean of ``sigma(z)`` over the first dimension, which no saturated sigmoid makes infinite."""
    # ln(mean p / mean (1 - p))
    return nn.functional.logsigmoid(logits).logsumexp(dim=0) - nn.functional.logsigmoid(-logits).logsumexp(dim=0)
