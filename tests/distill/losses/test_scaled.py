"""Objectness-scaled distillation: FM-NMS and the numbers of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import UserError
from distill import scaled
from distill.losses.scaled import strongest_nearby
from models.heads import AnchoredSpec
from models.spec import Matches, Outputs
from tests.distill.losses.test_bounded import EXP, box_of, encoded
from tests.distill.losses.test_hinton import binary, sigmoid
from tests.distill.material import matched, random_outputs, random_targets, specs_of, values

SPECS = specs_of()


def suppressed(head: np.ndarray, window: int) -> np.ndarray:
    """FM-NMS, by comparing every cell with every other."""
    objectness, label = sigmoid(head[..., 4]), head[..., 5:].argmax(-1)
    kept = objectness.copy()
    for b, a, r, c in np.ndindex(*kept.shape):
        for a2, r2, c2 in np.ndindex(*kept.shape[1:]):
            near = max(abs(r2 - r), abs(c2 - c)) <= window // 2
            same = label[b, a2, r2, c2] == label[b, a, r, c]
            if near and same and objectness[b, a2, r2, c2] > objectness[b, a, r, c]:
                kept[b, a, r, c] = 0
    kept[kept < 1e-3] = 0
    return kept


def reference(student: Outputs, teacher: Outputs, matches: Matches, window: int) -> dict[str, float]:
    obj = cls = box = weights = certain = 0.0
    for spec, other, ours, theirs, match in zip(
        student.specs, teacher.specs, student.heads, teacher.heads, matches.heads
    ):
        s, t = ours.numpy(), theirs.numpy()
        sure = suppressed(t, window)
        weight = sure.copy()
        for place in zip(*(getattr(match, k).tolist() for k in ("image", "anchor", "row", "col"))):
            weight[place] = 1
        obj += (weight * (sigmoid(s[..., 4]) - sigmoid(t[..., 4])) ** 2).sum()
        weights += weight.sum()
        certain += sure.sum()
        cls += (sure * binary(s[..., 5:], t[..., 5:], 1).sum(-1)).sum()
        for b, a, r, c in zip(*np.nonzero(sure)):
            boxes = (box_of(rows[b, a, r, c].tolist(), its, a, r, c) for rows, its in ((s, spec), (t, other)))
            mine, taught = (encoded(each, spec, a, r, c) for each in boxes)
            box += sure[b, a, r, c] * ((mine - taught) ** 2).sum()
    return {"scaled_obj": obj / weights, "scaled_cls": cls / certain, "scaled_box": box / certain}


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("theirs", [SPECS, EXP], ids=["teacher new_coords", "teacher exp"])
def test_terms_equal_the_definition(theirs: tuple[AnchoredSpec, ...], window: int) -> None:
    student, teacher, matches = random_outputs(SPECS), random_outputs(theirs, seed=1), matched(SPECS, random_targets())
    teacher.heads[0][0, 0, :3, :, 4] = -9.0  # faint
    expected = reference(student, teacher, matches, window)
    assert values(scaled(student, teacher, matches, window=window)) == pytest.approx(expected, rel=1e-6)


def test_the_strongest_of_a_class_within_the_window_stays() -> None:
    """A row of cells with two classes: 0 at 0, 2 and 7; 1 at 1."""
    head = torch.full((1, 1, 1, 8, 7), -20.0)
    for cell, label, logit in ((0, 0, 1.0), (1, 1, 0.0), (2, 0, 2.0), (7, 0, -1.0)):
        head[0, 0, 0, cell, 4], head[0, 0, 0, cell, 5 + label] = logit, 3.0
    spec = AnchoredSpec(((8.0, 8.0),), 8, 2)
    kept = strongest_nearby(head, spec, 5)[0, 0, 0]
    assert kept.nonzero().flatten().tolist() == [1, 2, 7]
    assert kept[2].item() == pytest.approx(1 / (1 + np.exp(-2)))
    assert strongest_nearby(head, spec, 1)[0, 0, 0].nonzero().flatten().tolist() == [0, 1, 2, 7]


def test_anchors_of_a_cell_compete() -> None:
    head = torch.zeros(1, 2, 1, 1, 6)
    head[0, 1, ..., 4] = 1.0
    assert strongest_nearby(head, AnchoredSpec(((8.0, 8.0),) * 2, 8, 1), 1).flatten().tolist() == pytest.approx(
        [0, sigmoid(np.array(1.0))]
    )


def test_where_the_teacher_sees_nothing_the_student_pays_nothing() -> None:
    student, teacher = random_outputs(SPECS), random_outputs(SPECS, seed=1)
    for head in teacher.heads:
        head[..., 4] = -30.0
    terms = scaled(student, teacher, matched(SPECS, torch.zeros(0, 6)))
    assert values(terms) == {"scaled_obj": 0.0, "scaled_cls": 0.0, "scaled_box": 0.0}


def test_window_has_to_be_odd() -> None:
    with pytest.raises(UserError, match="window 4 is not odd"):
        scaled(random_outputs(SPECS), random_outputs(SPECS), matched(SPECS, torch.zeros(0, 6)), window=4)
