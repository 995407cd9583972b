from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from data.batch import Batch
from data.dataset import Dataset
from data.loader import Companions, batch_keys, make_loader
from data.options import AugmentConfig
from tests.data.made import many


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(many(tmp_path, 11), "train", (48, 64), AugmentConfig(), cache="ram", seed=1)


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.targets, second.targets)
        and torch.equal(first.indices, second.indices)
        and first.letterboxes == second.letterboxes
    )


def test_a_batch_holds_pictures_targets_and_letterboxes(dataset: Dataset) -> None:
    loader = make_loader(dataset, 4, shuffle=False)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    batch = batches[1]
    assert batch.images.shape == (4, 3, 48, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.targets.shape[1] == 6
    assert len(batch.letterboxes) == 4
    for place in range(4):
        mine = batch.targets[batch.targets[:, 0] == place, 1:]
        torch.testing.assert_close(mine, dataset[(0, 4 + place)].boxes)
    assert batch.prepared("cpu").images.max() <= 1


def test_workers_change_nothing(dataset: Dataset) -> None:
    alone = list(make_loader(dataset, 3, epoch=2, seed=7))
    helped = list(make_loader(dataset, 3, epoch=2, seed=7, workers=2))
    assert len(alone) == len(helped)
    assert all(map(equal, alone, helped))


def test_the_processes_of_an_epoch_go_on_in_the_next(dataset: Dataset) -> None:
    loader, seen = None, []
    for epoch in (2, 3):
        loader = make_loader(dataset, 3, epoch=epoch, seed=7, workers=1, after=loader)
        helped = list(loader)
        assert all(map(equal, make_loader(dataset, 3, epoch=epoch, seed=7), helped))
        seen.append({child.pid for child in multiprocessing.active_children()})
    assert len(seen[0]) == 1
    assert seen[0] == seen[1]
    del loader
    assert not multiprocessing.active_children()


def test_no_more_workers_than_cores(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.loader.available_cores", lambda: 1)
    list(loader := make_loader(dataset, 3, workers=4))
    assert loader.batches.num_workers == 1


def test_resuming_in_an_epoch_gives_the_rest_of_it(dataset: Dataset) -> None:
    whole = list(make_loader(dataset, 3, epoch=1, seed=7))
    rest = make_loader(dataset, 3, epoch=1, seed=7, start_batch=2)
    assert len(rest) == 2
    assert all(map(equal, whole[2:], rest))
    assert list(make_loader(dataset, 3, epoch=1, seed=7, start_batch=4)) == []


def test_skipped_batches_are_not_loaded(tmp_path: Path) -> None:
    dataset = Dataset(many(tmp_path, 4), "train", (48, 64))
    dataset.pictures[0].unlink()
    (batch,) = make_loader(dataset, 2, shuffle=False, start_batch=1)
    assert batch.indices.tolist() == [2, 3]


@pytest.mark.parametrize(("world", "each"), [(2, 2), (3, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_together_see_the_batches_of_one_process(dataset: Dataset, world: int, each: int, shuffle: bool) -> None:
    one = list(make_loader(dataset, each * world, epoch=3, seed=2, shuffle=shuffle))
    shares = [
        list(make_loader(dataset, each, epoch=3, seed=2, rank=rank, world=world, shuffle=shuffle))
        for rank in range(world)
    ]
    if shuffle:
        assert len({len(share) for share in shares}) == 1, "every rank takes the same number of steps"
    steps = max(map(len, shares))
    assert steps >= len(one) - 1
    for step in range(steps):
        mine = [share[step] for share in shares if step < len(share)]
        together = {
            int(index): image for batch in mine for index, image in zip(batch.indices, batch.images, strict=True)
        }
        wanted = {int(index): image for index, image in zip(one[step].indices, one[step].images, strict=True)}
        assert together.keys() == wanted.keys()
        assert all(torch.equal(together[index], wanted[index]) for index in wanted)
        assert sum(len(batch.indices) for batch in mine) == len(wanted)


def test_an_order_for_every_seed_and_epoch(dataset: Dataset) -> None:
    def order(**options: int) -> list[int]:
        keys = batch_keys(100, 10, options.get("epoch", 0), options.get("seed", 0), 0, 1, True, False)
        return [index for batch in keys for _, index in batch]

    assert sorted(order()) == list(range(100))
    assert order() == order() != order(epoch=1)
    assert order(seed=1) not in (order(), order(epoch=1))


def test_dropping_the_last_batch(dataset: Dataset) -> None:
    assert [len(batch.indices) for batch in make_loader(dataset, 4, drop_last=True)] == [4, 4]
    with pytest.raises(UserError, match=r"11 pictures do not fill one batch of 16.*\n.*--batch-size 11"):
        make_loader(dataset, 16, drop_last=True)
    with pytest.raises(UserError, match="at least 1, not 0"):
        make_loader(dataset, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_in_a_worker_arrives_as_it_was(tmp_path: Path, workers: int) -> None:
    dataset = Dataset(many(tmp_path, 3), "train", (48, 64))
    dataset.pictures[2].unlink()
    with pytest.raises(UserError) as caught:
        list(make_loader(dataset, 1, shuffle=False, workers=workers))
    assert caught.value.where == dataset.pictures[2]
    assert "cannot be read" in caught.value.problem
    assert "Traceback" not in str(caught.value)


def test_a_dataset_can_be_sent_to_another_process(dataset: Dataset) -> None:
    twin = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(twin[(1, 2)].image, dataset[(1, 2)].image)


def beside(dataset: Dataset, **options: Any) -> Companions:
    """All pictures of the data set but the last four, as companions."""
    count = len(dataset) - 4
    found = replace(
        dataset.scan,
        pictures=dataset.pictures[:count],
        shapes=dataset.shapes[:count],
        labels=[dataset.labels[0]] * count,
    )
    return Companions(
        Dataset(dataset.spec, "unlabelled", dataset.size, dataset.augment, seed=1, found=found), **options
    )


@pytest.mark.parametrize(
    ("ratio", "first"),
    [(1.0, [4, 4, 3]), (0.5, [2, 2, 1]), (2.0, [8, 8, 6]), (0.3, [1, 1, 1])],
    ids=["as many", "half", "twice", "few"],
)
def test_companions_follow_the_labelled_pictures_of_every_batch(
    dataset: Dataset, ratio: float, first: list[int]
) -> None:
    plain = list(make_loader(dataset, 4, epoch=0, seed=7))
    batches = list(make_loader(dataset, 4, epoch=0, seed=7, companions=beside(dataset, ratio=ratio)))
    assert [batch.unlabelled for batch in batches] == first
    assert [batch.labelled for batch in batches] == [4, 4, 3]
    for one, other in zip(plain, batches, strict=True):
        assert torch.equal(one.images, other.images[: other.labelled])
        assert torch.equal(one.indices, other.indices[: other.labelled])


def test_every_companion_is_seen_equally_often_and_varied_anew(dataset: Dataset) -> None:
    """11 pictures an epoch beside 7 companions: a pass of theirs ends within an epoch."""
    companions = beside(dataset, ratio=1.0)
    seen: list[int] = []
    pictures = set()
    for epoch in range(7):
        loader = make_loader(dataset, 4, epoch=epoch, seed=7, companions=companions)
        seen += [key[1] for keys in loader.keys for key in keys[-(len(keys) // 2) :]]  # as many as the others
        for batch in loader:
            assert batch.indices[batch.labelled :].tolist() == [-1] * batch.unlabelled
            pictures |= {image.numpy().tobytes() for image in batch.images[batch.labelled :]}
    assert [seen.count(number) for number in range(7)] == [11] * 7
    assert seen[:7] != seen[7:14]
    assert len(pictures) == 77


def test_companions_do_not_depend_on_workers_ranks_or_a_restart(dataset: Dataset) -> None:
    companions = beside(dataset, ratio=1.5)
    whole = list(make_loader(dataset, 4, epoch=3, seed=7, companions=companions))
    assert all(map(equal, whole, make_loader(dataset, 4, epoch=3, seed=7, companions=companions, workers=2)))
    assert all(map(equal, whole[1:], make_loader(dataset, 4, epoch=3, seed=7, companions=companions, start_batch=1)))
    ranks = [make_loader(dataset, 2, epoch=3, seed=7, companions=companions, rank=rank, world=2) for rank in (0, 1)]
    for together, *shares in zip(whole, *ranks, strict=True):
        wanted = {image.numpy().tobytes() for image in together.images[together.labelled :]}
        found = [image.numpy().tobytes() for each in shares for image in each.images[each.labelled :]]
        assert len(found) == together.unlabelled
        assert set(found) == wanted


def test_companions_whose_boxes_stand_for_labels_count_as_labelled(dataset: Dataset) -> None:
    batch = next(iter(make_loader(dataset, 4, seed=7, companions=beside(dataset, labelled=True))))
    assert (batch.unlabelled, batch.labelled) == (0, 8)
    assert batch.targets[:, 0].max() >= 4
