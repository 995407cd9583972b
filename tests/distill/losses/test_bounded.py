"""Teacher-bounded regression: hand-computed numbers, the gate, gradients, and what must not change the term."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill import bounded
from models.heads import AnchoredSpec
from models.spec import HeadMatches, Matches, Outputs
from tests.distill.material import leaves, matched, random_outputs, random_targets, specs_of, twice

SPECS = specs_of()
EXP = specs_of(scale_x_y=1.0, new_coords=False)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def box_of(row: list[float], spec: AnchoredSpec, anchor: int, r: int, c: int) -> np.ndarray:
    """cx, cy, w, h in pixels by the decode of DESIGN's words: (sigma(t) s - (s - 1) / 2 + cell) stride."""
    s = spec.scale_x_y
    centre = [(sigmoid(t) * s - (s - 1) / 2 + cell) * spec.stride for t, cell in zip(row[:2], (c, r))]
    factor = [(2 * sigmoid(t)) ** 2 if spec.new_coords else math.exp(t) for t in row[2:4]]
    return np.array([*centre, *(f * a for f, a in zip(factor, spec.anchors[anchor]))])


def encoded(box: np.ndarray, spec: AnchoredSpec, anchor: int, r: int, c: int) -> np.ndarray:
    aw, ah = spec.anchors[anchor]
    return np.array([box[0] / spec.stride - c, box[1] / spec.stride - r, math.log(box[2] / aw), math.log(box[3] / ah)])


def giou(p: np.ndarray, q: np.ndarray) -> float:
    (pl, ql), (pr, qr) = (p[:2] - p[2:] / 2, q[:2] - q[2:] / 2), (p[:2] + p[2:] / 2, q[:2] + q[2:] / 2)
    common = np.clip(np.minimum(pr, qr) - np.maximum(pl, ql), 0, None).prod()
    union = p[2:].prod() + q[2:].prod() - common
    hull = (np.maximum(pr, qr) - np.minimum(pl, ql)).prod()
    return float(common / union - (hull - union) / hull)


def reference(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    margin: float = 0.0,
    distance: str = "l2",
    target: str = "truth",
) -> dict[str, float]:
    total, gated, count = 0.0, 0, 0
    for h, match in enumerate(matches.heads):
        mine, theirs = student.specs[h], teacher.specs[h]
        for i, a, r, c, truth in zip(*(getattr(match, k).tolist() for k in ("image", "anchor", "row", "col", "box"))):
            boxes = [
                box_of(student.heads[h][i, a, r, c].tolist(), mine, a, r, c),
                box_of(teacher.heads[h][i, a, r, c].tolist(), theirs, a, r, c),
                np.array(truth),
            ]
            if distance == "l2":
                s, t, y = (encoded(box, mine, a, r, c) for box in boxes)
                d_s, d_t, d_st = ((s - y) ** 2).sum(), ((t - y) ** 2).sum(), ((s - t) ** 2).sum()
            else:
                s, t, y = boxes
                d_s, d_t, d_st = 1 - giou(s, y), 1 - giou(t, y), 1 - giou(s, t)
            count += 1
            if d_s + margin > d_t:
                gated += 1
                total += d_s if target == "truth" else d_st
    return {"bounded": total / count, "metric/gate_rate": gated / count}


def floats(terms: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"margin": 0.5}, {"distance": "iou"}, {"target": "teacher"}, {"distance": "iou", "target": "teacher"}],
    ids=str,
)
@pytest.mark.parametrize("theirs", [SPECS, EXP], ids=["teacher new_coords", "teacher exp"])
@pytest.mark.parametrize("mine", [SPECS, EXP], ids=["student new_coords", "student exp"])
def test_term_equals_the_definition(
    mine: tuple[AnchoredSpec, ...], theirs: tuple[AnchoredSpec, ...], options: dict
) -> None:
    student, teacher, matches = random_outputs(mine), random_outputs(theirs, seed=1), matched(mine, random_targets())
    expected = reference(student, teacher, matches, **options)
    assert 0 < expected["metric/gate_rate"] < 1 or options.get("margin")
    assert floats(bounded(student, teacher, matches, **options)) == pytest.approx(expected, rel=1e-5)


def test_teacher_with_other_anchors_is_reencoded_with_the_students() -> None:
    other = tuple(AnchoredSpec(tuple((w * 1.5, h * 0.7) for w, h in s.anchors), s.stride, 3) for s in SPECS)
    student, teacher, matches = random_outputs(SPECS), random_outputs(other, seed=1), matched(SPECS, random_targets())
    assert floats(bounded(student, teacher, matches)) == pytest.approx(reference(student, teacher, matches), rel=1e-5)


def by_hand(student_x: float, teacher_x: float) -> dict[str, float]:
    """One cell, one box in its middle as large as the anchor; the networks miss it in x by these logits."""
    spec = (AnchoredSpec(((8.0, 8.0),), 8, 1),)
    heads = [torch.zeros(1, 1, 1, 1, 6, dtype=torch.float64) for _ in range(2)]
    heads[0][..., 0], heads[1][..., 0] = student_x, teacher_x
    matches = matched(spec, torch.tensor([[0, 0, 4.0, 4.0, 8.0, 8.0]], dtype=torch.float64))
    return floats(bounded(Outputs([heads[0]], spec), Outputs([heads[1]], spec), matches))


def test_one_cell_by_hand() -> None:
    third = math.log(3)  # sigma = 3/4: a quarter of a cell off
    assert by_hand(third, 0.0) == pytest.approx({"bounded": 1 / 16, "metric/gate_rate": 1.0})
    assert by_hand(-third, third / 2) == pytest.approx({"bounded": 1 / 16, "metric/gate_rate": 1.0})
    assert by_hand(0.0, third) == {"bounded": 0.0, "metric/gate_rate": 0.0}
    assert by_hand(third, third) == {"bounded": 0.0, "metric/gate_rate": 0.0}  # equally near: no reason to follow


def test_bounded_loss_and_gradient_are_exactly_zero_where_the_student_is_nearer() -> None:
    teacher, matches = random_outputs(SPECS, seed=1), matched(SPECS, random_targets())
    for target in ("truth", "teacher"):
        student = leaves(random_outputs(SPECS))
        terms = bounded(student, teacher, matches, target=target)
        terms["bounded"].backward()
        nearer_seen = further_seen = 0
        for head, theirs, match, spec in zip(student.heads, teacher.heads, matches.heads, SPECS):
            assert head.grad is not None
            for i, a, r, c, truth in zip(
                *(getattr(match, k).tolist() for k in ("image", "anchor", "row", "col", "box"))
            ):
                s, t, y = (
                    encoded(box, spec, a, r, c)
                    for box in (
                        box_of(head[i, a, r, c].tolist(), spec, a, r, c),
                        box_of(theirs[i, a, r, c].tolist(), spec, a, r, c),
                        np.array(truth),
                    )
                )
                nearer = ((s - y) ** 2).sum() <= ((t - y) ** 2).sum()
                assert bool(head.grad[i, a, r, c].any()) != nearer
                nearer_seen, further_seen = nearer_seen + nearer, further_seen + (not nearer)
        assert nearer_seen
        assert further_seen


def test_gate_is_per_box_not_per_batch() -> None:
    """One box where the student is far worse, one where it is slightly better: only the first pays."""
    spec = (AnchoredSpec(((8.0, 8.0),), 8, 1),)
    student, teacher = torch.zeros(2, 1, 1, 1, 6), torch.zeros(2, 1, 1, 1, 6)
    student[0, ..., 2], teacher[1, ..., 2] = 1.0, 0.5
    targets = torch.tensor([[image, 0, 4.0, 4.0, 8.0, 8.0] for image in (0, 1)])
    terms = bounded(Outputs([student], spec), Outputs([teacher], spec), matched(spec, targets))
    assert floats(terms) == pytest.approx({"bounded": 0.5, "metric/gate_rate": 0.5})


@pytest.mark.parametrize("options", [{}, {"distance": "iou"}, {"target": "teacher"}], ids=str)
@pytest.mark.parametrize("specs", [SPECS, EXP], ids=["new_coords", "exp"])
def test_gradients_are_those_of_finite_differences(specs: tuple[AnchoredSpec, ...], options: dict) -> None:
    student, teacher = leaves(random_outputs(specs, 1)), random_outputs(specs, 1, seed=1)
    matches = matched(specs, random_targets(1))

    def term(*heads: torch.Tensor) -> torch.Tensor:
        return bounded(Outputs(list(heads), specs), teacher, matches, **options)["bounded"]

    assert torch.autograd.gradcheck(term, student.heads, fast_mode=True)


def test_no_gradient_reaches_the_teacher() -> None:
    for target in ("truth", "teacher"):
        student, teacher = leaves(random_outputs(SPECS)), leaves(random_outputs(SPECS, seed=1))
        bounded(student, teacher, matched(SPECS, random_targets()), target=target)["bounded"].backward()
        assert all(head.grad is None for head in teacher.heads)
        assert all(head.grad is not None and head.grad[..., :4].any() for head in student.heads)
        assert all(head.grad is not None and not head.grad[..., 4:].any() for head in student.heads)


def test_batch_duplicated_or_with_box_free_pictures_changes_nothing() -> None:
    student, teacher, targets = random_outputs(SPECS), random_outputs(SPECS, seed=1), random_targets()
    once = floats(bounded(student, teacher, matched(SPECS, targets)))
    more = torch.cat([targets, targets + torch.tensor([2, 0, 0, 0, 0, 0])])
    assert floats(bounded(twice(student), twice(teacher), matched(SPECS, more))) == pytest.approx(once)
    assert floats(bounded(twice(student), twice(teacher), matched(SPECS, targets))) == pytest.approx(once)


def test_no_boxes_give_zeros_that_still_reach_the_student() -> None:
    student = leaves(random_outputs(SPECS))
    terms = bounded(student, random_outputs(SPECS, seed=1), matched(SPECS, torch.zeros(0, 6)))
    assert floats(terms) == {"bounded": 0.0, "metric/gate_rate": 0.0}
    terms["bounded"].backward()
    assert all(head.grad is not None and not head.grad.any() for head in student.heads)


def test_extreme_logits_keep_term_and_gradient_finite() -> None:
    for specs in (SPECS, EXP):
        for value in (-1e4, 1e4):
            student = leaves(Outputs([torch.full_like(h, value).float() for h in random_outputs(specs).heads], specs))
            terms = bounded(student, random_outputs(specs, seed=1), matched(specs, random_targets()))
            terms["bounded"].backward()
            assert math.isfinite(terms["bounded"].item())
            assert all(head.grad is not None and head.grad.isfinite().all() for head in student.heads)


def test_matches_of_less_weight_count_less() -> None:
    student, teacher = random_outputs(SPECS), random_outputs(SPECS, seed=1)
    whole = matched(SPECS, random_targets())
    kept = Matches(tuple(replace(match, weight=(match.target == 0).double()) for match in whole.heads))
    alone = Matches(tuple(subset(match, match.target == 0) for match in whole.heads))
    assert floats(bounded(student, teacher, kept)) == pytest.approx(floats(bounded(student, teacher, alone)))
    half = Matches(tuple(replace(match, weight=torch.full_like(match.box[:, 0], 0.5)) for match in whole.heads))
    assert floats(bounded(student, teacher, half)) == pytest.approx(floats(bounded(student, teacher, whole)))


def subset(match: HeadMatches, rows: torch.Tensor) -> HeadMatches:
    names = ("image", "anchor", "row", "col", "box", "label", "target")
    return HeadMatches(*(getattr(match, name)[rows] for name in names))
