"""Localisation distillation: numbers by hand, the weights of the places, and what the box alone does not see."""

from __future__ import annotations

import math

import pytest
import torch

from common.errors import UserError
from distill import ld
from models.spec import Matches, Outputs
from tests.distill.material import FREE, matched, random_outputs, random_targets, values


def softmax(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp(z / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


def reference(student: Outputs, teacher: Outputs, matches: Matches, temperature: float) -> float:
    total = weights = 0.0
    for ours, theirs, match in zip(student.heads, teacher.heads, matches.heads):
        taken = set(zip(match.image.tolist(), match.row.tolist(), match.col.tolist()))
        for i in range(ours.shape[0]):
            for r in range(ours.shape[2]):
                for c in range(ours.shape[3]):
                    mine, taught = ours[i, 0, r, c].tolist(), theirs[i, 0, r, c].tolist()
                    weight = 1.0 if (i, r, c) in taken else max(1 / (1 + math.exp(-z)) for z in taught[16:])
                    for side in range(0, 16, 4):
                        p, q = (softmax(each[side : side + 4], temperature) for each in (taught, mine))
                        divergence = sum(a * math.log(a / b) for a, b in zip(p, q))
                        total += weight * temperature**2 * divergence / 4
                    weights += weight
    return total / weights


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_values_equal_the_reference(temperature: float) -> None:
    student, teacher = random_outputs(FREE), random_outputs(FREE, seed=1)
    matches = matched(FREE, random_targets())
    found = values(ld(student, teacher, matches, temperature=temperature))
    assert found == {"ld": pytest.approx(reference(student, teacher, matches, temperature), rel=1e-6)}


def test_equal_distributions_cost_nothing_and_equal_means_do() -> None:
    """Half and half on the bins 0 and 2, or all on 1: the same box."""
    wide, narrow = random_outputs(FREE, 1), random_outputs(FREE, 1)
    for outputs, shares in ((wide, (0.5, 1e-9, 0.5, 1e-9)), (narrow, (1e-9, 1.0, 1e-9, 1e-9))):
        for head in outputs.heads:
            head[..., :16] = torch.tensor(shares).log().repeat(4)
    matches = matched(FREE, random_targets(1))
    for spec, one, other in zip(FREE, wide.heads, narrow.heads):
        torch.testing.assert_close(spec.boxes(one), spec.boxes(other))
    assert ld(wide, wide, matches)["ld"].item() == pytest.approx(0, abs=1e-12)
    assert ld(wide, narrow, matches, temperature=1)["ld"].item() > 1


def test_temperature_has_to_be_above_0() -> None:
    with pytest.raises(UserError, match="temperature 0 of ld"):
        ld(random_outputs(FREE), random_outputs(FREE), matched(FREE, random_targets()), temperature=0)
