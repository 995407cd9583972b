"""What plain training minimises: the detection loss of one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from data.batch import Batch
from engine.distributed import mean_over_ranks, world
from engine.seams import Objective, Terms
from models.loss.criterion import criterion
from models.network import Network
from models.options import LossConfig
from models.spec import Matches


class DetectionObjective(Objective):
    """The detection loss against the ground truth: that of the family of the network's heads.

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
        self.detection = criterion(network.specs, config)
        self.mean_over_ranks = mean_over_ranks
        self._amount_per_picture: Tensor | None = None

    def begin_step(self, batches: Sequence[Batch]) -> None:
        """Count what is matched in the whole optimiser step (`Criterion.amount`).

        Every batch of the step then divides by the same amount per picture: the gradient is that of one large batch
        however it was split. A mean of the batches' own means would favour the batch with fewer objects.
        """
        self._amount_per_picture = None
        if len(batches) == 1 and world() == 1:
            return
        matched = torch.stack([self._amount(batch) for batch in batches]).sum()
        pictures = torch.full_like(matched, float(sum(batch.labelled for batch in batches)))
        self._amount_per_picture = self.mean_over_ranks(matched) / self.mean_over_ranks(pictures)

    def _amount(self, batch: Batch) -> Tensor:
        height, width = batch.images.shape[2:]
        return self.detection.amount((height, width), batch.targets)

    def matched(self, batch: Batch, heads: Sequence[Tensor]) -> Matches:
        """The assignment of the batch's ground truth to the places of `heads`, each ``(B, A, H, W, K)``."""
        matches = self.detection.assign(heads, batch.targets, self.mean_over_ranks)
        expected = None if self._amount_per_picture is None else self._amount_per_picture * batch.labelled
        return replace(matches, expected=expected, pictures=batch.labelled)

    def forward(self, batch: Batch, progress: float) -> Terms:
        heads = self.network(batch.images)
        return self.detected(batch, heads, self.matched(batch, heads))

    def detected(self, batch: Batch, heads: Sequence[Tensor], matches: Matches) -> Terms:
        """The detection loss, of the labelled pictures only: where nobody looked for objects there is no background."""
        if batch.unlabelled:
            heads = [head[: batch.labelled] for head in heads]
        return Terms(self.detection(heads, matches), self.detection.weights)
