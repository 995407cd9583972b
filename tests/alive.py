"""Networks whose every weight matters, so that a wrong surgery or a wrong file cannot pass unseen.

A default-initialised deep network forgets its input: it changes by 1e-31 between two pictures, so that any two wrong
networks would agree.
"""

from __future__ import annotations

import torch
from torch import nn

from models.network import Network


def alive(net: Network, size: tuple[int, int] = (64, 64), seed: int = 0, dtype: torch.dtype | None = None) -> Network:
    """Give `net` random weights, in place, such that two pictures differ by more than 1 % of max|out| at every head.

    Gammas and betas are random and not 0; the BatchNorm statistics come from a training-mode forward on noise.

    Args:
        size: (H, W) of the noise.
        dtype: of the network, as torch.float64 for exact comparisons.

    Returns:
        `net` in eval mode.
    """
    random = torch.Generator().manual_seed(seed)
    if dtype is not None:
        net.to(dtype)
    with torch.no_grad():
        for layer in net.convolutions.values():
            fan_in = layer.conv.weight[0].numel()
            layer.conv.weight.copy_(torch.randn(layer.conv.weight.shape, generator=random) * (2 / fan_in) ** 0.5)
            if layer.conv.bias is not None:
                layer.conv.bias.copy_(torch.randn(layer.conv.bias.shape, generator=random) * 0.3)
            if layer.bn is not None:
                layer.bn.weight.copy_(0.75 + 0.5 * torch.rand(layer.bn.weight.shape, generator=random))
                layer.bn.bias.copy_(torch.randn(layer.bn.bias.shape, generator=random))
        for backbone in net.backbones.values():
            _random_weights(backbone, random)
        _statistics_from_noise(net, size, random)
        first, second = (net(noise(net, size, random, batch=1)) for _ in range(2))
    for place, (one, two) in enumerate(zip(first, second)):
        change = (one - two).abs().max() / one.abs().max()
        assert change > 0.01, f"head {place} hardly listens to its input: {change:.2e}"
    return net


def _random_weights(module: nn.Module, random: torch.Generator) -> None:
    """The same for a backbone's convolutions and BatchNorms."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = part.weight[0].numel()
            part.weight.copy_(torch.randn(part.weight.shape, generator=random) * (2 / fan_in) ** 0.5)
            if part.bias is not None:
                part.bias.copy_(torch.randn(part.bias.shape, generator=random) * 0.3)
        elif isinstance(part, nn.BatchNorm2d):
            part.weight.copy_(0.75 + 0.5 * torch.rand(part.weight.shape, generator=random))
            part.bias.copy_(torch.randn(part.bias.shape, generator=random) * 0.5 + 1)  # most rectifiers let through


def noise(net: Network, size: tuple[int, int], random: torch.Generator, batch: int = 2) -> torch.Tensor:
    """Pictures `(batch, C, H, W)` in 0..1 in the network's own number format."""
    dtype = next(net.parameters()).dtype
    return torch.rand(batch, net.in_channels, *size, generator=random, dtype=torch.float64).to(dtype)


def _statistics_from_noise(net: Network, size: tuple[int, int], random: torch.Generator) -> None:
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches seen
    net.train()
    net(noise(net, size, random, batch=4))
    net.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
