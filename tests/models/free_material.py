"""Heads without anchors, objects, and their arithmetic on Python numbers, from the papers and not from the product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.heads import FreeSpec

SHAPES = [(6, 8), (3, 4)]  # of strides 8 and 16 on a picture of 64 x 48
CLASSES = 3

Box = tuple[float, float, float, float]
"""Left, top, right, lower side in pixels."""


def specs_with(bins: int, one_to_one: bool = False) -> tuple[FreeSpec, ...]:
    return tuple(FreeSpec(stride, CLASSES, bins, one_to_one) for stride in (8, 16))


def random_heads(
    specs: Sequence[FreeSpec], pictures: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """One for each spec; a third and a fourth are of the strides of the first two again."""
    generator = torch.Generator().manual_seed(seed)
    heads = []
    for number, spec in enumerate(specs):
        head = torch.randn(pictures, 1, *SHAPES[number % 2], spec.channels, generator=generator, dtype=dtype)
        if spec.bins == 1:
            head[..., :4] += 1.5  # distances that are mostly above 0
        heads.append(head)
    return heads


def random_targets(pictures: int, each: int = 5, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    count = pictures * each
    image = np.repeat(np.arange(pictures), each)[:, None]
    centre = generator.uniform(0, 1, (count, 2)) * (64, 48)
    size = np.exp(generator.uniform(np.log(3), np.log(60), (count, 2)))
    return torch.tensor(np.concatenate([image, generator.integers(0, CLASSES, (count, 1)), centre, size], axis=1))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def bce(logit: float, target: float) -> float:
    return -target * math.log(sigmoid(logit)) - (1 - target) * math.log(sigmoid(-logit))


def softmax(logits: Sequence[float]) -> list[float]:
    weights = [math.exp(z) for z in logits]
    return [w / sum(weights) for w in weights]


def distances(logits: Sequence[float], bins: int) -> list[float]:
    """The left, top, right and lower distance in strides."""
    if bins == 1:
        return list(logits[:4])
    return [
        sum(number * share for number, share in enumerate(softmax(logits[side * bins : (side + 1) * bins])))
        for side in range(4)
    ]


def decoded(logits: Sequence[float], spec: FreeSpec, row: int, col: int) -> Box:
    left, top, right, low = (each * spec.stride for each in distances(logits, spec.bins))
    x, y = (col + 0.5) * spec.stride, (row + 0.5) * spec.stride
    return x - left, y - top, x + right, y + low


def corners(cx: float, cy: float, w: float, h: float) -> Box:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def iou(p: Box, q: Box) -> float:
    areas = [max(b[2] - b[0], 0) * max(b[3] - b[1], 0) for b in (p, q)]
    wide, high = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
    common = wide * high if min(wide, high) > 0 and areas[0] > 0 else 0.0
    return common / (sum(areas) - common)
