"""The loss of a step: how its batches count, and what pictures and random numbers it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from engine.batchsize import _probe_gpu
from engine.objective import DetectionObjective
from engine.seams import Terms
from engine.step import resized, step_seed, training_step
from tests.engine.job import AdaptedObjective, make_network


def batch_of(pictures: int, seed: int = 0) -> Batch:
    """Pictures of noise; every second one with an object."""
    images = torch.rand(pictures, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    rows = [[number, number % 3, 30.0 + number, 28.0, 14.0, 22.0] for number in range(0, pictures, 2)]
    return Batch(images, torch.tensor(rows), torch.arange(pictures))


def parts(batch: Batch, sizes: Sequence[int]) -> list[Batch]:
    found, begin = [], 0
    for size in sizes:
        inside = (batch.targets[:, 0] >= begin) & (batch.targets[:, 0] < begin + size)
        targets = batch.targets[inside] - torch.tensor([float(begin), 0, 0, 0, 0, 0])
        found.append(Batch(batch.images[begin : begin + size], targets, torch.arange(size)))
        begin += size
    return found


def gradients(batches: Sequence[Batch]) -> list[Tensor]:
    objective = DetectionObjective(make_network(living=True)).eval()  # BatchNorm's statistics are held
    shares = []
    for terms, share in training_step(objective, batches, 0.0):
        (terms.total() * share).backward()
        shares.append(share)
    assert sum(shares) == pytest.approx(1)
    return [each.grad for each in objective.parameters() if each.grad is not None]


def test_gradient_of_a_step_is_that_of_one_batch_however_it_is_split() -> None:
    batch = batch_of(6)
    whole = gradients([batch])
    for sizes in ((3, 3), (4, 1, 1)):
        for one, other in zip(whole, gradients(parts(batch, sizes)), strict=True):
            assert (one - other).norm() <= 1e-4 * one.norm().clamp(min=1e-6)


def with_footage(batch: Batch, pictures: Tensor) -> Batch:
    images = torch.cat([batch.images, pictures])
    return Batch(images, batch.targets, torch.arange(len(images)), unlabelled=len(pictures))


def test_object_on_an_unlabelled_picture_gives_no_background_loss() -> None:
    """Value and gradient are those of the labelled pictures alone, whatever is on the others."""
    batch = batch_of(3)
    empty = torch.full((2, 3, 64, 64), 0.4)
    filled = empty.clone()
    filled[0, 0, 20:50, 10:40] = 1
    objective = DetectionObjective(make_network(living=True)).eval()
    alone, *others = (objective(each, 0.0) for each in (batch, *(with_footage(batch, p) for p in (empty, filled))))
    heads = [objective.network(each)[0] for each in (empty, filled)]
    assert not torch.allclose(*heads), "the network sees the object"
    for other in others:
        assert {name: value.item() for name, value in other.values.items()} == pytest.approx(
            {name: value.item() for name, value in alone.values.items()}, rel=1e-5
        )
    wanted = gradients([batch])
    for pictures in (empty, filled):
        for one, other in zip(wanted, gradients([with_footage(batch, pictures)]), strict=True):
            assert (one - other).norm() <= 1e-4 * one.norm().clamp(min=1e-6)


def test_unlabelled_pictures_change_neither_shares_nor_gradient_of_a_split_step() -> None:
    """Batches of unequal many, beside unequal many without labels."""
    whole = gradients([batch_of(6)])
    pictures = torch.rand(5, 3, 64, 64)
    split = [with_footage(part, pictures[:count]) for part, count in zip(parts(batch_of(6), (4, 2)), (1, 5))]
    objective = DetectionObjective(make_network(living=True)).eval()
    assert [share for _, share in training_step(objective, split, 0.0)] == pytest.approx([4 / 6, 2 / 6])
    for one, other in zip(whole, gradients(split), strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm().clamp(min=1e-6)


def test_batch_of_a_step_that_holds_more_pictures_elsewhere_counts_less() -> None:
    """`pictures` is the mean over processes: DDP averages what each has."""
    objective, batch = DetectionObjective(make_network()), batch_of(2)
    assert [share for _, share in training_step(objective, [batch], 0.0)] == [1]
    assert [share for _, share in training_step(objective, [batch, batch], 0.0, pictures=8)] == [0.25, 0.25]


def test_batch_sizes_that_are_tried_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--batch-size -1` takes real steps; a GPU of 100 bytes stands in, of which a picture takes 5."""
    tried: list[int] = []
    weighted: list[float] = []
    forward = AdaptedObjective.forward

    def watched(self: AdaptedObjective, batch: Batch, progress: float) -> Terms:
        tried.append(len(batch.images))
        terms = forward(self, batch, progress)
        terms.values["colour"].register_hook(lambda gradient: weighted.append(float(gradient)))
        return terms

    monkeypatch.setattr(AdaptedObjective, "forward", watched)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 5 * tried[-1])
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    objective = AdaptedObjective(make_network(living=True)).train()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    assert _probe_gpu(objective, (64, 64), torch.device("cpu"), most=64) == 8
    assert tried == [1, 2, 4, 8]
    assert weighted == pytest.approx([0.1] * 4), "the loss is the one that is trained"
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_resizing_moves_boxes_with_their_pictures() -> None:
    images = torch.zeros(1, 3, 32, 64)
    images[:, :, 8:16, 32:48] = 1
    batch = Batch(images, torch.tensor([[0, 1, 40.0, 12.0, 16.0, 8.0]]), torch.tensor([0]))
    found = resized(batch, (64, 192))
    assert found.images.shape == (1, 3, 64, 192)
    assert found.targets.tolist() == [[0, 1, 120, 24, 48, 16]]
    rows, cols = found.images[0, 0].gt(0.5).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1) == (16, 32, 96, 144)


def test_seeds_of_steps_ranks_and_runs_all_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 800
