"""Pearson distillation: the numbers of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill import pkd
from models.spec import Outputs
from tests.distill.material import (
    PAIRS,
    adapted,
    adapter_of,
    matched,
    numpy_maps,
    random_maps,
    random_targets,
    specs_of,
    values,
)

SPECS = specs_of()
NONE = matched(SPECS, torch.zeros(0, 6))


def test_term_is_one_minus_the_mean_correlation() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("pkd")
    assert adapter is not None
    expected = []
    for n, (ours, theirs) in enumerate(numpy_maps(student, teacher)):
        ours = adapted(adapter, n, ours)
        r = [np.corrcoef(ours[:, c].ravel(), theirs[:, c].ravel())[0, 1] for c in range(theirs.shape[1])]
        expected.append(1 - np.mean(r))
    terms = pkd(student, teacher, matched(SPECS, random_targets()), pairs=PAIRS, adapter=adapter)
    assert values(terms) == pytest.approx({"pkd": np.mean(expected)}, abs=1e-5)


def test_it_is_half_the_squared_difference_of_standardised_maps() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("pkd")
    assert adapter is not None
    expected = []
    for n, (ours, theirs) in enumerate(numpy_maps(student, teacher)):
        standard = [
            (each - each.mean((0, 2, 3), keepdims=True)) / each.std((0, 2, 3), keepdims=True)
            for each in (adapted(adapter, n, ours), theirs)
        ]
        expected.append(((standard[0] - standard[1]) ** 2).mean() / 2)
    terms = pkd(student, teacher, NONE, pairs=PAIRS, adapter=adapter)
    assert values(terms) == pytest.approx({"pkd": np.mean(expected)}, abs=1e-5)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.0), (30.0, 0.0), (-1.0, 2.0)])
def test_magnitude_and_offset_do_not_count_but_the_sign_does(factor: float, expected: float) -> None:
    pair = PAIRS[1]
    teacher = random_maps(SPECS, True, seed=1)
    ours = Outputs([], (), {pair.student_layer: factor * teacher.features[pair.teacher_layer] + 5})
    term = pkd(ours, teacher, NONE, pairs=[pair], adapter=torch.nn.ModuleList([torch.nn.Identity()]))
    assert values(term) == pytest.approx({"pkd": expected}, abs=1e-5)


def test_dead_channels_keep_the_gradient_finite() -> None:
    pair = PAIRS[1]
    ours = torch.zeros(2, 4, 3, 4, requires_grad=True)
    for teacher in (torch.randn(2, 4, 3, 4), torch.zeros(2, 4, 3, 4)):
        maps = Outputs([], (), {pair.student_layer: ours}), Outputs([], (), {pair.teacher_layer: teacher})
        pkd(*maps, NONE, pairs=[pair], adapter=torch.nn.ModuleList([torch.nn.Identity()]))["pkd"].backward()
        assert ours.grad is not None
        assert ours.grad.isfinite().all()


def test_a_nearly_silent_channel_has_a_bounded_gradient() -> None:
    """A channel a millionth as loud as the teacher's pulls no harder than one a tenth as loud."""
    pair, teacher = PAIRS[1], random_maps(SPECS, True, seed=1)
    pulls = []
    for share in (0.1, 1e-6):
        ours = (share * random_maps(SPECS, True, seed=2).features[pair.teacher_layer]).requires_grad_()
        maps = Outputs([], (), {pair.student_layer: ours}), teacher
        pkd(*maps, NONE, pairs=[pair], adapter=torch.nn.ModuleList([torch.nn.Identity()]))["pkd"].backward()
        assert ours.grad is not None
        pulls.append(ours.grad.norm().item())
    assert 0.5 < pulls[1] / pulls[0] < 2
