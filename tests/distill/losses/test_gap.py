"""Overlap weighted by the gap between the scores: the numbers of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill import gap
from models.heads import AnchoredSpec
from models.spec import Matches, Outputs
from tests.distill.losses.test_bounded import EXP, box_of, giou
from tests.distill.losses.test_hinton import sigmoid
from tests.distill.material import leaves, matched, random_outputs, random_targets, specs_of, values

SPECS = specs_of()


def reference(student: Outputs, teacher: Outputs, matches: Matches) -> dict[str, float]:
    loss = gaps = weights = 0.0
    for spec, other, ours, theirs, match in zip(
        student.specs, teacher.specs, student.heads, teacher.heads, matches.heads
    ):
        s, t = ours.numpy(), theirs.numpy()
        weight = sigmoid(t[..., 4])
        for place in zip(*(getattr(match, k).tolist() for k in ("image", "anchor", "row", "col"))):
            weight[place] = 1
        weight[weight < 1e-3] = 0
        for b, a, r, c in zip(*np.nonzero(weight)):
            p, q = (sigmoid(row[4]) * sigmoid(row[5:]) for row in (s[b, a, r, c], t[b, a, r, c]))
            boxes = [box_of(x[b, a, r, c].tolist(), its, a, r, c) for x, its in ((s, spec), (t, other))]
            apart = np.abs(p - q).max()
            loss += weight[b, a, r, c] * apart * (1 - giou(*boxes))
            gaps += weight[b, a, r, c] * apart
            weights += weight[b, a, r, c]
    return {"gap": loss / weights, "metric/score_gap": gaps / weights}


@pytest.mark.parametrize("theirs", [SPECS, EXP], ids=["teacher new_coords", "teacher exp"])
def test_term_equals_the_definition(theirs: tuple[AnchoredSpec, ...]) -> None:
    student, teacher, matches = random_outputs(SPECS), random_outputs(theirs, seed=1), matched(SPECS, random_targets())
    teacher.heads[0][0, 0, :3, :, 4] = -9.0  # faint
    assert values(gap(student, teacher, matches)) == pytest.approx(reference(student, teacher, matches), rel=1e-6)


def test_by_hand() -> None:
    """One matched cell, equal centres, the student's box twice as wide: GIoU = IoU = 1/2; scores 1/4 and 9/16."""
    spec = (AnchoredSpec(((8.0, 8.0),), 8, 1),)
    ours, theirs = torch.zeros(1, 1, 1, 1, 6), torch.zeros(1, 1, 1, 1, 6)
    ours[..., 2] = np.log(2)
    theirs[..., 4:] = np.log(3)
    matches = matched(spec, torch.tensor([[0, 0, 4.0, 4.0, 8.0, 8.0]]))
    found = values(gap(Outputs([ours], spec), Outputs([theirs], spec), matches))
    assert found == pytest.approx({"gap": 5 / 16 / 2, "metric/score_gap": 5 / 16}, rel=1e-5)


def test_equal_scores_leave_the_box_alone() -> None:
    student, teacher = leaves(random_outputs(SPECS)), random_outputs(SPECS)
    for head in teacher.heads:
        head[..., :4] += 1
    term = gap(student, teacher, matched(SPECS, random_targets()))["gap"]
    assert term.item() == 0
    term.backward()
    assert all(head.grad is not None and not head.grad.any() for head in student.heads)


def test_gradient_reaches_boxes_only() -> None:
    student = leaves(random_outputs(SPECS))
    gap(student, random_outputs(SPECS, seed=1), matched(SPECS, random_targets()))["gap"].backward()
    for head in student.heads:
        assert head.grad is not None
        assert head.grad[..., :4].any()
        assert not head.grad[..., 4:].any()
