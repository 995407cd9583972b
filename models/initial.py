"""The weights a network starts training from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from models.network import Network


def init_weights(net: Network) -> Network:
    """Random weights a deep network trains from: Kaiming for rectifiers before BatchNorm, then `init_heads`.

    Networks of SiLU (YOLOv5 and later) start as PyTorch leaves a convolution: uniform, of variance 1 / (3 fan in).
    With a BatchNorm behind it the scale of its weights changes nothing that a network says, but how far a step of Adam
    turns them: from weights as large as Kaiming's a short training ends much lower (docs/results.md).
    """
    if any(isinstance(layer.act, nn.SiLU) for layer in net.convolutions.values()):
        for layer in net.convolutions.values():
            layer.conv.reset_parameters()
    else:
        for layer in net.convolutions.values():
            nn.init.kaiming_normal_(layer.conv.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")
            if layer.conv.bias is not None:
                nn.init.zeros_(layer.conv.bias)
    init_heads(net)
    return net


@torch.no_grad()
def init_heads(net: Network, heads: Iterable[int] | None = None, objects: float | None = None) -> None:
    """Start heads near their prior (`HeadSpec.start`), so that the first steps are not spent on pushing all of the
    background down.

    Args:
        heads: which heads, by place in `net.specs`; all if None.
        objects: expected in a picture of 640 pixels; None: what the heads' family usually expects.
    """
    for place in range(len(net.specs)) if heads is None else heads:
        spec, numbers = net.specs[place], net.convolutions_by_head[place]
        expected = spec.usual_objects if objects is None else objects
        spec.start([net.convolutions[number].conv for number in numbers], expected)
