"""What plain training minimises: the detection loss of one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from data.batch import Batch
from engine.distributed import mean_over_ranks, world
from engine.seams import Objective, Terms
from models.assign import assign
from models.loss import DetectionLoss
from models.network import Network
from models.options import LossConfig
from models.spec import Matches


class DetectionObjective(Objective):
    """Box, objectness and class loss against the ground truth.

    A distillation objective extends `forward` and takes the assignment from `matched`, so that it is made once a batch.

    Args:
        network: the network to train.
        config: gains and options of the detection loss.
        mean_over_ranks: averages a scalar over the processes of a distributed run.
    """

    def __init__(
        self,
        network: Network,
        config: LossConfig | None = None,
        mean_over_ranks: Callable[[Tensor], Tensor] = mean_over_ranks,
    ):
        super().__init__()
        self.network = network
        self.detection = DetectionLoss(network.specs, config)
        self.mean_over_ranks = mean_over_ranks
        self._matches_per_picture: Tensor | None = None

    def begin_step(self, batches: Sequence[Batch]) -> None:
        """Count the matched cells of the whole optimiser step.

        Every batch of the step then divides by the same number of cells per picture: the gradient is that of one large
        batch however it was split. A mean of the batches' own means would favour the batch with fewer objects.
        """
        self._matches_per_picture = None
        if len(batches) == 1 and world() == 1:
            return
        counts = [
            assign(self.network.specs, _grids(self.network, batch.images), batch.targets).count for batch in batches
        ]
        matched = torch.stack(counts).sum()
        pictures = torch.full_like(matched, float(sum(batch.labelled for batch in batches)))
        self._matches_per_picture = self.mean_over_ranks(matched) / self.mean_over_ranks(pictures)

    def matched(self, batch: Batch, heads: Sequence[Tensor]) -> Matches:
        """The assignment of the batch's ground truth to the cells of `heads`, each ``(B, A, H, W, 5 + C)``."""
        shapes = [(head.shape[2], head.shape[3]) for head in heads]
        matches = assign(self.network.specs, shapes, batch.targets, mean_over_ranks=self.mean_over_ranks)
        expected = None if self._matches_per_picture is None else self._matches_per_picture * batch.labelled
        return replace(matches, expected=expected, pictures=batch.labelled)

    def forward(self, batch: Batch, progress: float) -> Terms:
        heads = self.network(batch.images)
        return self.detected(batch, heads, self.matched(batch, heads))

    def detected(self, batch: Batch, heads: Sequence[Tensor], matches: Matches) -> Terms:
        """The detection loss, of the labelled pictures only: where nobody looked for objects there is no background."""
        if batch.unlabelled:
            heads = [head[: batch.labelled] for head in heads]
        return Terms(self.detection(heads, matches), self.detection.weights)


def _grids(network: Network, images: Tensor) -> list[tuple[int, int]]:
    """(rows, columns) of each head for ``(B, 3, H, W)`` images."""
    height, width = images.shape[2:]
    return [(math.ceil(height / spec.stride), math.ceil(width / spec.stride)) for spec in network.specs]
