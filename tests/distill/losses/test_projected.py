"""Projected features weighted by the teacher's confidence, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from distill import projected
from tests.distill.material import (
    PAIRS,
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


def test_value_equals_the_reference() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("projected")
    assert adapter is not None
    total = weights = 0.0
    for place, (ours, theirs) in enumerate(numpy_maps(student, teacher)):
        first, _, second = adapter[place]
        wide = np.einsum("bchw,dc->bdhw", ours, first.weight.detach().numpy()[:, :, 0, 0])
        wide = np.maximum(wide + first.bias.detach().numpy()[:, None, None], 0)
        mapped = np.einsum("bchw,dc->bdhw", wide, second.weight.detach().numpy()[:, :, 0, 0])
        mapped += second.bias.detach().numpy()[:, None, None]
        certainty = (1 / (1 + np.exp(-teacher.heads[place][..., 4].numpy()))).max(axis=1)  # objectness, best anchor
        total += (certainty * ((mapped - theirs) ** 2).mean(axis=1)).sum() / channel_variance(theirs)
        weights += certainty.sum()
    found = values(projected(student, teacher, matched(SPECS, random_targets()), pairs=PAIRS, adapter=adapter))
    assert found == {"projected": pytest.approx(total / weights)}
