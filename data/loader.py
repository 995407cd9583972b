"""Samples as batches: the order is a function of (seed, epoch), whatever the workers, ranks and restarts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from common.cores import available_cores
from common.errors import UserError
from data.batch import Batch
from data.dataset import Dataset, Sample

# Spawn keys: they keep the streams that order the pictures apart from each other and from the streams inside samples.
_ORDER, _COMPANIONS = (1,), (2,)

Keys = list[list[tuple[int, ...]]]
"""For each batch what its samples are asked for by; those of companions have a third number."""


@dataclass(frozen=True)
class Companions:
    """Pictures that go beside those of the data set, in the same batches.

    Attributes:
        dataset: they and their boxes, if any.
        ratio: so many of them go beside each picture of the data set.
        labelled: whether their boxes are labels; without, `Batch.unlabelled` counts them.
    """

    dataset: Dataset
    ratio: float = 1.0
    labelled: bool = False


class Loader:
    """The batches of one epoch, for one rank; ``len`` counts those still to come. Made by `make_loader`."""

    def __init__(self, keys: Keys, batches: DataLoader[Any], unlabelled: bool = False):
        self.keys, self.batches, self._unlabelled = keys, batches, unlabelled

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Batch]:
        for keys, item in zip(self.keys, self.batches, strict=True):
            if isinstance(item, UserError):
                raise item
            images, targets, indices, letterboxes = item
            unlabelled = sum(_is_companion(key) for key in keys) if self._unlabelled else 0
            yield Batch(images, targets, indices, tuple(letterboxes), unlabelled)


def make_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    epoch: int = 0,
    seed: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    pin_memory: bool = False,
    companions: Companions | None = None,
    after: Loader | None = None,
) -> Loader:
    """The batches of an epoch.

    The union over ranks of their k-th batches is the k-th batch of one process with ``batch_size * world``.

    Args:
        batch_size: pictures a batch on this rank.
        start_batch: batches at the start of the epoch that are skipped without being loaded (to resume).
        rank, world: this process among how many.
        workers: processes that prepare batches, never more than there are cores; the result does not depend on it.
        shuffle: in the order given by (seed, epoch), and augmented with `epoch`; else in the data set's order.
        drop_last: leave out a last batch that is not full.
        companions: pictures that follow those of the data set in every batch; `batch_size` does not count them.
        after: the loader of the epoch before, with the same pictures and workers, whose processes go on.

    A last global batch with fewer pictures than ranks is left out when shuffling (in training every rank has to
    step); otherwise ranks without a share have one batch fewer.

    Raises:
        UserError: `batch_size` is below 1, or no batch can be made.
    """
    if batch_size < 1:
        raise UserError(f"the batch size must be at least 1, not {batch_size}", todo="give --batch-size 16")
    assert 0 <= rank < world, f"rank {rank} of {world}"
    keys = batch_keys(len(dataset), batch_size, epoch, seed, rank, world, shuffle, drop_last)
    if not keys and (shuffle or rank == 0):
        raise UserError(
            f"{len(dataset)} pictures do not fill one batch of {batch_size * world}",
            todo=f"give --batch-size {max(1, len(dataset) // world)} or less",
        )
    if companions is not None:
        beside = companion_keys(len(dataset), batch_size, epoch, seed, rank, world, companions)
        keys = [[*own, *more] for own, more in zip(keys, beside)]
    keys = keys[start_batch:]
    if after is not None:
        batches = after.batches
        batches.batch_sampler.keys = keys  # type: ignore[union-attr]
    else:
        workers = min(workers, available_cores())
        batches = DataLoader(
            _Guarded(dataset, companions),
            batch_sampler=_Order(keys),
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_start_worker,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
        )
    return Loader(keys, batches, companions is not None and not companions.labelled)


class _Order(Sampler[list[tuple[int, ...]]]):
    """What a `DataLoader` asks its processes for, which another epoch may replace."""

    def __init__(self, keys: Keys):
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        return iter(self.keys)


def batch_keys(
    count: int, batch_size: int, epoch: int, seed: int, rank: int, world: int, shuffle: bool, drop_last: bool
) -> Keys:
    """For each batch of this rank the (epoch, index) of its samples."""
    order = np.arange(count)
    if shuffle:
        order = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=_ORDER)).permutation(count)
    step = batch_size * world
    batches: Keys = []
    for start in range(0, count, step):
        together = order[start : start + step]
        if (drop_last and len(together) < step) or (shuffle and len(together) < world):
            break
        own: list[tuple[int, ...]] = [(epoch, int(index)) for index in together[rank::world]]
        if own:
            batches.append(own)
    return batches


def companion_keys(
    count: int, batch_size: int, epoch: int, seed: int, rank: int, world: int, companions: Companions
) -> Keys:
    """For each batch of this rank the (epoch, index, turn) of the companions beside its pictures.

    They are dealt from one endless row of passes, each in an order of its own given by (seed, pass): all are seen
    equally often, give or take one, and a training that goes on in the middle of an epoch deals on from there. The turn
    is the pass, from 1.

    Args:
        count: pictures of the data set, of which `batch_size` go into a batch of this rank.
    """
    every, step = len(companions.dataset), batch_size * world
    orders: dict[int, np.ndarray] = {}

    def dealt(place: int) -> tuple[int, ...]:
        turn, position = divmod(place, every)
        if turn not in orders:
            stream = np.random.SeedSequence((seed, turn), spawn_key=_COMPANIONS)
            orders[turn] = np.random.default_rng(stream).permutation(every)
        return epoch, int(orders[turn][position]), turn + 1

    before = epoch * count
    bounds = [math.floor(companions.ratio * (before + min(start, count))) for start in range(0, count + step, step)]
    return [[dealt(place) for place in range(*ends)][rank::world] for ends in itertools.pairwise(bounds)]


def _is_companion(key: tuple[int, ...]) -> bool:
    return len(key) > 2


def collate(samples: list[Sample]) -> Batch:
    """B samples -> one `Batch`; targets get the picture's place in the batch as first column."""
    targets = torch.cat(
        [
            torch.cat([torch.full((len(sample.boxes), 1), float(place)), sample.boxes], dim=1)
            for place, sample in enumerate(samples)
        ]
    )
    # Stacked as they lie in memory, channels last: turning them round takes longer than all else here.
    images = torch.stack([sample.image.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
    return Batch(
        images,
        targets,
        torch.tensor([sample.index for sample in samples]),
        tuple(sample.letterbox for sample in samples),
    )


class _Guarded(TorchDataset[Any]):
    """Hands a `UserError` on as a value: raised in a worker, torch would rebuild it without its fields."""

    def __init__(self, dataset: Dataset, companions: Companions | None):
        self.dataset, self.companions = dataset, companions

    def __getitem__(self, key: tuple[int, ...]) -> Sample | UserError:
        try:
            if self.companions and _is_companion(key):
                return replace(self.companions.dataset[key], index=-1)
            return self.dataset[key]
        except UserError as error:
            return error


def _collate(samples: list[Sample | UserError]) -> Any:
    good = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        good.append(sample)
    batch = collate(good)
    return batch.images, batch.targets, batch.indices, batch.letterboxes  # a tuple: torch pins its tensors


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread a worker; more would fight over the cores
    torch.set_num_threads(1)
