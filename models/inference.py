"""A network's copy that only detects: the same function, computed faster."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.network import Network

_IN_PLACE = (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Hardtanh)


@torch.no_grad()
def for_inference(net: Network) -> Network:
    """A copy of `net` in eval mode; `net` itself is not touched.

    BatchNorms are folded (the outputs differ by the rounding of one product), activations work in place, and weights
    lie channels last, as `Batch.prepared` lays pictures. Backbones of timm keep their BatchNorms. The copy is not for
    training, nor for a file.
    """
    fast = fold_norms(copy.deepcopy(net).eval()).requires_grad_(False)
    for layer in fast.convolutions.values():
        if isinstance(layer.act, _IN_PLACE):  # nobody else reads what the convolution has just put out
            layer.act.inplace = True
    return fast.to(memory_format=torch.channels_last)


def fold_norms(net: Network) -> Network:
    """Multiply every BatchNorm of the cfg into the convolution before it, in place; for a network in eval mode."""
    for layer in net.convolutions.values():
        if layer.bn is not None:
            layer.conv, layer.bn = fuse_conv_bn_eval(layer.conv, layer.bn), None
    return net
