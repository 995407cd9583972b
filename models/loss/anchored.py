"""The detection loss of anchored heads: box, objectness and class terms on the matched cells of every head.

All arithmetic is at least FP32, also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.assign.by_shape import assign
from models.heads.spec import HeadSpec, at_least_fp32
from models.loss.boxes import box_losses
from models.loss.criterion import Criterion
from models.options import LossConfig
from models.spec import HeadMatches, Matches


class DetectionLoss(Criterion):
    """Box, objectness and class loss of a set of anchored heads.

    - ``box``: mean over all matched cells of 1 - CIoU (Zheng et al., AAAI 2020) or 1 - GIoU (Rezatofighi et al.,
      CVPR 2019);
    - ``obj``: per head the mean over *all* cells of the BCE against 0 (background) or the matched box's overlap with
      the truth (detached), averaged over heads with weights that favour the fine ones (`LossConfig.obj_balance`);
    - ``cls``: mean over all matched cells of the BCE *summed* over classes (cross entropy where scores are a softmax),
      so that its size does not fall with the number of classes.

    Means over matched cells divide by the count averaged over ranks: the mean of the ranks' losses is the loss of the
    global batch when every rank has equally many pictures of equal size. Without objects ``box`` and ``cls`` are
    exactly 0 and still connected to the heads.

    Args:
        specs: one per head.
        config: gains and options.
    """

    def __init__(self, specs: Sequence[HeadSpec], config: LossConfig | None = None):
        super().__init__(specs, config)
        balance = [spec.stride**-self.config.obj_balance for spec in self.specs]
        self.balance = [weight / sum(balance) for weight in balance]

    @property
    def weights(self) -> dict[str, float]:
        return self.config.gains("anchored")

    def amount(self, size: tuple[int, int], targets: Tensor) -> Tensor:
        """The matched cells: which ones they are depends on no answer."""
        height, width = size
        grids = [(math.ceil(height / spec.stride), math.ceil(width / spec.stride)) for spec in self.specs]
        return assign(self.specs, grids, targets).count

    def assign(
        self, heads: Sequence[Tensor], targets: Tensor, mean_over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> Matches:
        grids = [(head.shape[2], head.shape[3]) for head in heads]
        return assign(self.specs, grids, targets, mean_over_ranks=mean_over_ranks)

    def __call__(self, heads: Sequence[Tensor], matches: Matches) -> dict[str, Tensor]:
        """`heads`: one ``(B, A, H, W, 5 + C)`` tensor of logits per spec. Returns scalars ``box``, ``obj``, ``cls``."""
        with torch.autocast(heads[0].device.type, enabled=False):
            heads = [at_least_fp32(head) for head in heads]
            picked = [match.pick(head) for match, head in zip(matches.heads, heads)]  # each (M, 5 + C)
            box, overlaps = self._box(picked, matches)
            objectness = [
                functional.binary_cross_entropy_with_logits(head[..., 4], self._objectness(head, match, overlap))
                for head, match, overlap in zip(heads, matches.heads, overlaps)
            ]
            obj = torch.stack([weight * term for weight, term in zip(self.balance, objectness)]).sum()
            return {"box": box, "obj": obj, "cls": self._classes(picked, matches)}

    def _box(self, picked: list[Tensor], matches: Matches) -> tuple[Tensor, list[Tensor]]:
        """The box term and, per head, the detached overlap ``(M,)`` in 0..1 of each matched box with its truth."""
        predicted = torch.cat(
            [spec.finite_boxes_at(rows, match) for rows, spec, match in zip(picked, self.specs, matches.heads)]
        )
        truth = torch.cat([match.box for match in matches.heads]).to(predicted)
        loss = box_losses(self.config.box_loss, predicted, truth)
        overlap = (1 - loss.detach()).clamp(0, 1)
        return loss.sum() / matches.count, list(overlap.split([len(match) for match in matches.heads]))

    def _objectness(self, head: Tensor, match: HeadMatches, overlap: Tensor) -> Tensor:
        """Objectness targets ``(B, A, H, W)``."""
        target = torch.zeros_like(head[..., 4])
        blend = 1 - self.config.obj_target + self.config.obj_target * overlap
        target[match.image, match.anchor, match.row, match.col] = blend
        return target

    def _classes(self, picked: list[Tensor], matches: Matches) -> Tensor:
        smoothing = self.config.label_smoothing
        sums = []
        for rows, spec, match in zip(picked, self.specs, matches.heads):
            logits = rows[:, 5:]
            if spec.softmax:
                sums.append(functional.cross_entropy(logits, match.label, reduction="sum", label_smoothing=smoothing))
            else:
                target = functional.one_hot(match.label, spec.classes).to(logits) * (1 - smoothing) + smoothing / 2
                sums.append(functional.binary_cross_entropy_with_logits(logits, target, reduction="sum"))
        return torch.stack(sums).sum() / matches.count
