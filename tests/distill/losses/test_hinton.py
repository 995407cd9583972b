"""Softened targets: hand-computed numbers, gradients, and what must not change the terms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from distill import hinton
from models.heads import AnchoredSpec
from models.spec import Matches, Outputs
from tests.distill.material import leaves, matched, random_outputs, random_targets, specs_of, twice

SPECS = specs_of()


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def binary(student: np.ndarray, teacher: np.ndarray, t: float) -> np.ndarray:
    """T^2 [BCE(z_s / T, p) - H(p)], straight from its definition."""
    q, p = sigmoid(student / t), sigmoid(teacher / t)
    cross = -p * np.log(q) - (1 - p) * np.log(1 - q)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    return t**2 * (cross - entropy)


def softmax_divergence(student: np.ndarray, teacher: np.ndarray, t: float) -> np.ndarray:
    q, p = (np.exp(z / t) / np.exp(z / t).sum(-1, keepdims=True) for z in (student, teacher))
    return t**2 * (p * np.log(p / q)).sum(-1)


def reference(student: Outputs, teacher: Outputs, matches: Matches, t: float, softmax: bool) -> dict[str, float]:
    objectness = classes = total = 0.0
    for ours, theirs, match in zip(student.heads, teacher.heads, matches.heads):
        s, z = ours.numpy(), theirs.numpy()
        weight = sigmoid(z[..., 4])
        for place in zip(*(getattr(match, k).tolist() for k in ("image", "anchor", "row", "col"))):
            weight[place] = 1
        scores = softmax_divergence(s[..., 5:], z[..., 5:], t) if softmax else binary(s[..., 5:], z[..., 5:], t).sum(-1)
        objectness += (weight * binary(s[..., 4], z[..., 4], t)).sum()
        classes += (weight * scores).sum()
        total += weight.sum()
    return {"hinton_obj": objectness / total, "hinton_cls": classes / total}


def floats(terms: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("form", ["binary", "softmax"])
def test_terms_equal_the_definition(temperature: float, form: str) -> None:
    student, teacher, matches = random_outputs(SPECS), random_outputs(SPECS, seed=1), matched(SPECS, random_targets())
    terms = hinton(student, teacher, matches, temperature=temperature, classes=form)
    assert floats(terms) == pytest.approx(
        reference(student, teacher, matches, temperature, form == "softmax"), rel=1e-6
    )


def test_one_cell_by_hand() -> None:
    """One cell, T = 1: student 1/2 everywhere, teacher 3/4: KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    spec = (AnchoredSpec(((10.0, 10.0),), 8, 1),)
    student = Outputs([torch.zeros(1, 1, 1, 1, 6)], spec)
    teacher = Outputs([torch.full((1, 1, 1, 1, 6), math.log(3))], spec)
    terms = hinton(student, teacher, matched(spec, torch.zeros(0, 6)), temperature=1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert floats(terms) == pytest.approx({"hinton_obj": expected, "hinton_cls": expected}, rel=1e-5)


def test_equal_networks_pay_nothing_and_have_no_gradient() -> None:
    student = leaves(random_outputs(SPECS))
    terms = hinton(student, random_outputs(SPECS), matched(SPECS, random_targets()))
    assert floats(terms) == {"hinton_obj": 0.0, "hinton_cls": 0.0}
    (terms["hinton_obj"] + terms["hinton_cls"]).backward()
    assert all(head.grad is not None and head.grad.abs().max() < 1e-12 for head in student.heads)


@pytest.mark.parametrize("form", ["binary", "softmax"])
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    student, teacher = leaves(random_outputs(SPECS, 1)), random_outputs(SPECS, 1, seed=1)
    matches = matched(SPECS, random_targets(1))

    def term(*heads: torch.Tensor) -> list[torch.Tensor]:
        return list(hinton(Outputs(list(heads), SPECS), teacher, matches, classes=form).values())

    assert torch.autograd.gradcheck(term, student.heads, fast_mode=True)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = leaves(random_outputs(SPECS)), leaves(random_outputs(SPECS, seed=1))
    terms = hinton(student, teacher, matched(SPECS, random_targets()))
    (terms["hinton_obj"] + terms["hinton_cls"]).backward()
    assert all(head.grad is None for head in teacher.heads)
    assert all(head.grad is not None and head.grad[..., 4:].any() for head in student.heads)
    assert all(head.grad is not None and not head.grad[..., :4].any() for head in student.heads)


def test_softmax_is_blind_to_a_shift_of_all_logits_and_binary_is_not() -> None:
    """A teacher sure of a class at .88 and a student at .018 agree perfectly in the softmax's eyes."""
    specs = specs_of(classes=2)
    teacher, student = random_outputs(specs, 1), random_outputs(specs, 1)
    for head in teacher.heads:
        head[..., 5:] = torch.tensor([2.0, -2.0])
    for head in student.heads:
        head[..., 5:] = torch.tensor([-4.0, -8.0])
    assert round(teacher.heads[0][0, 0, 0, 0, 5].sigmoid().item(), 2) == 0.88
    assert round(student.heads[0][0, 0, 0, 0, 5].sigmoid().item(), 3) == 0.018
    matches = matched(specs, random_targets(1, classes=2))
    assert hinton(student, teacher, matches, classes="softmax")["hinton_cls"].item() == pytest.approx(0, abs=1e-12)
    assert hinton(student, teacher, matches, classes="binary")["hinton_cls"].item() > 1


def test_softmax_over_one_class_is_refused() -> None:
    specs = specs_of(classes=1)
    with pytest.raises(UserError, match="single class"):
        hinton(random_outputs(specs), random_outputs(specs), matched(specs, torch.zeros(0, 6)), classes="softmax")


def test_auto_form_follows_the_head() -> None:
    specs = tuple(AnchoredSpec(s.anchors, s.stride, s.classes, softmax=True) for s in SPECS)
    student, teacher, matches = random_outputs(specs), random_outputs(specs, seed=1), matched(specs, random_targets())
    assert floats(hinton(student, teacher, matches)) == floats(hinton(student, teacher, matches, classes="softmax"))
    student, teacher = Outputs(student.heads, SPECS), Outputs(teacher.heads, SPECS)
    assert floats(hinton(student, teacher, matches)) == floats(hinton(student, teacher, matches, classes="binary"))


def test_batch_duplicated_changes_nothing() -> None:
    student, teacher, targets = random_outputs(SPECS), random_outputs(SPECS, seed=1), random_targets()
    more = torch.cat([targets, targets + torch.tensor([2, 0, 0, 0, 0, 0])])
    once = hinton(student, teacher, matched(SPECS, targets))
    assert floats(hinton(twice(student), twice(teacher), matched(SPECS, more))) == pytest.approx(floats(once))


def test_pictures_without_boxes_and_teacher_objectness_change_nothing() -> None:
    student, teacher, matches = random_outputs(SPECS), random_outputs(SPECS, seed=1), matched(SPECS, random_targets())
    blank = random_outputs(SPECS, 3, seed=2)
    for head in blank.heads:
        head[..., 4] = -800.0  # sigma is exactly 0
    more_student = Outputs([torch.cat([a, b]) for a, b in zip(student.heads, random_outputs(SPECS, 3, 3).heads)], SPECS)
    more_teacher = Outputs([torch.cat([a, b]) for a, b in zip(teacher.heads, blank.heads)], SPECS)
    more = floats(hinton(more_student, more_teacher, matches))
    assert more == pytest.approx(floats(hinton(student, teacher, matches)))


def test_background_counts_by_the_teachers_objectness() -> None:
    """Two cells, no box: the term is the weighted mean of the two cells' divergences."""
    spec = (AnchoredSpec(((10.0, 10.0),), 8, 1),)
    student = Outputs([torch.zeros(1, 1, 1, 2, 6, dtype=torch.float64)], spec)
    teacher = Outputs([torch.tensor([[4.0], [-4.0]], dtype=torch.float64).repeat(1, 6).view(1, 1, 1, 2, 6)], spec)
    term = hinton(student, teacher, matched(spec, torch.zeros(0, 6)), temperature=1)["hinton_obj"].item()
    sure, blank = binary(np.zeros(2), np.array([4.0, -4.0]), 1)
    assert sure == pytest.approx(blank)  # equally wrong, but:
    student.heads[0][..., 1, :] = 8.0  # wrong only where the teacher sees nothing
    one = hinton(student, teacher, matched(spec, torch.zeros(0, 6)), temperature=1)["hinton_obj"].item()
    weight = sigmoid(np.array([4.0, -4.0]))
    parts = binary(np.array([0.0, 8.0]), np.array([4.0, -4.0]), 1)
    assert term == pytest.approx(sure)
    assert one == pytest.approx((weight * parts).sum() / weight.sum())


def test_mean_of_the_ranks_terms_is_that_of_the_global_batch() -> None:
    student, teacher, targets = random_outputs(SPECS, 4), random_outputs(SPECS, 4, seed=1), random_targets(4)
    targets = targets[targets[:, 0] != 3]
    whole = floats(hinton(student, teacher, matched(SPECS, targets)))

    def part(outputs: Outputs, pictures: slice) -> Outputs:
        return Outputs([head[pictures] for head in outputs.heads], SPECS)

    halves = [(slice(0, 2), targets[targets[:, 0] < 2]), (slice(2, 4), targets[targets[:, 0] >= 2])]
    halves[1] = (halves[1][0], halves[1][1] - torch.tensor([2, 0, 0, 0, 0, 0]))
    sums: list[torch.Tensor] = []

    def listen(value: torch.Tensor) -> torch.Tensor:
        sums.append(value)
        return value

    for pictures, rows in halves:
        hinton(part(student, pictures), part(teacher, pictures), Matches(matched(SPECS, rows).heads, listen))
    mean = torch.stack(sums).mean()
    terms = [
        floats(hinton(part(student, p), part(teacher, p), Matches(matched(SPECS, rows).heads, lambda _: mean)))
        for p, rows in halves
    ]
    assert {name: (terms[0][name] + terms[1][name]) / 2 for name in whole} == pytest.approx(whole)
