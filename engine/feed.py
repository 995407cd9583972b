"""What a training is fed: its data sets, the pictures of a batch and of a step, the batches of an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import data as data_room
from common.errors import UserError
from data.footage import Footage
from data.loader import Companions, Loader
from engine import checkpoints, distributed
from engine.batchsize import fitting_batch, say_steps, with_nominal_batch
from engine.config import TrainConfig
from engine.seams import Objective


@dataclass(frozen=True)
class Feed:
    """The data of a training.

    Attributes:
        config: the options, with the ``--nominal-batch`` that the data decided.
        train_set: the pictures with labels; its size decides how many steps an epoch has.
        val_set: on rank 0.
        companions: pictures without labels that go beside them.
        batch: labelled pictures of a forward pass on this rank.
        accumulate: batches of an optimiser step.
        pin_memory: for a GPU.
        running: the loader of the last epoch that was asked for, whose processes go on in the next; at most one.
    """

    config: TrainConfig
    train_set: data_room.Dataset
    val_set: data_room.Dataset | None
    companions: Companions | None
    batch: int
    accumulate: int
    pin_memory: bool
    running: list[Loader] = field(default_factory=list)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self._loader(epoch=0, start=0, workers=0)) / self.accumulate)

    def batches(self, epoch: int, start: int) -> Loader:
        """Those of an epoch on this rank, from batch `start` on. Its processes live until `close`."""
        self.running[:] = [self._loader(epoch, start, self.config.workers, *self.running)]
        return self.running[0]

    def close(self) -> None:
        """End the processes that load pictures."""
        self.running.clear()

    def _loader(self, epoch: int, start: int, workers: int, after: Loader | None = None) -> Loader:
        return data_room.make_loader(
            self.train_set,
            self.batch,
            epoch=epoch,
            seed=self.config.seed,
            start_batch=start,
            rank=distributed.rank(),
            world=distributed.world(),
            workers=workers,
            pin_memory=self.pin_memory,
            companions=self.companions,
            after=after,
        )


def make_feed(
    objective: Objective,
    spec: data_room.DataSpec,
    config: TrainConfig,
    run_dir: Path,
    footage: Footage | None,
    folds: int,
) -> Feed:
    """The data of a training of `objective`, which is on its device.

    Args:
        footage: pictures without labels, if any.
        folds: no sample mixes pictures of two of them.

    Raises:
        UserError: the data set has errors, or the batch does not divide among the processes.
    """
    device, size = next(objective.parameters()).device, config.input_size
    cache = None if config.cache == "off" else config.cache
    last_epochs = config.epochs - min(config.close_mosaic, config.epochs // 2)
    way = objective.network.resize
    train_set = data_room.Dataset(
        spec, "train", size, config.augment, cache, config.seed, last_epochs, folds=folds, resize=way
    )
    companions = None
    if footage is not None:
        companions = footage.companions(spec, size, config.augment, cache, config.seed, last_epochs, way)
    val_set = data_room.Dataset(spec, "val", size, cache=cache, resize=way) if distributed.is_main() else None
    world = distributed.world()
    if by_data := not config.nominal_batch:
        config = with_nominal_batch(config, len(train_set))
    if (wanted := config.batch_size) < 0:  # a resumed training keeps its own, whatever memory holds now
        known = distributed.broadcast(checkpoints.batch_of(run_dir) if config.resume else 0)
        wanted = known or fitting_batch(objective, config, device, beside=companions.ratio if companions else 0.0)
    elif wanted % world:
        raise UserError(
            f"--batch-size {wanted} does not divide among {world} processes",
            todo=f"--batch-size {max(world, wanted - wanted % world)}: a multiple of their number",
        )
    if len(train_set) < world:
        raise UserError(
            f"{len(train_set)} training pictures do not give each of {world} processes one",
            where=spec.source,
            todo=f"start {len(train_set)} processes or fewer",
        )
    # More than the data set holds would only be a smaller batch by another name.
    wanted = min(distributed.broadcast(wanted), len(train_set))
    wanted = max(world, wanted - wanted % world)
    accumulate = max(1, round(config.nominal_batch / wanted))
    feed = Feed(config, train_set, val_set, companions, wanted // world, accumulate, device.type == "cuda")
    if by_data:
        say_steps(config, len(train_set), feed.steps_per_epoch)
    return feed
