"""A teacher without anchors over a student with some, and the reverse: two cells beside each other, by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import bounded, scaled
from distill.losses.cells import cells_of
from models.heads import AnchoredSpec, DecodedSpec, FreeSpec, HeadSpec
from models.spec import HeadMatches, Matches, Outputs

ANCHORS = ((8.0, 8.0), (16.0, 8.0))
ANCHORED, FREE = AnchoredSpec(ANCHORS, 8, 2), FreeSpec(8, 2, bins=1)
SURE = 1 - 1e-6  # as near to 1 as a probability may come before its logit is taken
MATCHED = (1, 0)  # the cell, and the student's place in it, that answer for an object
# Its box is nearer to what the teacher says, where the student has anchors and where it has none.
TRUTHS = {True: np.array((10.8, 5.8, 11.0, 8.5)), False: np.array((12.0, 4.5, 9.5, 7.0))}

# Of each cell and place x, y, w, h, objectness, classes; of each cell the distances of the four sides, classes.
WITH_ANCHORS = np.array(
    [
        [[0.3, -0.2, 0.1, 0.4, 1.0, 2.0, -1.0], [0.0, 0.1, -0.3, 0.2, 1.5, -1.0, -0.5]],
        [[-0.4, 0.5, 0.2, -0.1, 0.0, 1.0, -2.0], [0.2, 0.0, 0.1, 0.3, 0.4, -1.5, 0.1]],
    ]
)
WITHOUT = np.array([[0.4, 0.6, 0.7, 0.5, 2.0, -1.0], [0.9, 0.3, 0.5, 0.8, 0.5, -3.0]])


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def anchored_box(row: np.ndarray, cell: int, place: int) -> np.ndarray:
    centre = (sigmoid(row[:2]) + (cell, 0)) * 8
    return np.concatenate([centre, np.exp(row[2:4]) * ANCHORS[place]])


def free_box(row: np.ndarray, cell: int) -> np.ndarray:
    left, top, right, lower = row[:4] * 8
    x, y = 8 * cell + 4, 4
    return np.array([x + (right - left) / 2, y + (lower - top) / 2, left + right, top + lower])


def by_anchor(box: np.ndarray, cell: int, place: int) -> np.ndarray:
    return np.concatenate([box[:2] / 8 - (cell, 0), np.log(box[2:] / ANCHORS[place])])


def by_sides(box: np.ndarray, cell: int, place: int) -> np.ndarray:
    x, y, w, h = box
    return np.array([8 * cell + 4 - x + w / 2, 4 - y + h / 2, x + w / 2 - 8 * cell - 4, y + h / 2 - 4]) / 8


def apart(taught: np.ndarray, own: np.ndarray) -> float:
    """The binary KL divergences of probabilities, summed over classes."""
    return float((taught * np.log(taught / own) + (1 - taught) * np.log((1 - taught) / (1 - own))).sum())


Place = tuple[np.ndarray, float, np.ndarray]  # box, certainty, class probabilities


def expected(
    student: dict[tuple[int, int], Place],
    teacher: dict[int, Place],
    encoded: Callable[[np.ndarray, int, int], np.ndarray],
    truth: np.ndarray,
    heard: int,
) -> dict[str, float]:
    """The terms of `scaled` and `bounded`; only the cell `heard` is left by FM-NMS."""
    obj = cls = box = weights = certain = pays = 0.0
    for (cell, place), (own_box, own_sure, own_classes) in student.items():
        their_box, sure, classes = teacher[cell]
        weight = 1.0 if (cell, place) == MATCHED else sure * (cell == heard)
        obj += weight * (own_sure - sure) ** 2
        weights += weight
        mine, theirs = (encoded(each, cell, place) for each in (own_box, their_box))
        if cell == heard:
            cls += sure * apart(np.minimum(classes, SURE), own_classes)
            box += sure * ((mine - theirs) ** 2).sum()
            certain += sure
        if (cell, place) == MATCHED:
            off, gate = (((each - encoded(truth, cell, place)) ** 2).sum() for each in (mine, theirs))
            pays += off if off > gate else 0
    return {"scaled_obj": obj / weights, "scaled_cls": cls / certain, "scaled_box": box / certain, "bounded": pays}


def head_of(numbers: np.ndarray) -> Tensor:
    """``(1, A, 1, 2, K)`` of ``(2, K)`` or ``(2, A, K)``."""
    return torch.tensor(numbers.reshape(2, -1, numbers.shape[-1])).transpose(0, 1)[None, :, None]


def found(student: Tensor, spec: HeadSpec, teacher: Tensor, their_spec: HeadSpec) -> dict[str, Tensor]:
    read = DecodedSpec.towards(spec)
    outputs = Outputs([student], (spec,)), Outputs([read.translate(teacher, their_spec)], (read,))
    cell, place, zero = (torch.tensor([number]) for number in (*MATCHED, 0))
    box = torch.tensor(TRUTHS[bool(spec.anchors)])[None]
    matches = Matches((HeadMatches(zero, place, zero, cell, box, zero, zero),))
    terms = {**scaled(*outputs, matches), **bounded(*outputs, matches)}
    return {name: value for name, value in terms.items() if not name.startswith("metric/")}


def anchored_places(rows: np.ndarray) -> dict[tuple[int, int], Place]:
    return {
        (cell, place): (anchored_box(row, cell, place), float(sigmoid(row[4])), sigmoid(row[5:]))
        for cell in (0, 1)
        for place, row in enumerate(rows[cell])
    }


def free_places(rows: np.ndarray) -> dict[tuple[int, int], Place]:
    scores = sigmoid(rows[:, 4:])
    return {(cell, 0): (free_box(rows[cell], cell), float(scores[cell].max()), scores[cell]) for cell in (0, 1)}


def test_the_one_place_of_a_cell_teaches_all_anchors() -> None:
    """Both cells say class 0, the first one with more certainty. Given an object, its best class is certain."""
    teacher = {cell: (box, sure, scores / sure) for (cell, _), (box, sure, scores) in free_places(WITHOUT).items()}
    wanted = expected(anchored_places(WITH_ANCHORS), teacher, by_anchor, TRUTHS[True], heard=0)
    terms = found(head_of(WITH_ANCHORS), ANCHORED, head_of(WITHOUT), FREE)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-6)
    assert wanted["bounded"] > 0


def test_of_a_cells_anchors_the_most_confident_speaks() -> None:
    """That is the first anchor in both cells, though the second one's objectness is higher."""
    assert (WITH_ANCHORS[:, 1, 4] > WITH_ANCHORS[:, 0, 4]).all()
    teacher = {}
    for cell in (0, 1):
        box, objectness, classes = anchored_places(WITH_ANCHORS)[cell, 0]
        teacher[cell] = (box, objectness * float(classes.max()), objectness * classes)
    wanted = expected(free_places(WITHOUT), teacher, by_sides, TRUTHS[False], heard=0)
    terms = found(head_of(WITHOUT), FREE, head_of(WITH_ANCHORS), ANCHORED)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(wanted, rel=1e-6)
    assert wanted["bounded"] > 0


@pytest.mark.parametrize("anchored", [True, False], ids=["student with anchors", "student without"])
def test_gradient_reaches_the_student_only_and_is_that_of_finite_differences(anchored: bool) -> None:
    heads, specs = [head_of(WITH_ANCHORS), head_of(WITHOUT)], [ANCHORED, FREE]
    (student, teacher), (spec, their_spec) = (each[:: 1 if anchored else -1] for each in (heads, specs))
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    torch.stack(list(found(student, spec, teacher, their_spec).values())).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    taught = student.grad.any(-1)[0, :, 0]  # (A, 2)
    assert taught.tolist() == ([[True, True], [True, False]] if anchored else [[True, True]])

    def terms(head: Tensor) -> Tensor:
        return torch.stack(list(found(head, spec, teacher, their_spec).values()))

    assert torch.autograd.gradcheck(terms, student)


def test_classes_that_compete_are_taught_as_a_distribution() -> None:
    """A softmax over the student's classes learns the teacher's scores, made to sum to 1."""
    spec = AnchoredSpec(ANCHORS, 8, 2, softmax=True)
    scores = sigmoid(WITHOUT[0, 4:])
    wanted, own = scores / scores.sum(), np.exp(WITH_ANCHORS[0, :, 5:])
    own /= own.sum(-1, keepdims=True)
    divergence = (wanted * np.log(wanted / own)).sum(-1).mean()  # both anchors of the first cell count alike
    terms = found(head_of(WITH_ANCHORS), spec, head_of(WITHOUT), FREE)
    assert terms["scaled_cls"].item() == pytest.approx(divergence, rel=1e-6)


def test_scores_and_boxes_without_bounds_stay_finite() -> None:
    for value in (-1e4, 1e4):
        for student, spec, teacher, their_spec in (
            (WITH_ANCHORS, ANCHORED, WITHOUT, FREE),
            (WITHOUT, FREE, WITH_ANCHORS, ANCHORED),
        ):
            extreme = torch.full_like(head_of(teacher), value).float()
            head = head_of(student).float().requires_grad_()
            terms = torch.stack(list(found(head, spec, extreme, their_spec).values()))
            terms.sum().backward()
            assert terms.isfinite().all()
            assert head.grad is not None
            assert head.grad.isfinite().all()


def test_decoded_rows_are_detections_of_the_teacher() -> None:
    """What is scored where a teacher is read by class names: objectness times class is the teacher's own score."""
    read = DecodedSpec.towards(ANCHORED)
    rows = read.decode(read.translate(head_of(WITHOUT), FREE))
    assert rows.shape == (1, 2, 1, 2, 7)
    boxes, confidences = read.candidates(rows.flatten(1, 3)[0], 0.0)
    for place in range(2):  # both anchors say the same
        for cell in (0, 1):
            at = 2 * place + cell
            np.testing.assert_allclose(boxes[at], free_box(WITHOUT[cell], cell))
            np.testing.assert_allclose(confidences[at], sigmoid(WITHOUT[cell, 4:]))
    assert len(cells_of(read.certainty(rows) > 0)) == 4
