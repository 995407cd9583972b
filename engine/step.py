"""The loss of one optimiser step: the trainer's, and that of whatever measures steps or gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional

from data.batch import Batch
from engine import distributed
from engine.seams import Objective, Terms

_STEP = 1  # keeps the random stream of a step apart


def training_step(
    objective: Objective,
    batches: Sequence[Batch],
    progress: float,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    wrapped: nn.Module | None = None,
    pictures: float | None = None,
) -> Iterator[tuple[Terms, float]]:
    """The terms of every batch that an optimiser step accumulates, and the batch's share of the step's pictures.

    Pictures are those with labels: others go beside them and change neither steps nor shares.

    The step's loss is the sum of ``terms.total() * share``, so its gradient is that of one large batch; a single batch
    has the share 1. The caller takes a batch's gradient before it asks for the next one: memory then holds one graph
    at a time, and of several processes only the last batch's gradients are averaged.

    Args:
        objective: what is minimised.
        batches: on the device, floats in 0..1, in their final size.
        progress: in 0..1 of the planned training.
        autocast: the context of a forward pass, `Precision.autocast`.
        wrapped: `objective` as DDP wraps it, where it does.
        pictures: of the step on the average rank, by default those of `batches`: DDP averages gradients over ranks,
            this over pictures.
    """
    pictures = pictures or float(sum(batch.labelled for batch in batches))
    module = objective if wrapped is None else wrapped
    objective.begin_step(batches)
    for number, batch in enumerate(batches, start=1):
        with distributed.gradients_stay_local(module, number < len(batches)):
            with autocast():
                terms = module(batch, progress)
            yield terms, batch.labelled / pictures


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """`size` batches at a time; the last group of an epoch may be smaller, so no step reaches over its end."""
    source = iter(batches)
    while group := list(itertools.islice(source, size)):
        yield group


def resized(batch: Batch, size: tuple[int, int]) -> Batch:
    """The batch with its pictures and boxes scaled to `size` (H, W)."""
    height, width = batch.images.shape[2:]
    if (height, width) == size:
        return batch
    images = functional.interpolate(batch.images, size, mode="bilinear", align_corners=False)
    factors = batch.targets.new_tensor([1, 1, size[1] / width, size[0] / height, size[1] / width, size[0] / height])
    return replace(batch, images=images, targets=batch.targets * factors)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The torch seed of a step: neighbouring steps, seeds and ranks get unrelated streams."""
    return int(np.random.SeedSequence((seed, step, rank, _STEP)).generate_state(1, np.uint64)[0] >> np.uint64(1))
