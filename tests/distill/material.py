"""Two-headed outputs, boxes and tiny networks for the tests of distillation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import models
from models.assign import assign
from models.network import Network
from models.spec import HeadSpec, Matches, Outputs

FINE = ((8.0, 10.0), (16.0, 12.0))
COARSE = ((40.0, 30.0), (60.0, 90.0))
SHAPES = [(6, 8), (3, 4)]  # a 64 x 48 picture at strides 8 and 16


def specs_of(classes: int = 3, scale_x_y: float = 2.0, new_coords: bool = True) -> tuple[HeadSpec, ...]:
    return tuple(HeadSpec(a, s, classes, scale_x_y, new_coords) for a, s in ((FINE, 8), (COARSE, 16)))


def random_outputs(specs: Sequence[HeadSpec], pictures: int = 2, seed: int = 0) -> Outputs:
    """Float64 heads without gradient."""
    generator = torch.Generator().manual_seed(seed)
    heads = [
        torch.randn(pictures, len(s.anchors), *shape, 5 + s.classes, generator=generator, dtype=torch.float64)
        for s, shape in zip(specs, SHAPES)
    ]
    return Outputs(heads, tuple(specs))


def random_targets(pictures: int = 2, each: int = 5, seed: int = 0, classes: int = 3) -> Tensor:
    generator = np.random.default_rng(seed)
    count = pictures * each
    image = np.repeat(np.arange(pictures), each)[:, None]
    centre = generator.uniform(0, 1, (count, 2)) * (64, 48)
    size = np.exp(generator.uniform(np.log(4), np.log(90), (count, 2)))
    return torch.tensor(np.concatenate([image, generator.integers(0, classes, (count, 1)), centre, size], axis=1))


def matched(specs: Sequence[HeadSpec], targets: Tensor) -> Matches:
    return assign(specs, SHAPES, targets)


def leaves(outputs: Outputs) -> Outputs:
    """The same numbers, each head a leaf that takes a gradient."""
    return Outputs([head.detach().clone().requires_grad_() for head in outputs.heads], outputs.specs)


def twice(outputs: Outputs) -> Outputs:
    return Outputs([torch.cat([head, head]) for head in outputs.heads], outputs.specs)


CFG = """
[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters={width}
size=3
stride=4
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters={width}
size=3
stride=2
pad=1
activation=leaky

[convolutional]
size=1
stride=1
pad=1
filters={filters}
activation={activation}

[yolo]
mask=0,1
anchors=8,10, 16,12, 40,30, 60,60
classes={classes}
num=4
{extra}

[route]
layers=-3

[convolutional]
batch_normalize=1
filters={width}
size=3
stride=2
pad=1
activation=leaky

[convolutional]
size=1
stride=1
pad=1
filters={filters}
activation={activation}

[yolo]
mask=2,3
anchors=8,10, 16,12, 40,30, 60,60
classes={classes}
num=4
{extra}
"""


def tiny_cfg(width: int = 8, classes: int = 2, new_coords: bool = False) -> str:
    """A cfg with two heads of strides 8 and 16."""
    return CFG.format(
        width=width,
        classes=classes,
        filters=2 * (5 + classes),
        activation="logistic" if new_coords else "linear",
        extra="scale_x_y=2\nnew_coords=1" if new_coords else "",
    )


def tiny_network(width: int = 8, classes: int = 2, new_coords: bool = False, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return models.init_weights(
        Network(models.parse_cfg(tiny_cfg(width, classes, new_coords), source=f"tiny{width}.cfg"))
    )
