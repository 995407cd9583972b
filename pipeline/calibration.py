"""The pictures by which a network is mended without training: some to measure and solve on, and val to judge."""

from __future__ import annotations

import itertools
from functools import cached_property

import prune
from data import Dataset, DataSpec, make_loader
from data.batch import Batch
from engine import distributed, evaluate
from models.network import Network
from pipeline.distil_options import DistilConfig
from pipeline.footage import unlabelled_batches
from prune.reconstruct import PICTURES as SOLVED_ON

PICTURES = 256
"""Training pictures, without augmentation, on which BatchNorm is re-estimated, gradients are taken, layers solved."""


class Calibration:
    """Some training pictures as they are, and val.

    Args:
        config: the options.
        spec: the data set; read only once something asks for pictures.
        resize: how the network's pictures are resized.
    """

    def __init__(self, config: DistilConfig, spec: DataSpec, resize: str):
        self.options, self.spec, self.resize = config, spec, resize
        self.device = distributed.start(config.device)

    @cached_property
    def batches(self) -> list[Batch]:
        """A few hundred training pictures without augmentation, drawn with ``--seed``; no batch is smaller."""
        pictures = Dataset(self.spec, "train", self.options.input_size, resize=self.resize)
        size = min(self.options.scoring_batch, len(pictures))
        workers = self.options.workers
        loader = make_loader(pictures, size, seed=self.options.seed, workers=workers, drop_last=True)
        return list(itertools.islice(loader, max(1, PICTURES // size)))

    @cached_property
    def to_solve_on(self) -> list[Batch]:
        """What a thin network is solved on: training pictures, and as many of ``--unlabelled`` once gathered."""
        if not self.options.unlabelled:
            return self.batches
        half = SOLVED_ON // 2
        train = self.batches[: max(1, half // self.options.scoring_batch)]
        return [*train, *unlabelled_batches(self.options, self.spec, half, self.resize)]

    @cached_property
    def val(self) -> Dataset:
        return Dataset(self.spec, "val", self.options.input_size, resize=self.resize)

    def val_score(self, network: Network) -> float:
        """val mAP50-95, on the device that is chosen."""
        return evaluate(
            network,
            self.spec,
            "val",
            batch_size=self.options.scoring_batch,
            device=self.device,
            workers=self.options.workers,
            dataset=self.val,
        ).map50_95

    def solve(self, thin: Network, ancestor: Network) -> prune.Reconstruction:
        """`prune.reconstruct_if_better` on these pictures, in place; both networks are then on the CPU.

        Raises:
            UserError: `ancestor` is none of `thin`.
        """
        thin.to(self.device)
        ancestor.to(self.device)
        try:
            return prune.reconstruct_if_better(thin, ancestor, self.to_solve_on, self.val_score)
        finally:
            thin.cpu()
            ancestor.cpu()
