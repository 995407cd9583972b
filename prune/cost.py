"""The analytic cost of a candidate: channels, parameters and MACs of a keep mask, without building the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.keys import conv_key
from models.network import Network
from prune.budgets import BUDGETS
from prune.identities import ChannelGraph, Ids, Mask


class Cost:
    """Exact costs of thin versions of a network: every figure is a few operations on integer arrays.

    Args:
        net: the fat network.
        graph: its identities.
        size: (H, W) of the network input, for the MACs.
        fold: what dropped channels leave behind is folded into their readers: one that has neither a BatchNorm of its
            own nor a bias gets a bias.
    """

    def __init__(self, net: nn.Module, graph: ChannelGraph, size: tuple[int, int] = (416, 416), fold: bool = False):
        self.graph = graph
        modules = dict(net.named_modules())
        self.convs = list(graph.convs.values())
        found = [modules[conv.name] for conv in self.convs]
        convs = [module for module in found if isinstance(module, nn.Conv2d)]
        self.groups = np.array([1 if conv.depthwise else conv.groups for conv in self.convs])
        self.depthwise = np.array([conv.depthwise for conv in self.convs])
        self.kernel = np.array([module.kernel_size[0] * module.kernel_size[1] for module in convs])
        self.bias = np.array([module.bias is not None for module in convs], np.int64)
        self.gains = np.array(
            [fold and not (bias or conv.depthwise or conv.norm) for conv, bias in zip(self.convs, self.bias)], bool
        )
        pixels = _pixels(net, [conv.name for conv in self.convs], size)
        self.pixels = np.array(pixels, np.float64)
        self.norms = dict(graph.norms)
        self._join()
        everything = np.ones(len(graph.root), bool)
        # What no identity governs (a Linear after the backbone) stays as it is.
        self.rest = 0
        self.rest = sum(p.numel() for p in net.parameters()) - self.parameters(everything)
        self.whole = {name: each.cost(self, everything) for name, each in BUDGETS.items() if each.cost}

    def _join(self) -> None:
        """All identities one after the other, and where each convolution's begin."""
        self.makes, self.make_at = _segments([conv.makes for conv in self.convs])
        self.reads, self.read_at = _segments([conv.reads for conv in self.convs])
        self.norm_ids = np.concatenate([*self.norms.values(), np.zeros(0, np.int64)])

    def without(self, modules: Collection[str]) -> Cost:
        """The cost once these convolutions and BatchNorms are gone; shares are still of the whole network."""
        rest = copy.copy(self)
        stays = np.array([conv.name not in modules for conv in self.convs])
        rest.convs = [conv for conv in self.convs if conv.name not in modules]
        for part in ("groups", "depthwise", "kernel", "bias", "gains", "pixels"):
            setattr(rest, part, getattr(self, part)[stays])
        rest.norms = {name: ids for name, ids in self.norms.items() if name not in modules}
        rest._join()
        return rest

    def widths(self, keep: Mask) -> tuple[Ids, Ids]:
        """Per convolution, the channels it makes and reads."""
        return (
            np.add.reduceat(keep[self.makes].astype(np.int64), self.make_at),
            np.add.reduceat(keep[self.reads].astype(np.int64), self.read_at),
        )

    def _weights(self, keep: Mask) -> tuple[Ids, Ids]:
        out, into = self.widths(keep)
        return out * np.where(self.depthwise, 1, into // self.groups) * self.kernel, out

    def channels(self, keep: Mask) -> int:
        """Output channels of all convolutions."""
        return int(keep[self.makes].sum())

    def parameters(self, keep: Mask, folded: Collection[str] | None = None) -> int:
        """Trainable parameters (weights, biases, gammas, betas).

        Args:
            folded: the convolutions that something is folded into. None: not known yet, so every one that reads a
                dropped channel counts, and the figure is an upper bound where biases are gained.
        """
        weights, out = self._weights(keep)
        bias = self.bias
        if self.gains.any():
            if folded is None:
                folds = np.add.reduceat((~keep[self.reads]).astype(np.int64), self.read_at) > 0
            else:
                folds = np.array([conv.name in folded for conv in self.convs])
            bias = bias + (self.gains & folds)
        return int((weights + bias * out).sum()) + 2 * int(keep[self.norm_ids].sum()) + self.rest

    def macs(self, keep: Mask) -> float:
        """Multiply-adds of the convolutions for one picture."""
        weights, _ = self._weights(keep)
        return float((weights * self.pixels).sum())

    def channel_price(self) -> np.ndarray:
        """``(N,)`` over identities: the output channels that would go with each if it were the first to go."""
        return self._spread(np.ones(len(self.convs)), np.zeros(len(self.convs)))

    def parameter_price(self) -> np.ndarray:
        """The same for parameters: the weights that make and read it, its bias, gammas and betas."""
        made, read = self._weights_of_one(np.ones(len(self.convs)))
        return self._spread(made + self.bias, read) + 2 * np.bincount(self.norm_ids, minlength=len(self.graph.root))

    def mac_price(self) -> np.ndarray:
        """The same for multiply-adds."""
        return self._spread(*self._weights_of_one(self.pixels))

    def _weights_of_one(self, each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per convolution, the weights of one channel that it makes, and of one that it reads, times `each`."""
        out, into = self.widths(np.ones(len(self.graph.root), bool))
        return (
            np.where(self.depthwise, 1, into // self.groups) * self.kernel * each,
            np.where(self.depthwise, 0, out // self.groups) * self.kernel * each,
        )

    def _spread(self, made: np.ndarray, read: np.ndarray) -> np.ndarray:
        """``(N,)`` over identities, the sums of what the convolutions that make and read each of them say."""
        out, into = self.widths(np.ones(len(self.graph.root), bool))
        count = len(self.graph.root)
        price = np.bincount(self.makes, np.repeat(made, out), count)
        price += np.bincount(self.reads, np.repeat(read, into), count)
        return price

    def share(self, keep: Mask, what: str) -> float:
        """The cost by a computed budget's name, as a share of the whole network's."""
        cost = BUDGETS[what].cost
        assert cost is not None, what
        return float(cost(self, keep)) / self.whole[what]


def _segments(parts: list[Ids]) -> tuple[Ids, Ids]:
    return np.concatenate(parts), np.cumsum([0] + [len(part) for part in parts[:-1]])


def _pixels(net: nn.Module, names: list[str], size: tuple[int, int]) -> list[int]:
    """Output pixels of each convolution: computed by a `Network`; else one pass with tensors that have no data."""
    if isinstance(net, Network):
        sizes = net.conv_sizes(size)
        return [math.prod(sizes[conv_key(name)]) for name in names]
    seen = dict.fromkeys(names, 0)
    modules = dict(net.named_modules())

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            seen[name] += out.shape[2] * out.shape[3]

        return hook

    handles = [modules[name].register_forward_hook(note(name)) for name in names]
    modes = [(module, module.training) for module in net.modules()]
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]
    }
    try:
        net.eval()
        with torch.no_grad():
            picture = torch.empty(1, first.in_channels, *size, device="meta", dtype=first.weight.dtype)
            functional_call(net, tensors, (picture,))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return [seen[name] for name in names]
