"""Task-aligned assignment against a reference that loops over objects and places on Python numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.assign.task_aligned import assign
from models.heads import FreeSpec
from models.spec import HeadMatches
from tests.models.free_material import (
    SHAPES,
    corners,
    decoded,
    iou,
    random_heads,
    random_targets,
    sigmoid,
    specs_with,
)

Row = tuple[int, int, int, int]
"""Picture, row, column of a place; row of the target table."""


def reference(specs: tuple[FreeSpec, ...], heads: list[Tensor], targets: Tensor, topk: int) -> list[dict[Row, float]]:
    """Per head the matches and their weights: the rules of `assign`, word by word."""
    claims: dict[tuple[int, int, int, int], list[tuple[float, int, float]]] = {}
    for t, (image, label, cx, cy, w, h) in enumerate(targets.tolist()):
        truth, found = corners(cx, cy, w, h), []
        wide, high = (side if side >= 8 else 16 for side in (w, h))
        for number, (spec, (rows, cols)) in enumerate(zip(specs, SHAPES)):
            for row in range(rows):
                for col in range(cols):
                    x, y = (col + 0.5) * spec.stride, (row + 0.5) * spec.stride
                    if not (abs(x - cx) < wide / 2 and abs(y - cy) < high / 2):
                        continue
                    logits = heads[number][int(image), 0, row, col].tolist()
                    score = sigmoid(logits[4 * spec.bins + int(label)])
                    overlap = iou(decoded(logits, spec, row, col), truth)
                    if overlap > 0:
                        found.append((math.sqrt(score) * overlap**6, overlap, (number, int(image), row, col)))
        for metric, overlap, place in sorted(found, reverse=True)[:topk]:
            claims.setdefault(place, []).append((overlap, -t, metric))
    kept = {place: max(own) for place, own in claims.items()}
    result: list[dict[Row, float]] = [{} for _ in specs]
    for (number, image, row, col), (_, minus_t, metric) in kept.items():
        own = [(m, o) for o, other, m in kept.values() if other == minus_t]
        result[number][image, row, col, -minus_t] = metric / max(own)[0] * max(o for _, o in own)
    return result


def as_dict(match: HeadMatches) -> dict[Row, float]:
    assert match.weight is not None
    columns = (match.image, match.row, match.col, match.target, match.weight)
    return {(i, r, c, t): w for i, r, c, t, w in zip(*(each.tolist() for each in columns))}


@pytest.mark.parametrize("bins", [1, 6])
@pytest.mark.parametrize("topk", [1, 4, 10])
@pytest.mark.parametrize("seed", range(4))
def test_matches_and_weights_equal_the_reference(bins: int, topk: int, seed: int) -> None:
    specs, targets = specs_with(bins), random_targets(3, each=6, seed=seed)
    heads = random_heads(specs, 3, seed)
    expected = reference(specs, heads, targets, topk)
    found = assign(specs, heads, targets, topk=topk)
    assert sum(map(len, expected)) > 6
    for match, wanted in zip(found, expected):
        assert as_dict(match) == pytest.approx(wanted, rel=1e-9)
        assert torch.equal(match.box, targets[match.target, 2:])
        assert match.label.tolist() == targets[match.target, 1].tolist()
        assert not match.anchor.any()
        order = list(zip(match.image.tolist(), match.row.tolist(), match.col.tolist()))
        assert order == sorted(set(order)), "in order, and each place once"


def one_spec(bins: int = 1) -> tuple[FreeSpec]:
    return (FreeSpec(8, 1, bins),)


def test_object_smaller_than_a_cell_has_the_places_around_it() -> None:
    """Two pixels in a corner of four cells: no middle of a cell lies in it, but four are within a stride."""
    head = torch.full((1, 1, 6, 8, 5), 1.0)
    (match,) = assign(one_spec(), [head], torch.tensor([[0, 0, 24.0, 16.0, 2.0, 2.0]]))
    assert sorted(zip(match.row.tolist(), match.col.tolist())) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert match.weight is not None
    assert match.weight.tolist() == pytest.approx([4 / 256] * 4), "the IoU of boxes of two cells"


def test_contested_place_goes_to_the_higher_overlap_and_the_other_object_keeps_its_own() -> None:
    head = torch.full((1, 1, 6, 8, 5), 1.0)  # every box is two cells wide and high
    wide = [0, 0, 28.0, 20.0, 40.0, 40.0]  # around the middle of cell (2, 3), with 5 x 5 places inside
    narrow = [0, 0, 28.0, 20.0, 16.0, 16.0]  # exactly what (2, 3) says
    (match,) = assign(one_spec(), [head], torch.tensor([wide, narrow]), topk=25)
    owner = {(r, c): t for r, c, t in zip(match.row.tolist(), match.col.tolist(), match.target.tolist())}
    assert owner == {(r, c): int((r, c) == (2, 3)) for r in range(5) for c in range(1, 6)}


def test_box_without_area_and_box_elsewhere_are_not_matched() -> None:
    head = torch.full((1, 1, 6, 8, 5), -1.0)  # negative distances
    target = torch.tensor([[0, 0, 28.0, 20.0, 16.0, 16.0]])
    assert len(assign(one_spec(), [head], target)[0]) == 0
    head[..., :4] = torch.tensor([9.0, 0.0, -8.0, 0.5])  # eight cells to the left
    assert len(assign(one_spec(), [head], target)[0]) == 0


def test_batched_equals_single() -> None:
    specs, targets = specs_with(6), random_targets(3, each=6)
    heads = random_heads(specs, 3)
    together = [as_dict(match) for match in assign(specs, heads, targets)]
    alone: list[dict[Row, float]] = [{} for _ in specs]
    for picture in range(3):
        rows = targets[targets[:, 0] == picture] - torch.tensor([picture, 0, 0, 0, 0, 0])
        for found, match in zip(alone, assign(specs, [head[picture : picture + 1] for head in heads], rows)):
            found |= {(picture, r, c, t + 6 * picture): w for (_, r, c, t), w in as_dict(match).items()}
    assert together == alone


def test_no_objects_no_matches_and_no_gradient() -> None:
    specs = specs_with(6)
    heads = [head.requires_grad_() for head in random_heads(specs, 2)]
    assert [len(match) for match in assign(specs, heads, torch.zeros(0, 6))] == [0, 0]
    match = assign(specs, heads, random_targets(2))[0]
    assert match.weight is not None
    assert not match.weight.requires_grad
    assert not match.box.requires_grad


def test_half_precision_heads_are_read_in_fp32() -> None:
    specs, targets = specs_with(6), random_targets(2).float()
    half = [head.bfloat16() for head in random_heads(specs, 2)]
    full = assign(specs, [head.float() for head in half], targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = assign(specs, half, targets)
    assert [as_dict(match) for match in found] == [as_dict(match) for match in full]
