"""Channel-wise distillation: the numbers of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from distill import FeaturePair, cwd
from distill.adapters import projections_where_needed
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


def places(channel: np.ndarray, temperature: float) -> np.ndarray:
    exponentials = np.exp(channel.reshape(-1) / temperature)
    return exponentials / exponentials.sum()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_term_equals_the_definition(temperature: float) -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("cwd")
    assert adapter is not None
    terms = []
    for n, (ours, theirs) in enumerate(numpy_maps(student, teacher)):
        ours = adapted(adapter, n, ours)
        pictures, channels = theirs.shape[:2]
        total = 0.0
        for b in range(pictures):
            for c in range(channels):
                p, q = places(theirs[b, c], temperature), places(ours[b, c], temperature)
                total += (p * np.log(p / q)).sum()
        terms.append(temperature**2 * total / channels / pictures)
    found = cwd(
        student, teacher, matched(SPECS, random_targets()), pairs=PAIRS, adapter=adapter, temperature=temperature
    )
    assert values(found) == pytest.approx({"cwd": np.mean(terms)})


def test_by_hand_and_blind_to_an_offset() -> None:
    """T = 1: the teacher is at two places with 3/4 and 1/4, the student with 1/2 each, whatever is added."""
    pair = FeaturePair(0, 0, 1, 1, 8.0)
    adapter = projections_where_needed([pair])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for offset in (0.0, 7.0):
        student = Outputs([], (), {0: torch.full((1, 1, 1, 2), offset)})
        teacher = Outputs([], (), {0: torch.tensor([[[[math.log(3), 0.0]]]])})
        found = values(cwd(student, teacher, NONE, pairs=[pair], adapter=adapter, temperature=1))
        assert found == pytest.approx({"cwd": expected}, rel=1e-5)


def test_temperature_has_to_be_above_zero() -> None:
    maps = random_maps(SPECS, False), random_maps(SPECS, True)
    adapter = adapter_of("cwd")
    assert adapter is not None
    with pytest.raises(UserError, match="temperature 0 of cwd"):
        cwd(*maps, NONE, pairs=PAIRS, adapter=adapter, temperature=0)
