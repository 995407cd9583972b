"""A network's copy that only detects: the same function, computed faster."""

from __future__ import annotations

import copy

import torch
from torch import nn

from models.layers import Conv
from models.network import Network

_IN_PLACE = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Hardtanh)


@torch.no_grad()
def for_inference(net: Network) -> Network:
    """A copy of `net` in eval mode; `net` itself is not touched.

    BatchNorm is multiplied into its convolution (in float64: the outputs differ by the rounding of one product),
    activations work in place, and weights lie channels last, as `Batch.prepared` lays pictures. Backbones of timm keep
    their BatchNorms. The copy is not for training, nor for a file.
    """
    fast = copy.deepcopy(net).eval().requires_grad_(False)
    for layer in fast.convolutions.values():
        _fold(layer)
        if isinstance(layer.act, _IN_PLACE):  # nobody else reads what the convolution has just put out
            layer.act.inplace = True
    return fast.to(memory_format=torch.channels_last)


def _fold(layer: Conv) -> None:
    """Give the convolution the weights and the bias of itself and the BatchNorm behind it."""
    bn, conv = layer.bn, layer.conv
    if bn is None:
        return
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    shift = bn.bias.double() - bn.running_mean.double() * scale
    if conv.bias is not None:
        shift += conv.bias.double() * scale
    conv.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)
    layer.bn = None
