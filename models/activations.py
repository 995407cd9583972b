"""Darknet's activations by their cfg names (darknet's activations.h), as modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Loggy(nn.Module):
    """``2 / (1 + exp(-x)) - 1``."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(x) - 1


class Ramp(nn.Module):
    """``x * [x > 0] + 0.1 x``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + 0.1 * x


class Plse(nn.Module):
    """Piecewise linear sigmoid: slope 1/8 within -4..4, 1/100 outside."""

    def forward(self, x: Tensor) -> Tensor:
        inner = x.clamp(-4, 4)
        return 0.125 * inner + 0.5 + 0.01 * (x - inner)


class Stair(nn.Module):
    """Flat on even steps, a ramp on odd ones."""

    def forward(self, x: Tensor) -> Tensor:
        step = x.floor()
        half = (x / 2).floor()
        return torch.where(step % 2 == 0, half, x - step + half)


class LeakyHardTan(nn.Module):
    """``lhtan``: x within 0..1, slope 1/1000 outside."""

    def forward(self, x: Tensor) -> Tensor:
        inner = x.clamp(0, 1)
        return inner + 0.001 * (x - inner)


class HardMish(nn.Module):
    """``x`` above 0, ``x^2 / 2 + x`` within -2..0, 0 below."""

    def forward(self, x: Tensor) -> Tensor:
        inner = x.clamp(-2, 0)
        return x.clamp(min=0) + inner * inner / 2 + inner


class NormChannels(nn.Module):
    """``normalize_channels``: positive values divided by their sum over the channels of a pixel, others 0."""

    mixes_channels = True

    def forward(self, x: Tensor) -> Tensor:
        positive = x.clamp(min=0)
        return positive / (positive.sum(1, keepdim=True) + 1e-4)


class NormChannelsSoftmax(nn.Module):
    """``normalize_channels_softmax``: softmax over the channels of a pixel (with Darknet's 1e-4 in the denominator).

    Args:
        subtract_max: the ``_maxval`` form, where the constant meets exponentials of x - max(x).
    """

    mixes_channels = True

    def __init__(self, subtract_max: bool = False):
        super().__init__()
        self.subtract_max = subtract_max

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.exp(x - x.amax(1, keepdim=True) if self.subtract_max else x)
        return powers / (powers.sum(1, keepdim=True) + 1e-4)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "logistic": nn.Sigmoid,
    "loggy": Loggy,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "relie": lambda: nn.LeakyReLU(0.01),
    "ramp": Ramp,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "revleaky": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "tanh": nn.Tanh,
    "plse": Plse,
    "stair": Stair,
    "hardtan": nn.Hardtanh,
    "lhtan": LeakyHardTan,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "hard_mish": HardMish,
    "normalize_channels": NormChannels,
    "normalize_channels_softmax": NormChannelsSoftmax,
    "normalize_channels_softmax_maxval": lambda: NormChannelsSoftmax(subtract_max=True),
}
