"""Hints: the numbers of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill import FeaturePair, fitnets
from distill.adapters import projections
from models.spec import Outputs
from tests.distill.material import (
    PAIRS,
    adapted,
    adapter_of,
    channel_variance,
    matched,
    numpy_maps,
    random_maps,
    random_targets,
    specs_of,
    values,
)

SPECS = specs_of()
NONE = matched(SPECS, torch.zeros(0, 6))


def test_term_is_the_share_of_the_teacher_the_regressor_does_not_explain() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("fitnets")
    assert adapter is not None
    expected = []
    for place, (ours, theirs) in enumerate(numpy_maps(student, teacher)):
        expected.append(((adapted(adapter, place, ours) - theirs) ** 2).mean() / channel_variance(theirs))
    terms = fitnets(student, teacher, matched(SPECS, random_targets()), pairs=PAIRS, adapter=adapter)
    assert values(terms) == pytest.approx({"fitnets": np.mean(expected)})


def test_by_hand() -> None:
    """Teacher -1 and 1 (variance 1), regressor y = 2x: the student's 0 and 1 become 0 and 2, each 1 off."""
    pair = FeaturePair(0, 0, 1, 1, 8.0, head=0)
    student = Outputs([], (), {0: torch.tensor([[[[0.0, 1.0]]]])})
    teacher = Outputs([], (), {0: torch.tensor([[[[-1.0, 1.0]]]])})
    adapter = projections([pair])
    torch.nn.init.constant_(adapter[0].weight, 2.0)  # type: ignore[arg-type]
    torch.nn.init.zeros_(adapter[0].bias)  # type: ignore[arg-type]
    assert values(fitnets(student, teacher, NONE, pairs=[pair], adapter=adapter)) == pytest.approx({"fitnets": 1.0})


def test_a_regressor_that_only_knows_the_channels_means_pays_one() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = projections(PAIRS).double()
    for pair, layer in zip(PAIRS, adapter.children()):
        torch.nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        layer.bias.data = teacher.features[pair.teacher_layer].mean(dim=(0, 2, 3))  # type: ignore[union-attr]
    assert values(fitnets(student, teacher, NONE, pairs=PAIRS, adapter=adapter)) == pytest.approx({"fitnets": 1.0})
