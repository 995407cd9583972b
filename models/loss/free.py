"""The detection loss of anchor-free heads: box, class and distance terms, weighted by the task-aligned assignment.

All arithmetic is at least FP32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from models.assign.task_aligned import assign
from models.heads.free import FreeSpec
from models.heads.spec import HeadSpec, at_least_fp32
from models.loss.boxes import box_losses
from models.loss.criterion import Criterion
from models.options import LossConfig
from models.spec import HeadMatches, Matches

# Places an object may claim, of heads that give it many and of those that give it one.
_MANY, _ONE = 10, 1
# Divisors count an object as at least so much. No box overlaps it well at first, and a divisor near 0 would blow up the
# background.
_LEAST_OF_AN_OBJECT = 0.05
# Distances end so far before the last bin, so that there is one on either side.
_BEFORE_LAST_BIN = 0.01


class FreeLoss(Criterion):
    """Box, class and distance loss of a set of anchor-free heads.

    With w the weights of the matched places (`models.assign.task_aligned`) and S their sum:

    - ``box``: sum of w (1 - CIoU) / S, or GIoU;
    - ``cls``: BCE summed over *all* places and classes / S; the target is w for the object's class, and 0;
    - ``dfl``: sum of w d / S. Of distances in bins, d is the distribution focal loss (Li et al., Generalized Focal
      Loss, NeurIPS 2020, equation 6): the cross entropy against the two bins beside the true distance, each as much as
      it is near, mean over the four sides. Of plain distances (bins=1), d is their mean absolute error in strides, the
      unit of a bin: it has a gradient where boxes do not overlap or have no area.

    Heads that give each object one place (`FreeSpec.one_to_one`) beside others have an assignment of one place an
    object and an S of their own, and their terms are added (dual assignment: Wang et al., YOLOv10, NeurIPS 2024). What
    both read is trained by the others alone (`Network`).

    S is averaged over ranks, and counts an object as at least .05; in a step without objects it is 1. Without objects
    ``box`` and ``dfl`` are exactly 0 and still connected to the heads.

    Args:
        specs: one per head, all of them anchor-free.
        config: gains and options.
    """

    def __init__(self, specs: Sequence[HeadSpec], config: LossConfig | None = None):
        super().__init__(specs, config)
        self.free = [spec for spec in self.specs if isinstance(spec, FreeSpec)]
        assert len(self.free) == len(self.specs), "other families have a loss of their own"
        places = range(len(self.free))
        groups = ([n for n in places if self.free[n].one_to_one is one] for one in (False, True))
        self._groups = [group for group in groups if group]

    @property
    def weights(self) -> dict[str, float]:
        return self.config.gains("free")

    def amount(self, size: tuple[int, int], targets: Tensor) -> Tensor:
        """The objects: their weights are known only after the forward pass.

        So an accumulated step equals that of one large batch up to the mean weight of an object: the batch j counts
        (S / objects) / (S_j / objects_j) times what it should, S and objects without j those of the whole step.
        """
        return torch.tensor(float(len(targets)), device=targets.device)

    def assign(
        self, heads: Sequence[Tensor], targets: Tensor, mean_over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> Matches:
        found: dict[int, HeadMatches] = {}
        for group in self._groups:
            specs = [self.free[n] for n in group]
            topk = _ONE if specs[0].one_to_one else _MANY
            found |= zip(group, assign(specs, [heads[n] for n in group], targets, topk=topk))
        matches = Matches(tuple(found[n] for n in range(len(heads))), amount=self.amount((0, 0), targets))
        return matches if mean_over_ranks is None else replace(matches, mean_over_ranks=mean_over_ranks)

    def __call__(self, heads: Sequence[Tensor], matches: Matches) -> dict[str, Tensor]:
        """`heads`: one ``(B, 1, H, W, 4 bins + C)`` tensor of logits per spec. Returns scalars ``box``, ``cls``,
        ``dfl``."""
        with torch.autocast(heads[0].device.type, enabled=False):
            heads = [at_least_fp32(head) for head in heads]
            sums = []
            for group in self._groups:
                own = replace(matches, heads=tuple(matches.heads[n] for n in group))
                each = [self._sums(self.free[n], heads[n], matches.heads[n]) for n in group]
                sums.append(torch.stack(each).sum(dim=0) / _divisor(own))
            return dict(zip(("box", "cls", "dfl"), torch.stack(sums).sum(dim=0).unbind()))

    def _sums(self, spec: FreeSpec, head: Tensor, match: HeadMatches) -> Tensor:
        """The sums ``(3,)`` of box, class and distance losses of one head."""
        rows, weight = match.pick(head), _weights(match).to(head)
        truth = match.box.to(head)
        boxes = box_losses(self.config.box_loss, spec.finite_boxes_at(rows, match), truth)
        distances = _distance_losses(spec.sides(rows), spec.encode(truth, match))
        target = torch.zeros_like(spec.class_logits(head))
        target[match.image, match.anchor, match.row, match.col, match.label] = weight
        classes = functional.binary_cross_entropy_with_logits(spec.class_logits(head), target, reduction="sum")
        return torch.stack(((weight * boxes).sum(), classes, (weight * distances).sum()))


def _weights(match: HeadMatches) -> Tensor:
    return torch.ones_like(match.box[:, 0]) if match.weight is None else match.weight


def _divisor(matches: Matches) -> Tensor:
    """S of the matches of a group of heads: see `FreeLoss`."""
    assert matches.amount is not None, "FreeLoss.assign tells it"
    objects = matches.mean_over_ranks(matches.amount.float()) if matches.expected is None else matches.expected.float()
    count = matches.count
    return torch.where(objects > 0, torch.maximum(count, _LEAST_OF_AN_OBJECT * objects), torch.ones_like(count))


def _distance_losses(sides: Tensor, truth: Tensor) -> Tensor:
    """``(M,)`` of logits ``(M, 4, bins)`` and true distances in strides ``(M, 4)``."""
    bins = sides.shape[-1]
    if bins == 1:
        return (sides[..., 0] - truth).abs().mean(dim=1)
    truth = truth.clamp(0, bins - 1 - _BEFORE_LAST_BIN)
    near = truth.floor()
    share = torch.log_softmax(sides, dim=-1)
    below, above = (share.gather(-1, (near.long() + step)[..., None])[..., 0] for step in (0, 1))
    return -(below * (near + 1 - truth) + above * (truth - near)).mean(dim=1)
