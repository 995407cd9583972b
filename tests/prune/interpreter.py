"""What a thin network has to put out, computed section by section on the fat one; no code of `prune` is used.

Which channels of a map are dropped is followed here a second time, from the cfg alone; where two maps are joined that
do not agree about it, this fails. So a tie that the identity graph overlooks does not pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models import Network
from models.layers import Conv


@dataclass
class Flow:
    """A layer's output.

    Attributes:
        value: ``(B, C, H, W)``.
        gone: ``(C,)`` the dropped channels.
        wild: ``(C,)`` those of them that are not constant although their gammas are 0.
    """

    value: Tensor
    gone: Tensor
    wild: Tensor


@torch.no_grad()
def expected(
    net: Network, dropped: Mapping[int, Tensor], images: Tensor, fold: bool, without: Collection[int] = ()
) -> list[Tensor]:
    """The heads that the thin network has to give.

    With `fold` False dropped channels are multiplied by 0 after every activation. With `fold` True their gammas are 0,
    their betas stay, and they go on past the border of padded convolutions; those that are not constant all the same
    (behind a gate, or without BatchNorm) are read as 0.

    Args:
        dropped: convolution's layer -> ``(C_out,)`` bool.
        without: `[shortcut]` layers that put out what they reference, without the layer before.
    """
    number = net.cfg.index()
    nothing = torch.zeros(net.in_channels, dtype=torch.bool)
    flows: dict[int, Flow] = {-1: Flow(images, nothing, nothing)}
    heads = []
    for place, (section, layer) in enumerate(zip(net.cfg.layers, net.layers)):
        flow = [flows[number[source]] for source in section.inputs]
        first = flow[0]
        if isinstance(layer, Conv):
            out = _conv(layer, first, dropped[place], fold)
        elif section.kind == "shortcut":
            out = flow[1] if place in without else _shortcut(layer, flow)
        elif section.kind == "route":
            out = _route(section.int("groups", 1), section.int("group_id", 0), flow)
        elif section.kind in ("scale_channels", "sam"):
            out = _gate(layer, *flow)
        elif section.kind == "attention":
            out = _attention(section.int("heads"), section.float("scale"), *flow)
        elif section.kind in ("yolo", "region", "detect", "reorg"):
            assert not any(source.gone.any() for source in flow)
            out = Flow(
                layer(*(source.value for source in flow)),
                torch.zeros(layer.out_channels, dtype=torch.bool),
                torch.zeros(layer.out_channels, dtype=torch.bool),
            )
        else:
            out = Flow(layer(first.value), first.gone, first.wild)
        if not fold and out.gone.any():
            out.value[:, out.gone] = 0
        if section.kind in ("yolo", "region", "detect"):
            heads.append(out.value)
        flows[place] = out
    return heads


def _conv(layer: Conv, source: Flow, own: Tensor, fold: bool) -> Flow:
    conv, x = layer.conv, source.value
    depthwise = conv.groups == conv.in_channels > 1
    if depthwise:
        assert torch.equal(own, source.gone.repeat_interleave(conv.out_channels // conv.in_channels)), (
            "a depthwise convolution does not follow what it reads"
        )
    if fold and source.gone.any():
        x = x.clone()
        x[:, source.wild] = 0
    y = _endless(layer, x, source.gone) if fold else conv(x)
    # What a convolution makes of pictures is not constant; only a depthwise one may read a constant alone.
    wild = source.wild.repeat_interleave(conv.out_channels // conv.in_channels) if depthwise else own
    if layer.bn is not None:
        y = layer.bn(y)
        if fold:
            y[:, own] = layer.bn.bias[own][:, None, None]
            wild = torch.zeros_like(own)
    return Flow(y if layer.logits_only else layer.act(y), own, wild)


def _endless(layer: Conv, x: Tensor, gone: Tensor) -> Tensor:
    """The convolution on a map whose dropped channels go on past the border."""
    conv, pad = layer.conv, layer.padding
    padded = F.pad(x, (pad, pad, pad, pad))
    if gone.any():
        constant = x[:, gone]
        assert torch.equal(constant, constant[:1, :, :1, :1].expand_as(constant)), "a dropped channel is not constant"
        padded[:, gone] = constant[:, :, :1, :1]
    return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _agree(one: Tensor, two: Tensor) -> None:
    assert torch.equal(one, two), "channels are joined of which one is dropped and the other is not"


def _shortcut(layer: torch.nn.Module, flow: list[Flow]) -> Flow:
    total = flow[0]
    value, wild = total.value.clone(), total.wild.clone()
    for other in flow[1:]:
        common = min(value.shape[1], other.value.shape[1])
        _agree(total.gone[:common], other.gone[:common])
        value[:, :common] += other.value[:, :common]
        wild[:common] |= other.wild[:common]
    return Flow(layer.act(value), total.gone, wild)


def _route(groups: int, part: int, flow: list[Flow]) -> Flow:
    def cut(tensor: Tensor, dim: int) -> Tensor:
        return tensor.chunk(groups, dim)[part]

    for source in flow:
        assert len({int(piece.sum()) for piece in source.gone.chunk(groups)}) == 1, "slices of unequal width"
    return Flow(
        torch.cat([cut(source.value, 1) for source in flow], 1),
        torch.cat([cut(source.gone, 0) for source in flow]),
        torch.cat([cut(source.wild, 0) for source in flow]),
    )


def _gate(layer: torch.nn.Module, gate: Flow, scaled: Flow) -> Flow:
    if len(gate.gone) == len(scaled.gone):
        _agree(gate.gone, scaled.gone)
    else:
        assert not gate.gone.any()
    silent = ((scaled.value == 0) & ~scaled.wild[:, None, None]).all(0).flatten(1).all(1)
    return Flow(layer.act(scaled.value * gate.value), scaled.gone, scaled.gone & ~silent)


def _attention(heads: int, scale: float, queries: Flow, keys: Flow, values: Flow) -> Flow:
    """Head by head and by loops; a dropped channel that is constant stays in queries and keys."""
    _agree(queries.gone, keys.gone)
    slices = [flow.gone.chunk(heads) for flow in (queries, values)]
    assert all(len({int(piece.sum()) for piece in pieces}) == 1 for pieces in slices), "heads of unequal width"
    q, k = ((flow.value * ~(queries.wild | keys.wild)[:, None, None]).chunk(heads, 1) for flow in (queries, keys))
    parts = []
    for query, key, value in zip(q, k, values.value.chunk(heads, 1)):
        share = torch.einsum("bcyx,bcvu->byxvu", query, key).mul(scale).flatten(3).softmax(-1)
        parts.append(torch.einsum("byxn,bcn->bcyx", share, value.flatten(2)))
    out, constant = torch.cat(parts, 1), values.gone & ~values.wild
    assert torch.allclose(out[:, constant], values.value[:, constant])
    out[:, constant] = values.value[:, constant]  # but for rounding
    return Flow(out, values.gone, values.wild)
