"""The plain data that passes between rooms: what a network put out, and which of its places answer for an object.

Boxes are ``cx, cy, w, h`` in pixels of the network input unless a name says ``_norm`` or ``_xyxy``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.heads.spec import HeadReader


@dataclass
class Outputs:
    """What a network said about a batch.

    Attributes:
        heads: one ``(B, A, H, W, K)`` tensor per head, raw logits (see `HeadSpec`) or what else its spec reads.
        specs: how each head is read, in the same order.
        features: ``(B, C, H, W)`` by layer number, where asked for.
    """

    heads: list[Tensor]
    specs: tuple[HeadReader, ...]
    features: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Some places of one head: M rows, all tensors on one device.

    Attributes:
        image, anchor, row, col: ``(M,)`` long; ``head[image, anchor, row, col]`` is what a place says. `anchor` is the
            place's number in its cell, 0 in heads without anchors.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    col: Tensor

    def __len__(self) -> int:
        return len(self.image)

    @property
    def numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What they are, as an index."""
        return self.image, self.anchor, self.row, self.col

    def pick(self, head: Tensor) -> Tensor:
        """What these places hold in a ``(B, A, H, W, K)`` tensor: ``(M, K)``."""
        return head[self.numbers]


@dataclass(frozen=True)
class HeadMatches(Places):
    """The places of one head that answer for an object.

    Attributes:
        box: ``(M, 4)`` the ground truth cx, cy, w, h in pixels of the network input.
        label: ``(M,)`` long, the ground truth class.
        target: ``(M,)`` long, the row of the batch's target table the match came from.
        weight: ``(M,)`` how much each counts; None: 1.
    """

    box: Tensor
    label: Tensor
    target: Tensor
    weight: Tensor | None = None

    @property
    def amount(self) -> Tensor | float:
        """The sum of the weights (scalar)."""
        return float(len(self)) if self.weight is None else self.weight.detach().float().sum()


def _alone(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Matches:
    """The assignment of ground truth to places, made once per batch with the student's heads.

    Attributes:
        heads: one `HeadMatches` per head.
        mean_over_ranks: averages a scalar over the processes of a distributed run (the identity in one process).
            Every sum a loss divides by goes through it, so that a step does not depend on how a batch was split.
        expected: scalar, the amount (`Criterion.amount`) that a batch of this size has on average over the optimiser
            step (and over ranks), where the step accumulates several batches; None: the step is this batch.
        amount: scalar, the amount of this batch, where that is not the sum of the weights.
        pictures: the ground truth is of so many pictures, the first ones of the batch; None: of all.
    """

    heads: tuple[HeadMatches, ...]
    mean_over_ranks: Callable[[Tensor], Tensor] = _alone
    expected: Tensor | None = None
    amount: Tensor | None = None
    pictures: int | None = None

    def normaliser(self, amount: Tensor) -> Tensor:
        """`amount` (a scalar: a count or a sum of weights) averaged over ranks, never below 1e-9; no gradient."""
        return self.mean_over_ranks(amount.detach().float()).clamp(min=1e-9)

    @property
    def count(self) -> Tensor:
        """Number of matched places over all heads, or the sum of their weights, averaged over ranks, at least 1e-9.

        What a mean over matched places divides by (scalar). Where a step accumulates batches, it is what a batch of
        this size has on average, so that the accumulated gradient is the one of the whole step's batch however it was
        split. Where weights are known only after the forward pass, every batch divides by ``sum of its weights x
        expected / amount``, weights and amount averaged over ranks: that of the large batch, as far as the weight per
        amount is alike in all of its parts.
        """
        if self.expected is not None and self.amount is None:
            return self.expected.detach().float().clamp(min=1e-9)
        total = torch.as_tensor(sum(head.amount for head in self.heads), device=self.heads[0].box.device)
        if self.expected is None or self.amount is None:
            return self.normaliser(total)
        # In a batch without objects no weight says what one would weigh: it counts as 1.
        total, amount = (self.mean_over_ranks(each.float()) for each in (total, self.amount))
        share = torch.where(amount > 0, total / amount.clamp(min=1e-9), torch.ones_like(total))
        return (self.expected * share).detach().float().clamp(min=1e-9)
