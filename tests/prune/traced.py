"""The fat references of `tests.prune.reference` for any network that torch.fx traces, a `[timm]` backbone included.

The traced graph is run node by node, and what a thin network claims is imposed on the nodes. That the graph computes
what the network computes is checked first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from prune.fold import Leftovers
from prune.identities import ChannelGraph, Mask, Step
from prune.surgery import sliced_tensors
from prune.tracing import Tracer


class Imposed(fx.Interpreter):
    """Runs `net` by its traced graph; what the nodes named in `masks` put out is multiplied, channel by channel."""

    def __init__(self, net: nn.Module, masks: dict[str, Tensor] | None = None):
        super().__init__(fx.GraphModule(net, Tracer().trace(net.eval())))
        self.masks = masks or {}

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        mask = self.masks.get(n.name)
        return out if mask is None else out * mask[:, None, None]

    def __call__(self, images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(self.run(images))


def thin_module(net: nn.Module, graph: ChannelGraph, keep: Mask, left: Leftovers | None = None) -> nn.Module:
    """As `prune.surgery.thin_network`, of any traced module: a copy with narrower convolutions and BatchNorms.

    The module's forward must not hold channel counts of its own.
    """
    thin = copy.deepcopy(net)
    tensors = sliced_tensors(net, graph, keep, left)
    modules = dict(thin.named_modules())
    for name, conv in graph.convs.items():
        module = modules[name]
        assert isinstance(module, nn.Conv2d)
        module.out_channels, module.in_channels = int(keep[conv.makes].sum()), int(keep[conv.reads].sum())
        module.groups = module.in_channels if conv.depthwise else conv.groups
    for name, ids in graph.norms.items():
        modules[name].num_features = int(keep[ids].sum())
    for name in {*graph.convs, *graph.norms}:
        module = modules[name]
        for part in ("weight", "bias"):
            if (tensor := tensors.get(f"{name}.{part}")) is not None:
                module.register_parameter(part, nn.Parameter(tensor))
        for part in ("running_mean", "running_var"):
            if (tensor := tensors.get(f"{name}.{part}")) is not None:
                module.register_buffer(part, tensor)
    return thin


def _last_steps(graph: ChannelGraph) -> dict[str, Step]:
    return {step.name: step for step in graph.steps}


def dropped_at_zero(net: nn.Module, graph: ChannelGraph, keep: Mask) -> Imposed:
    """Reference (a): what convolutions, BatchNorms and activations put out for dropped channels is multiplied by 0."""
    masks = {
        name: torch.from_numpy(keep[step.ids].astype(float))
        for name, step in _last_steps(graph).items()
        if step.op in ("conv", "norm", "pointwise") and step.ids is not None
    }
    return Imposed(net, masks)


@torch.no_grad()
def statistics_of_the_thin(net: nn.Module, graph: ChannelGraph, keep: Mask, images: Tensor) -> None:
    """Take `net`'s BatchNorm statistics, in place, from a pass in which dropped channels count as 0.

    With the fat network's own, half of a pruned network's rectifiers would be shut, and a mutant behind them unseen.
    """
    run = dropped_at_zero(net, graph, keep)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    run(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def gammas_at_zero(net: nn.Module, graph: ChannelGraph, keep: Mask) -> Imposed:
    """Reference (b): gammas of dropped channels at 0, and their constants continue past the border.

    What no constant can be folded for counts as 0: what a gate puts out for a dropped channel, and a dropped channel
    that a convolution reads before any BatchNorm.
    """
    fat = copy.deepcopy(net)
    modules = dict(fat.named_modules())
    for name, ids in graph.norms.items():
        modules[name].weight[torch.from_numpy(~keep[ids])] = 0
    masks = {}
    for name, step in _last_steps(graph).items():
        if step.op == "gate" and graph.steps[step.reads[0]].origin != graph.steps[step.reads[1]].origin:
            masks[name] = torch.from_numpy(keep[step.ids].astype(float))
    run = Imposed(fat, masks)
    for name, conv in graph.convs.items():
        if not keep[conv.reads].all():
            modules[name].register_forward_pre_hook(_continued(modules[name], torch.from_numpy(~keep[conv.reads])))
    return run


def _continued(conv: nn.Conv2d, dropped: Tensor) -> Callable:
    vertical, horizontal = (int(padding) for padding in conv.padding)
    conv.padding = (0, 0)

    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        x = inputs[0].clone()
        varies = (x.amax((0, 2, 3)) - x.amin((0, 2, 3)) > 1e-9) & dropped
        x[:, varies] = 0
        padded = F.pad(x, (horizontal, horizontal, vertical, vertical))
        padded[:, dropped] = x[:, dropped, :1, :1]
        return (padded,)

    return hook


@torch.no_grad()
def distance(one: Any, two: Any, images: Tensor) -> float:
    """Largest difference of the heads, relative to each head's max|out|."""
    pairs = zip(one(images), two(images), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
