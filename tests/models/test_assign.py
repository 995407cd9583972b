"""Assignment against a brute-force reference that loops over boxes, cells and anchors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.assign.by_shape import assign
from models.heads import AnchoredSpec
from models.spec import Matches

ANCHORS = (((8.0, 10.0), (16.0, 12.0)), ((40.0, 30.0), (60.0, 90.0)))


def specs_with(scale_x_y: float, new_coords: bool = False) -> tuple[AnchoredSpec, ...]:
    return tuple(AnchoredSpec(anchors, stride, 3, scale_x_y, new_coords) for anchors, stride in zip(ANCHORS, (8, 16)))


SHAPES = [(6, 8), (3, 4)]  # a 64 x 48 picture


def random_targets(count: int, seed: int = 0, pictures: int = 3) -> Tensor:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, pictures, (count, 1))
    label = generator.integers(0, 3, (count, 1))
    centre = generator.uniform(0, 1, (count, 2)) * (64, 48)
    size = np.exp(generator.uniform(np.log(1.5), np.log(250), (count, 2)))
    return torch.tensor(np.concatenate([image, label, centre, size], axis=1))


def rows_of(matches: Matches) -> list[list[tuple[int, ...]]]:
    """Per head (picture, anchor, row, column, row of the target table)."""
    names = ("image", "anchor", "row", "col", "target")
    return [list(zip(*(getattr(head, name).tolist() for name in names))) for head in matches.heads]


def reference(specs: tuple[AnchoredSpec, ...], targets: Tensor) -> list[list[tuple[int, ...]]]:
    """The rules of `assign`, word by word, on Python numbers."""
    claims: list[dict[tuple[int, ...], list[tuple]]] = [{} for _ in specs]
    for t, (image, _, cx, cy, w, h) in enumerate(targets.tolist()):
        pairs = [(i, a, *anchor) for i, spec in enumerate(specs) for a, anchor in enumerate(spec.anchors)]
        fitting = [p for p in pairs if max(w / p[2], p[2] / w, h / p[3], p[3] / h) < 4]
        if not fitting:
            overlap = [min(w, p[2]) * min(h, p[3]) for p in pairs]
            iou = [o / (w * h + p[2] * p[3] - o) for o, p in zip(overlap, pairs)]
            fitting = [pairs[iou.index(max(iou))]]
        for i, a, _, _ in fitting:
            (rows, cols), stride, past = SHAPES[i], specs[i].stride, (specs[i].scale_x_y - 1) / 2
            x, y = cx / stride, cy / stride
            col, row = int(x), int(y)
            places = [(row, col, 0)]
            for step in (-1, 1):
                near = abs(x - (col + step + 0.5)) < 1  # the nearer of the two neighbours
                if -past < x - (col + step) < 1 + past and near and 0 <= col + step < cols:
                    places.append((row, col + step, 1))
                near = abs(y - (row + step + 0.5)) < 1
                if -past < y - (row + step) < 1 + past and near and 0 <= row + step < rows:
                    places.append((row + step, col, 1))
            for r, c, neighbour in places:
                claims[i].setdefault((int(image), a, r, c), []).append((neighbour, w * h, t))
    return [[(*place, min(rivals)[2]) for place, rivals in sorted(head.items())] for head in claims]


@pytest.mark.parametrize("scale_x_y", [1.0, 1.05, 1.2, 1.6, 2.0, 3.0])
def test_matches_are_those_of_the_rules(scale_x_y: float) -> None:
    specs, targets = specs_with(scale_x_y), random_targets(150)
    assert rows_of(assign(specs, SHAPES, targets)) == reference(specs, targets)


def test_matches_carry_box_and_label_of_their_target() -> None:
    targets = random_targets(60)
    for head in assign(specs_with(2.0), SHAPES, targets).heads:
        assert torch.equal(head.box, targets[head.target, 2:])
        assert torch.equal(head.label, targets[head.target, 1].long())
        assert torch.equal(head.image, targets[head.target, 0].long())


def test_every_lone_box_is_assigned_whatever_its_size() -> None:
    sizes = [(0.5, 0.5), (1, 300), (300, 1), (5000, 4000), (20, 20)]
    for width, height in sizes:
        for new_coords in (False, True):
            target = torch.tensor([[0, 0, 30.0, 20.0, width, height]])
            matches = assign(specs_with(1.0, new_coords), SHAPES, target)
            assert sum(len(head) for head in matches.heads) >= 1, (width, height)


def test_box_out_of_reach_gets_the_single_anchor_of_best_overlap() -> None:
    target = torch.tensor([[0, 0, 30.0, 20.0, 1.0, 1.2]])  # 1 : 8 from the smallest anchor
    assert rows_of(assign(specs_with(1.0), SHAPES, target)) == [[(0, 0, 2, 3, 0)], []]


@pytest.mark.parametrize(
    ("x", "y", "scale_x_y", "cells"),
    [
        (18.0, 18.0, 1.0, {(2, 2)}),
        (18.0, 18.0, 2.0, {(2, 2), (2, 1), (1, 2)}),  # .25 into the cell: left and upper neighbour
        (22.0, 22.0, 2.0, {(2, 2), (2, 3), (3, 2)}),
        (20.0, 20.0, 2.0, {(2, 2)}),  # the middle is half a cell from either neighbour: on the open border
        (20.0, 20.0, 3.0, {(2, 2)}),
        (18.0, 18.0, 1.2, {(2, 2)}),  # reach .1 of a cell
        (16.4, 23.7, 1.2, {(2, 2), (2, 1), (3, 2)}),
        (1.0, 1.0, 2.0, {(0, 0)}),  # neighbours outside the grid
        (64.0, 48.0, 1.0, {(5, 7)}),  # a centre on the far border belongs to the last cell
    ],
)
def test_neighbours_are_those_that_can_reach_the_centre(x: float, y: float, scale_x_y: float, cells: set) -> None:
    target = torch.tensor([[0, 0, x, y, 3.0, 3.0]])  # fits the finest anchor only
    first, second = rows_of(assign(specs_with(scale_x_y), SHAPES, target))
    assert {(row, col) for _, _, row, col, _ in first} == cells
    assert not second


def test_cell_claimed_twice_goes_to_the_box_that_lies_in_it_then_to_the_smaller_then_to_the_first() -> None:
    big, small, beside = [0, 0, 20.0, 20.0, 8.0, 9.0], [0, 1, 20.5, 20.0, 6.0, 7.0], [0, 2, 24.5, 20.0, 5.0, 5.0]

    def owner(*targets: list[float]) -> list[int]:
        """The targets of cell (2, 2) at the first anchor."""
        matches = assign(specs_with(2.0), SHAPES, torch.tensor(targets))
        return [t for _, a, row, col, t in rows_of(matches)[0] if (a, row, col) == (0, 2, 2)]

    assert owner(big, small) == [1]
    assert owner(small, big) == [0]
    assert owner(big, big) == [0]
    assert owner(beside, big) == [1]  # smaller, but it only reaches over from the next cell
    assert owner(beside) == [0]


def test_batch_put_together_equals_its_pictures_one_by_one() -> None:
    targets = random_targets(90)
    together = rows_of(assign(specs_with(2.0), SHAPES, targets))
    for picture in range(3):
        mine = (targets[:, 0] == picture).nonzero().flatten()
        alone = rows_of(assign(specs_with(2.0), SHAPES, targets[mine]))
        for all_rows, rows in zip(together, alone):
            assert [row for row in all_rows if row[0] == picture] == [(*row[:4], int(mine[row[4]])) for row in rows]


def test_order_of_boxes_of_different_size_does_not_matter() -> None:
    targets = random_targets(100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    straight, shuffled = assign(specs_with(2.0), SHAPES, targets), assign(specs_with(2.0), SHAPES, targets[order])
    for one, other in zip(straight.heads, shuffled.heads):
        assert torch.equal(one.target, order[other.target])
        assert torch.equal(one.col, other.col)


def test_no_boxes_give_empty_matches_with_the_right_types() -> None:
    matches = assign(specs_with(2.0), SHAPES, torch.zeros(0, 6))
    head = torch.randn(2, 2, 6, 8, 8)
    assert matches.heads[0].pick(head).shape == (0, 8)
    assert all(len(one) == 0 and one.image.dtype == torch.long and one.box.shape == (0, 4) for one in matches.heads)


def test_count_goes_through_the_mean_over_ranks() -> None:
    matches = assign(specs_with(1.0), SHAPES, random_targets(5), mean_over_ranks=lambda value: value * 2)
    assert float(matches.count) == 2 * sum(len(head) for head in matches.heads)
