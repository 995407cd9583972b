"""Focal and global distillation: the numbers of the definition, the masks and the context block."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from distill import fgd
from distill.losses.fgd import Context, FocalGlobal, object_weights
from models.spec import Matches
from tests.distill.losses.test_mgd import convolve
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


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def attention_of(picture: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """``(C, H, W)`` to attention over cells ``(H, W)`` and channels ``(C,)``."""
    channels, rows, cols = picture.shape
    over_cells = rows * cols * softmax((np.abs(picture).mean(axis=0) / temperature).ravel()).reshape(rows, cols)
    return over_cells, channels * softmax(np.abs(picture).mean(axis=(1, 2)) / temperature)


def context(block: Context, features: np.ndarray) -> np.ndarray:
    """The context block, picture by picture."""
    key = convolve(features, block.key)[:, 0]
    out = features.copy()
    for b, picture in enumerate(features):
        share = softmax(key[b].ravel())
        mean = (picture.reshape(len(picture), -1) * share).sum(axis=1)
        inner = convolve(mean[None, :, None, None], block.squeeze)[0, :, 0, 0]
        inner = (inner - inner.mean()) / np.sqrt(inner.var() + 1e-5)
        inner = inner * block.gain.detach().numpy().ravel() + block.shift.detach().numpy().ravel()
        out[b] += convolve(np.maximum(inner, 0)[None, :, None, None], block.expand)[0]
    return out


def masks(
    matches: Matches, stride: float, shape: tuple[int, ...], targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The binary and the scale mask."""
    answering = {n for match in matches.heads for n in match.target.tolist()}
    area = np.full((shape[0], *shape[2:]), np.inf)
    for n in answering:
        picture, (cx, cy, w, h) = int(targets[n, 0]), targets[n, 2:]
        cells = [
            (r, c)
            for r in range(shape[2])
            for c in range(shape[3])
            if c * stride < cx + w / 2 and (c + 1) * stride > cx - w / 2
            if r * stride < cy + h / 2 and (r + 1) * stride > cy - h / 2
        ]
        for r, c in cells:
            area[picture, r, c] = min(area[picture, r, c], len(cells))
    inside = np.isfinite(area)
    rest = np.stack([~each / max(1, (~each).sum()) for each in inside])
    return np.where(inside, 1 / area, 0), rest


def test_terms_equal_the_definition() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    targets = random_targets(each=2, seed=3)
    matches = matched(SPECS, targets)
    adapter = adapter_of("fgd")
    assert adapter is not None
    expected: dict[str, list[float]] = {"fgd_focal": [], "fgd_attention": [], "fgd_global": []}
    for pair, module, (ours, theirs) in zip(PAIRS, adapter.children(), numpy_maps(student, teacher)):
        assert isinstance(module, FocalGlobal)
        ours = ours if isinstance(module.align, torch.nn.Identity) else convolve(ours, module.align)
        objects, rest = masks(matches, pair.stride, theirs.shape, targets.numpy())
        assert objects.any()
        assert rest.any()
        scale, focal, apart = channel_variance(theirs), np.zeros(objects.shape), []
        for b in range(len(ours)):
            cells, channels = attention_of(theirs[b], 0.7)
            mine = attention_of(ours[b], 0.7)
            focal[b] = cells * (channels[:, None, None] * (ours[b] - theirs[b]) ** 2).mean(axis=0)
            apart.append(np.abs(mine[0] - cells).mean() + np.abs(mine[1] - channels).mean())
        parts = [(weight * focal).sum() / weight.sum() / scale for weight in (objects, rest)]
        expected["fgd_focal"].append(parts[0] + 0.3 * parts[1])
        expected["fgd_attention"].append(np.mean(apart))
        related = context(module.student, ours) - context(module.teacher, theirs)
        expected["fgd_global"].append((related**2).mean() / scale)
    terms = fgd(student, teacher, matches, pairs=PAIRS, adapter=adapter, temperature=0.7, background=0.3)
    assert values(terms) == pytest.approx({name: np.mean(each) for name, each in expected.items()}, rel=1e-5)


def test_each_box_counts_alike_and_the_smaller_one_first() -> None:
    """Cells of 8 pixels: a box on cells 0..2 (1/3 each) and one within cell 1 (1)."""
    targets = torch.tensor([[0, 0, 12.0, 4.0, 20.0, 6.0], [0, 0, 12.0, 4.0, 4.0, 4.0]])
    objects, rest = object_weights(matched(SPECS, targets), 8.0, (1, 3, 1, 5))
    assert objects[0, 0].tolist() == pytest.approx([1 / 3, 1, 1 / 3, 0, 0])
    assert rest[0, 0].tolist() == pytest.approx([0, 0, 0, 1 / 2, 1 / 2])


def test_a_box_at_the_edge_of_the_picture_has_a_cell() -> None:
    targets = torch.tensor([[0, 0, 64.0, 47.9, 3.0, 3.0], [1, 0, 0.0, 0.0, 3.0, 3.0]])
    objects, _ = object_weights(matched(SPECS, targets), 8.0, (2, 3, 6, 8))
    assert objects.flatten(1).sum(dim=1).tolist() == [1, 1]
    assert objects[0, 5, 7] == 1
    assert objects[1, 0, 0] == 1


def test_context_starts_as_the_identity() -> None:
    features = torch.randn(2, 4, 3, 5)
    assert torch.equal(Context(4)(features), features)


def test_equal_maps_differ_in_nothing_but_the_context_blocks() -> None:
    pair, teacher = PAIRS[1], random_maps(SPECS, True)
    teacher.features[pair.student_layer] = teacher.features[pair.teacher_layer]
    module = torch.nn.ModuleList([FocalGlobal(pair).double()])
    terms = fgd(teacher, teacher, matched(SPECS, random_targets()), pairs=[pair], adapter=module)
    assert values(terms) == {"fgd_focal": 0.0, "fgd_attention": 0.0, "fgd_global": 0.0}


def test_without_objects_all_is_background() -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    adapter = adapter_of("fgd")
    assert adapter is not None
    none = matched(SPECS, torch.zeros(0, 6))
    terms = [fgd(student, teacher, none, pairs=PAIRS, adapter=adapter, background=b) for b in (0.0, 1.0)]
    assert terms[0]["fgd_focal"].item() == 0
    assert math.isfinite(terms[1]["fgd_focal"].item())
    assert terms[1]["fgd_focal"].item() > 0


def test_temperature_has_to_be_above_zero() -> None:
    adapter = adapter_of("fgd")
    assert adapter is not None
    none = matched(SPECS, torch.zeros(0, 6))
    with pytest.raises(UserError, match="temperature -1 of fgd"):
        fgd(random_maps(SPECS, False), random_maps(SPECS, True), none, pairs=PAIRS, adapter=adapter, temperature=-1)
