"""Fine-grained imitation: the region near objects and the numbers of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill import imitation
from distill.losses.imitation import near_objects
from models.heads import AnchoredSpec
from models.spec import Matches
from tests.distill.losses.test_mgd import convolve
from tests.distill.material import (
    PAIRS,
    SHAPES,
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


def iou(p: np.ndarray, q: np.ndarray) -> float:
    low, high = np.maximum(p[:2] - p[2:] / 2, q[:2] - q[2:] / 2), np.minimum(p[:2] + p[2:] / 2, q[:2] + q[2:] / 2)
    common = np.clip(high - low, 0, None).prod()
    return float(common / (p[2:].prod() + q[2:].prod() - common))


def region(
    targets: np.ndarray, matches: Matches, spec: AnchoredSpec, shape: tuple[int, int], near: float
) -> np.ndarray:
    """The paper's region, for the targets that answer for a cell somewhere."""
    answering = {n for match in matches.heads for n in match.target.tolist()}
    mask = np.zeros((2, *shape), bool)
    for n in answering:
        overlaps = np.zeros((*shape, len(spec.anchors)))
        for r, c, a in np.ndindex(*overlaps.shape):
            anchor = np.array([(c + 0.5) * spec.stride, (r + 0.5) * spec.stride, *spec.anchors[a]])
            overlaps[r, c, a] = iou(targets[n, 2:], anchor)
        mask[int(targets[n, 0])] |= (overlaps > near * overlaps.max()).any(axis=2)
    return mask


@pytest.mark.parametrize("near", [0.2, 0.5])
def test_term_is_the_error_on_the_region_near_objects(near: float) -> None:
    student, teacher, targets = random_maps(SPECS, False), random_maps(SPECS, True, seed=1), random_targets(each=3)
    matches = matched(SPECS, targets)
    adapter = adapter_of("imitation")
    assert adapter is not None
    total, cells = 0.0, 0
    for layer, spec, shape, (ours, theirs) in zip(adapter.children(), SPECS, SHAPES, numpy_maps(student, teacher)):
        mask = region(targets.numpy(), matches, spec, shape, near)
        assert mask.any()
        error = ((convolve(ours, layer) - theirs) ** 2).mean(axis=1)
        total += error[mask].sum() / channel_variance(theirs)
        cells += mask.sum()
    terms = imitation(student, teacher, matches, pairs=PAIRS, adapter=adapter, near=near)
    assert values(terms) == pytest.approx({"imitation": total / cells})


def test_region_by_hand() -> None:
    """One 8 x 8 anchor on 8-pixel cells, a box on cell 1 that reaches 2 pixels into cell 2.

    Overlaps: 8 * 8 / 80 = .8 with cell 1, 2 * 8 / (80 + 64 - 16) = .125 with cell 2, 0 with cell 0.
    """
    spec = AnchoredSpec(((8.0, 8.0),), 8, 1)
    matches = matched((spec, spec), torch.tensor([[0, 0, 13.0, 4.0, 10.0, 8.0]]))
    shape = (1, 1, 1, 3)
    assert near_objects(matches, spec, shape, 0.5)[0, 0].tolist() == [False, True, False]
    assert near_objects(matches, spec, shape, 0.1)[0, 0].tolist() == [False, True, True]


def test_many_boxes_are_those_of_each_alone() -> None:
    """More boxes than are looked at in one piece."""
    targets = random_targets(each=90)
    whole = near_objects(matched(SPECS, targets), SPECS[0], (2, 3, *SHAPES[0]), 0.5)
    answering = {n for match in matched(SPECS, targets).heads for n in match.target.tolist()}
    alone = torch.stack(
        [near_objects(matched(SPECS, targets[n : n + 1]), SPECS[0], (2, 3, *SHAPES[0]), 0.5) for n in answering]
    )
    assert len(answering) > 64
    assert torch.equal(whole, alone.any(dim=0))


def test_without_objects_there_is_nothing_to_imitate() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    student.features[1].requires_grad_()
    adapter = adapter_of("imitation")
    assert adapter is not None
    term = imitation(student, teacher, matched(SPECS, torch.zeros(0, 6)), pairs=PAIRS, adapter=adapter)["imitation"]
    assert term.item() == 0
    term.backward()
    assert student.features[1].grad is not None
    assert not student.features[1].grad.any()
