"""Masked generative distillation: the numbers of the definition, and the mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill import mgd
from distill.losses.mgd import Generator
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


def convolve(features: np.ndarray, layer: torch.nn.Module) -> np.ndarray:
    """A zero-padded convolution, cell by cell."""
    weight, bias = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
    side = weight.shape[2] // 2
    padded = np.pad(features, ((0, 0), (0, 0), (side, side), (side, side)))
    out = np.empty((features.shape[0], weight.shape[0], *features.shape[2:]))
    for r in range(features.shape[2]):
        for c in range(features.shape[3]):
            window = padded[:, :, r : r + 2 * side + 1, c : c + 2 * side + 1]
            out[:, :, r, c] = np.einsum("bchw,dchw->bd", window, weight) + bias
    return out


def rebuilt(generator: Generator, features: np.ndarray, keep: np.ndarray) -> np.ndarray:
    wide = features if isinstance(generator.align, torch.nn.Identity) else convolve(features, generator.align)
    first, _, second = generator.rebuild
    return convolve(np.maximum(convolve(wide * keep, first), 0), second)


def test_term_equals_the_definition_with_the_mask_that_was_drawn() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("mgd")
    assert adapter is not None
    torch.manual_seed(5)
    masks = [(torch.rand(1, 1, *student.features[p.student_layer].shape[2:]) >= 0.4).numpy() for p in PAIRS]
    assert 0 < np.mean(masks[0]) < 1
    expected = []
    for generator, keep, (ours, theirs) in zip(adapter.children(), masks, numpy_maps(student, teacher)):
        assert isinstance(generator, Generator)
        expected.append(((rebuilt(generator, ours, keep) - theirs) ** 2).mean() / channel_variance(theirs))
    torch.manual_seed(5)
    terms = mgd(student, teacher, matched(SPECS, random_targets()), pairs=PAIRS, adapter=adapter, masked=0.4)
    assert values(terms) == pytest.approx({"mgd": np.mean(expected)})


def test_hidden_cells_get_no_gradient() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("mgd")
    assert adapter is not None
    features = student.features[1].requires_grad_()
    torch.manual_seed(3)
    keep = torch.rand(1, 1, *features.shape[2:]) >= 0.65
    torch.manual_seed(3)
    mgd(student, teacher, matched(SPECS, random_targets()), pairs=PAIRS, adapter=adapter)["mgd"].backward()
    assert features.grad is not None
    assert torch.equal(features.grad.abs().amax(dim=(0, 1)) > 0, keep[0, 0])
