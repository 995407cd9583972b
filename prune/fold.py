"""What dropped channels leave behind, moved into their readers.

A channel whose gamma is 0 is not silent: it still puts out the constant act(beta). The constants are followed through
activations, pools, upsampling, adds and concats to the convolutions that read them; what they add to a convolution's
output goes into its BatchNorm's running mean or its bias. That is exact wherever the kernel does not reach over the
border: everywhere for 1x1 readers, in the interior for padded ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prune.identities import ChannelGraph, Mask, Step


@dataclass
class Leftovers:
    """What dropped channels add to their readers.

    Attributes:
        added: convolution -> ``(C_out,)`` float64, what its output misses once the dropped channels are gone.
        unfolded: convolution -> number of dropped channels it read that were not constant (they met a gate, or come
            from a convolution without BatchNorm); nothing is added for them.
    """

    added: dict[str, Tensor] = field(default_factory=dict)
    unfolded: dict[str, int] = field(default_factory=dict)


@torch.no_grad()
def leftovers(net: nn.Module, graph: ChannelGraph, keep: Mask) -> Leftovers:
    """Follow the constants that the channels with ``keep[identity]`` False emit once their gammas are 0."""
    modules = dict(net.named_modules())
    found = Leftovers()
    # Per step the constant of each dropped channel, 0 for the others, NaN where a dropped channel is not constant.
    constants: list[Tensor | None] = []
    for step in graph.steps:
        constants.append(_constants(step, graph, modules, keep, constants, found))
    return found


def _constants(step: Step, graph: ChannelGraph, modules: dict[str, nn.Module], keep: Mask,
               constants: list[Tensor | None], found: Leftovers) -> Tensor | None:
    if step.ids is None:
        return None
    dropped = torch.from_numpy(~keep[step.ids])
    reads = [constants[source] for source in step.reads]
    if step.op == "conv":
        return _read(step, graph, modules, keep, reads[0], found, dropped)
    if step.op == "norm":
        module = modules[step.module or ""]
        result = module.bias.double().cpu() if isinstance(module.bias, Tensor) else torch.zeros(len(dropped)).double()
        if isinstance(act := getattr(module, "act", None), nn.Module):  # timm's BatchNorm with its activation inside
            result = act(result.clone()[None, :, None, None]).flatten()
    elif step.op == "mixed" or any(read is None for read in reads):
        result = torch.zeros(len(dropped), dtype=torch.float64)
    else:
        result = _combine(step, [read for read in reads if read is not None], graph)
    return torch.where(dropped, result, torch.zeros_like(result))


def _combine(step: Step, reads: list[Tensor], graph: ChannelGraph) -> Tensor:
    first = reads[0]
    if step.op == "pass":
        return first
    if step.op == "pointwise":
        assert step.apply is not None
        return step.apply(first.clone()[None, :, None, None]).flatten()
    if step.op == "take":
        assert step.index is not None
        return first[torch.from_numpy(step.index)]
    if step.op == "cat":
        return torch.cat(reads)
    second = reads[1]
    if step.op == "add":
        return _sum(step, first, second)
    assert step.op == "gate"
    if graph.steps[step.reads[0]].origin == graph.steps[step.reads[1]].origin:
        return first * second  # an activation written out, such as x * sigmoid(x)
    # A gate's value depends on the picture; only a channel that is 0 stays a constant behind it.
    wide = first if len(first) >= len(second) else second
    return torch.where(wide == 0, torch.zeros_like(wide), torch.full_like(wide, torch.nan))


def _sum(step: Step, first: Tensor, second: Tensor) -> Tensor:
    assert step.ids is not None
    width = len(step.ids)
    if len(first) != len(second) and 1 in (len(first), len(second)):
        return torch.full((width,), torch.nan, dtype=torch.float64)  # a live channel broadcast over all
    total = first[:width].clone()
    common = min(width, len(second))
    total[:common] += second[:common]
    return total


def _read(step: Step, graph: ChannelGraph, modules: dict[str, nn.Module], keep: Mask, constant: Tensor | None,
          found: Leftovers, dropped: Tensor) -> Tensor:
    """Notes what the convolution's output misses; returns the constants of its own dropped channels."""
    assert step.module is not None
    conv, module = graph.convs[step.module], modules[step.module]
    assert isinstance(module, nn.Conv2d)
    # A norm overrides it; without one a dropped output is not constant, unless it reads only dropped constants.
    result = torch.full((len(dropped),), torch.nan, dtype=torch.float64)
    gone = torch.from_numpy(~keep[conv.reads])
    if constant is None or not gone.any():
        return torch.where(dropped, result, torch.zeros_like(result))
    wild = torch.isnan(constant) & gone
    if wild.any():
        found.unfolded[conv.name] = int(wild.sum())
    known = torch.where(wild, torch.zeros_like(constant), constant)
    added = _response(module, known)
    if conv.depthwise:
        bias = module.bias.double().cpu() if module.bias is not None else 0.0
        result = added + bias + torch.where(wild, torch.nan, 0.0).repeat_interleave(len(dropped) // len(gone))
    if known.any():
        found.added[conv.name] = found.added.get(conv.name, torch.zeros_like(added)) + added
    return torch.where(dropped, result, torch.zeros_like(result))


def _response(module: nn.Conv2d, constant: Tensor) -> Tensor:
    """``(C_out,)``: the convolution's output, without bias, for constant maps (C_in values), away from the border."""
    weight, groups = module.weight.detach(), module.groups
    if groups == 1:
        # One matrix-vector product in the weights' own format: a large network has 60 million of them.
        taps = constant.repeat_interleave(weight[0, 0].numel()).to(weight)
        return (weight.flatten(1) @ taps).double().cpu()
    total = weight.sum((2, 3), dtype=torch.float64).cpu()  # (C_out, C_in / groups)
    per_group = total.view(groups, -1, total.shape[1])
    return torch.einsum("goi,gi->go", per_group, constant.view(groups, -1)).flatten()
