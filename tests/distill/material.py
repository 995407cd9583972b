"""Two-headed outputs, boxes and tiny networks for the tests of distillation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import models
from distill.modes import MODES
from distill.pairs import FeaturePair
from models.assign.by_shape import assign
from models.heads import AnchoredSpec, FreeSpec, HeadSpec
from models.lineage import identity_lineage
from models.network import Network
from models.spec import Matches, Outputs
from tests import nets

FINE = ((8.0, 10.0), (16.0, 12.0))
COARSE = ((40.0, 30.0), (60.0, 90.0))
SHAPES = [(6, 8), (3, 4)]  # a 64 x 48 picture at strides 8 and 16


def specs_of(classes: int = 3, scale_x_y: float = 2.0, new_coords: bool = True) -> tuple[AnchoredSpec, ...]:
    return tuple(AnchoredSpec(a, s, classes, scale_x_y, new_coords) for a, s in ((FINE, 8), (COARSE, 16)))


FREE = tuple(FreeSpec(stride, 3, bins=4) for stride in (8, 16))


def specs_for(mode: str) -> tuple[HeadSpec, ...]:
    """Heads that a mode can compare: anchored ones, unless it needs distributions of the sides."""
    return FREE if MODES[mode].distributions else specs_of()


def random_outputs(specs: Sequence[HeadSpec], pictures: int = 2, seed: int = 0) -> Outputs:
    """Float64 heads without gradient."""
    generator = torch.Generator().manual_seed(seed)
    heads = [
        torch.randn(pictures, s.places, *shape, s.channels, generator=generator, dtype=torch.float64)
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
    """By shape; places without an anchor as if they had one of four cells."""
    usual = [AnchoredSpec(spec.typical_sizes, spec.stride, spec.classes) for spec in specs]
    return assign([spec if spec.anchors else like for spec, like in zip(specs, usual)], SHAPES, targets)


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


def free_network(text: str, seed: int = 0) -> Network:
    """Of heads without anchors."""
    torch.manual_seed(seed)
    return models.init_weights(Network(models.parse_cfg(text)))


def networks_for(mode: str) -> tuple[Network, Network]:
    """A student and a teacher that a mode can compare."""
    if MODES[mode].distributions:
        return free_network(nets.detect(2)), free_network(nets.detect(2), seed=1)
    student, teacher = tiny_network(8), tiny_network(8 if mode == "aligned" else 16, seed=1)
    if mode == "aligned":
        student.lineage = [identity_lineage(teacher, "baseline")]
    return student, teacher


# Layers 1 and 4 of the student answer to 2 and 5 of the teacher; the first pair differs in channels.
PAIRS = (FeaturePair(1, 2, 3, 5, 8.0, head=0), FeaturePair(4, 5, 4, 4, 16.0, head=1))


def random_maps(specs: Sequence[HeadSpec], teacher: bool, pictures: int = 2, seed: int = 0) -> Outputs:
    """Random heads and float64 features for the layers of `PAIRS`, with channels of different mean and spread."""
    outputs = random_outputs(specs, pictures, seed)
    generator = torch.Generator().manual_seed(seed + 100 + teacher)
    for pair, shape in zip(PAIRS, SHAPES):
        layer = pair.teacher_layer if teacher else pair.student_layer
        channels = pair.teacher_channels if teacher else pair.student_channels
        drawn = torch.randn(pictures, channels, *shape, generator=generator, dtype=torch.float64)
        scale = torch.linspace(0.5, 2, channels, dtype=torch.float64).view(1, -1, 1, 1)
        outputs.features[layer] = drawn * scale + 0.3
    return outputs


def doubled(outputs: Outputs) -> Outputs:
    """The batch twice: heads and features."""
    maps = {layer: torch.cat([each, each]) for layer, each in outputs.features.items()}
    return Outputs(twice(outputs).heads, outputs.specs, maps)


def learning(outputs: Outputs) -> Outputs:
    """The same numbers; heads and features are leaves that take a gradient."""
    maps = {layer: each.detach().clone().requires_grad_() for layer, each in outputs.features.items()}
    return Outputs(leaves(outputs).heads, outputs.specs, maps)


def adapter_of(mode: str, seed: int = 0) -> nn.Module | None:
    """A mode's adapter for `PAIRS` in float64, every parameter drawn (no zeros that hide a path)."""
    torch.manual_seed(seed)
    module = MODES[mode].adapter(PAIRS)
    if module is None:
        return None
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


def adapted(adapter: nn.Module, place: int, features: np.ndarray) -> np.ndarray:
    """``(B, C_s, H, W)`` by the 1x1 convolution at `place` of an adapter, or as it is where there is none."""
    layer = list(adapter.children())[place]
    if isinstance(layer, nn.Identity):
        return features
    weight, bias = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
    return np.einsum("bchw,dc->bdhw", features, weight[:, :, 0, 0]) + bias[:, None, None]


def numpy_maps(student: Outputs, teacher: Outputs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per pair of `PAIRS`, both maps."""
    return [
        (student.features[p.student_layer].detach().numpy(), teacher.features[p.teacher_layer].detach().numpy())
        for p in PAIRS
    ]


def channel_variance(teacher: np.ndarray) -> float:
    """The mean over channels of each channel's variance over pictures and cells."""
    return float(np.mean([teacher[:, c].var() for c in range(teacher.shape[1])]))
