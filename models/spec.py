"""The plain data that passes between rooms: what a head is, what a network put out, what was matched.

Boxes are ``cx, cy, w, h`` in pixels of the network input unless a name says ``_norm`` or ``_xyxy``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadSpec:
    """How one detection head is read.

    Attributes:
        anchors: ``(A, 2)`` widths and heights in pixels of the network input.
        stride: pixels of the network input a cell covers.
        classes: number of classes C; the head has ``A * (5 + C)`` channels.
        scale_x_y: s in ``sigma(t) * s - (s - 1) / 2``: how far past its cell a centre may lie.
        new_coords: sizes are ``(2 * sigma(t))^2 * anchor`` instead of ``exp(t) * anchor``.
        softmax: class scores by softmax (the `[region]` layer of YOLOv2) instead of independent sigmoids.
    """

    anchors: tuple[tuple[float, float], ...]
    stride: int
    classes: int
    scale_x_y: float = 1.0
    new_coords: bool = False
    softmax: bool = False


@dataclass
class Outputs:
    """What a network said about a batch.

    Attributes:
        heads: one ``(B, A, H, W, 5 + C)`` tensor of raw logits per head: x, y, w, h, objectness, classes.
        specs: one `HeadSpec` per head, in the same order.
        features: ``(B, C, H, W)`` by layer number, where asked for.
    """

    heads: list[Tensor]
    specs: tuple[HeadSpec, ...]
    features: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadMatches:
    """The cells of one head that answer for an object: M rows, all tensors on one device.

    Attributes:
        image, anchor, row, col: ``(M,)`` long; ``head[image, anchor, row, col]`` is the cell's prediction.
        box: ``(M, 4)`` the ground truth cx, cy, w, h in pixels of the network input.
        label: ``(M,)`` long, the ground truth class.
        target: ``(M,)`` long, the row of the batch's target table the match came from.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    col: Tensor
    box: Tensor
    label: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def pick(self, head: Tensor) -> Tensor:
        """The matched cells of a ``(B, A, H, W, K)`` tensor: ``(M, K)``."""
        return head[self.image, self.anchor, self.row, self.col]


def _alone(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Matches:
    """The assignment of ground truth to cells, made once per batch with the student's heads.

    Attributes:
        heads: one `HeadMatches` per head.
        mean_over_ranks: averages a scalar over the processes of a distributed run (the identity in one process).
            Every sum a loss divides by goes through it, so that a step does not depend on how a batch was split.
        expected: scalar, the matched cells a batch of this size has on average over the optimiser step (and over
            ranks), where the step accumulates several batches; None: the step is this batch.
        pictures: the ground truth is of so many pictures, the first ones of the batch; None: of all.
    """

    heads: tuple[HeadMatches, ...]
    mean_over_ranks: Callable[[Tensor], Tensor] = _alone
    expected: Tensor | None = None
    pictures: int | None = None

    def normaliser(self, amount: Tensor) -> Tensor:
        """`amount` (a scalar: a count or a sum of weights) averaged over ranks, never below 1e-9; no gradient."""
        return self.mean_over_ranks(amount.detach().float()).clamp(min=1e-9)

    @property
    def count(self) -> Tensor:
        """Number of matched cells over all heads, averaged over ranks, at least 1e-9 (scalar).

        What a mean over matched cells divides by: where `expected` is given it is that, so that the accumulated
        gradient is the one of the whole step's batch however it was split.
        """
        if self.expected is not None:
            return self.expected.detach().float().clamp(min=1e-9)
        total = sum(len(head) for head in self.heads)
        return self.normaliser(torch.tensor(float(total), device=self.heads[0].box.device))
