"""The weights a network starts training from."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from models.network import Network


def init_weights(net: Network) -> Network:
    """Random weights a deep network trains from: Kaiming for rectifiers before BatchNorm, then `init_heads`."""
    for layer in net.convolutions.values():
        nn.init.kaiming_normal_(layer.conv.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")
        if layer.conv.bias is not None:
            nn.init.zeros_(layer.conv.bias)
    init_heads(net)
    return net


@torch.no_grad()
def init_heads(net: Network, heads: Iterable[int] | None = None, objects: float = 8.0) -> None:
    """Start heads near their prior, so that the first steps are not spent on pushing all of the background down.

    Objectness starts at `objects` per picture of 640 pixels, spread over the cells of the head; classes at .6 / C
    (the prior of Focal Loss, ICCV 2017, section 3.3, with a count per head instead of one probability).

    Args:
        heads: which heads, by place in `net.specs`; all if None.
    """
    for place in range(len(net.specs)) if heads is None else heads:
        spec, conv = net.specs[place], net.convolutions[net.head_convolutions[place]].conv
        nn.init.normal_(conv.weight, std=0.01)
        if conv.bias is None:
            continue
        bias = torch.zeros(len(spec.anchors), 5 + spec.classes)
        bias[:, 4] = math.log(objects / (640 / spec.stride) ** 2)
        if not spec.softmax:
            bias[:, 5:] = math.log(0.6 / (spec.classes - 0.99999)) if spec.classes > 1 else 0.0
        conv.bias.copy_(bias.flatten())
