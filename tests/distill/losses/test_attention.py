"""Attention transfer: the numbers of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill import FeaturePair, attention
from models.spec import Outputs
from tests.distill.material import PAIRS, matched, numpy_maps, random_maps, random_targets, specs_of, values

SPECS = specs_of()


def unit_map(features: np.ndarray, picture: int) -> np.ndarray:
    vector = np.zeros(features.shape[2] * features.shape[3])
    for channel in features[picture]:
        vector += channel.reshape(-1) ** 2
    return vector / np.sqrt((vector**2).sum())


def test_term_equals_the_definition() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    expected = [
        np.mean([((unit_map(ours, b) - unit_map(theirs, b)) ** 2).sum() for b in range(2)])
        for ours, theirs in numpy_maps(student, teacher)
    ]
    terms = attention(student, teacher, matched(SPECS, random_targets()), pairs=PAIRS)
    assert values(terms) == pytest.approx({"attention": np.mean(expected)})


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ([[1.0, 0.0]], 2.0),  # active where the teacher is not
        ([[0.0, -3.0]], 0.0),  # the same place, whatever sign and size
        ([[1.0, 1.0]], 2 - 2 / np.sqrt(2)),  # |u - v|^2 = 2 - 2 cos
    ],
)
def test_by_hand(student: list, expected: float) -> None:
    pair = FeaturePair(0, 0, 1, 2, 8.0)
    ours = Outputs([], (), {0: torch.tensor([[student]])})
    theirs = Outputs([], (), {0: torch.tensor([[[[0.0, 1.0]], [[0.0, 2.0]]]])})
    none = matched(SPECS, torch.zeros(0, 6))
    assert values(attention(ours, theirs, none, pairs=[pair])) == pytest.approx({"attention": expected}, abs=1e-6)
