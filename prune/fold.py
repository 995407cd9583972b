"""What dropped channels leave behind, moved into their readers.

A channel whose gamma is 0 is not silent: it still puts out the constant act(beta). The constants are followed through
activations, pools, upsampling, adds and concats to the convolutions that read them; what they add to a convolution's
output goes into its BatchNorm's running mean or its bias. That is exact wherever the kernel does not reach over the
border: everywhere for 1x1 readers, in the interior for padded ones (`prune.border_error` measures the rest).

What a gate (squeeze and excitation, sam, a product) makes of a constant depends on the picture, and what comes out of
a convolution without BatchNorm is no constant: both are lost, and noted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prune.identities import ChannelGraph, Mask, Step


@dataclass
class Leftovers:
    """What dropped channels add to their readers.

    Attributes:
        added: convolution -> ``(C_out,)`` float64, what its output misses once the dropped channels are gone.
        unfolded: convolution -> number of dropped channels it read that were not constant; nothing is added for them.
        reasons: the same convolutions -> why they were not constant, as "a gate" or "no BatchNorm after layers.3.conv".
    """

    added: dict[str, Tensor] = field(default_factory=dict)
    unfolded: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def leftovers(net: nn.Module, graph: ChannelGraph, keep: Mask) -> Leftovers:
    """Follow the constants that the channels with ``keep[identity]`` False emit once their gammas are 0."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()  # a dropout in train mode is no function of the constant
    try:
        return _Flow(net, graph, keep).found
    finally:
        for module, mode in modes:
            module.training = mode


class _Flow:
    """The constants on their way through the steps.

    Attributes:
        constants: per step the constant of each dropped channel, 0 for the others, NaN where a dropped channel is not
            constant; None where no channels are known.
        found: the result.
    """

    def __init__(self, net: nn.Module, graph: ChannelGraph, keep: Mask):
        self.graph, self.keep = graph, keep
        self.modules = dict(net.named_modules())
        self.constants: list[Tensor | None] = []
        self.found = Leftovers()
        for step in graph.steps:
            self.constants.append(self.follow(step))

    def follow(self, step: Step) -> Tensor | None:
        """The constants of what a step puts out."""
        if step.ids is None:
            return None
        dropped = torch.from_numpy(~self.keep[step.ids])
        reads = [self.constants[source] for source in step.reads]
        if step.op == "conv":
            result = self.read(step, reads[0], len(dropped))
        elif step.op == "norm":
            result = self.normed(step, len(dropped))
        elif step.op == "mixed" or any(read is None for read in reads):
            result = torch.zeros(len(dropped), dtype=torch.float64)
        else:
            result = self.combined(step, [read for read in reads if read is not None])
        return torch.where(dropped, result, torch.zeros_like(result))

    def normed(self, step: Step, width: int) -> Tensor:
        """A BatchNorm whose gammas are 0 puts out its betas, whatever it reads."""
        module = self.modules[step.module or ""]
        result = module.bias.double().cpu() if isinstance(module.bias, Tensor) else torch.zeros(width).double()
        if isinstance(act := getattr(module, "act", None), nn.Module):  # timm's BatchNorm with its activation inside
            result = _elementwise(act, result)
        return result

    def combined(self, step: Step, reads: list[Tensor]) -> Tensor:
        first = reads[0]
        if step.op == "pass":
            return first
        if step.op == "pointwise":
            return _elementwise(step.apply, first)
        if step.op == "take":
            assert step.index is not None
            return first[torch.from_numpy(step.index)]
        if step.op == "cat":
            return torch.cat(reads)
        if step.op == "add":
            return self.sum(step, first, reads[1])
        assert step.op == "gate"
        if self.graph.steps[step.reads[0]].origin == self.graph.steps[step.reads[1]].origin:
            return first * reads[1]  # an activation written out, such as x * sigmoid(x)
        # A gate's value depends on the picture; only a channel that is 0 stays a constant behind it.
        wide = first if len(first) >= len(reads[1]) else reads[1]
        return torch.where(wide == 0, torch.zeros_like(wide), torch.full_like(wide, torch.nan))

    def sum(self, step: Step, first: Tensor, second: Tensor) -> Tensor:
        """Where widths differ, the leading channels are added, or (which ties nothing) one channel to all."""
        assert step.ids is not None
        width = len(step.ids)
        if len(first) != len(second) and 1 in (len(first), len(second)):
            roots = [self.graph.root[self.graph.steps[source].ids[0]] for source in step.reads]  # type: ignore[index]
            if roots[0] != roots[1]:
                return torch.full((width,), torch.nan, dtype=torch.float64)  # a live channel added to all
        total = first[:width].clone()
        common = min(width, len(second))
        total[:common] += second[:common]
        return total

    def read(self, step: Step, constant: Tensor | None, width: int) -> Tensor:
        """Notes what a convolution's output misses; returns what its own dropped channels put out."""
        assert step.module is not None
        conv, module = self.graph.convs[step.module], self.modules[step.module]
        assert isinstance(module, nn.Conv2d)
        # A BatchNorm overrides it; without one it is no constant.
        unknown = torch.full((width,), torch.nan, dtype=torch.float64)
        gone = torch.from_numpy(~self.keep[conv.reads])
        if constant is None or not gone.any():
            return unknown
        wild = torch.isnan(constant) & gone
        known = torch.where(wild, torch.zeros_like(constant), constant)
        if conv.depthwise:  # what reads a dropped channel is dropped itself: nobody misses anything
            bias = module.bias.double().cpu() if module.bias is not None else 0.0
            return (
                _response(module, known)
                + bias
                + torch.where(wild, torch.nan, 0.0).repeat_interleave(width // len(gone))
            )
        if wild.any():
            self.found.unfolded[conv.name] = int(wild.sum())
            self.found.reasons[conv.name] = self.why(step)
        if known.any():
            self.note(conv.name, _response(module, known))
        return unknown

    def note(self, name: str, added: Tensor) -> None:
        before = self.found.added.get(name)
        if before is not None and not torch.allclose(before, added):
            # A module called in two places misses two different things, and has one bias.
            self.found.reasons[name] = "called twice, on different constants"
            self.found.unfolded[name] = int((added != before).sum())
            return
        self.found.added[name] = added

    def why(self, step: Step) -> str:
        """Where the channels that are not constant began to be so."""
        reasons: dict[str, None] = {}
        open_, seen = list(step.reads), set()
        while open_:
            number = open_.pop()
            constant = self.constants[number]
            if number in seen or constant is None or not constant.isnan().any():
                continue
            seen.add(number)
            here = self.graph.steps[number]
            if here.op == "conv" and not self.graph.convs[here.module or ""].depthwise:
                reasons[f"no BatchNorm after {here.module}"] = None
            elif here.op == "gate":
                reasons["a gate"] = None
            elif not any(
                read is not None and read.isnan().any() for read in (self.constants[source] for source in here.reads)
            ):
                reasons["one channel added to all"] = None
            else:
                open_ += here.reads
        return ", ".join(reasons)


def _elementwise(apply: Callable[..., Tensor] | None, constant: Tensor) -> Tensor:
    """The function of a constant map: on a copy, for activations may work in place."""
    assert apply is not None
    return apply(constant.clone()[None, :, None, None]).flatten()


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
