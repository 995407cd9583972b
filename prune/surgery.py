"""From a fat network and a keep mask to the thin network: a new cfg, sliced tensors, the lineage."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from models.dropping import rebuilt
from models.keys import layer_of_module
from models.layers import Layer
from models.network import Network
from prune.fold import Leftovers
from prune.identities import ChannelGraph, Conv, Mask


def thin_network(net: Network, graph: ChannelGraph, keep: Mask, left: Leftovers | None = None) -> Network:
    """A new network without the dropped channels; `net` is not touched.

    Args:
        keep: ``(N,)`` per identity.
        left: what to fold into the readers; None folds nothing.

    Its lineage is still empty: only the caller knows which network the user handed in.
    """
    cfg = net.cfg.copy()
    tensors = sliced_tensors(net, graph, keep, left)
    own: list[dict[str, Tensor]] = [{} for _ in net.layers]
    for name, tensor in tensors.items():
        _, number, inside = name.split(".", 2)
        own[int(number)][inside] = tensor
    for section, layer, parts in zip(cfg.layers, net.layers, own):
        if parts:
            assert isinstance(layer, Layer)
            layer.set_width(section, parts)
    return rebuilt(net, cfg, tensors)


def layer_number(name: str) -> int:
    """The Darknet layer a module belongs to."""
    number = layer_of_module(name)
    assert number is not None, f"{name} is not part of a Darknet layer"
    return number


def modules_in(graph: ChannelGraph, layers: Collection[int]) -> set[str]:
    """The convolutions and BatchNorms of Darknet layers."""
    return {name for name in [*graph.convs, *graph.norms] if layer_number(name) in layers}


@torch.no_grad()
def sliced_tensors(net: nn.Module, graph: ChannelGraph, keep: Mask, left: Leftovers | None = None) -> dict[str, Tensor]:
    """The state of the thin network, by the fat network's names. All tensors are copies."""
    state = net.state_dict()
    done: dict[str, Tensor] = {}
    for name, conv in graph.convs.items():
        done[f"{name}.weight"] = _sliced_weight(state[f"{name}.weight"], conv, keep)
        if f"{name}.bias" in state:
            done[f"{name}.bias"] = _rows(state[f"{name}.bias"], keep[conv.makes])
    for name, ids in graph.norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            if f"{name}.{part}" in state:
                done[f"{name}.{part}"] = _rows(state[f"{name}.{part}"], keep[ids])
    if left is not None:
        for name, added in left.added.items():
            _fold(done, graph.convs[name], added[torch.from_numpy(keep[graph.convs[name].makes])])
    return {**{name: tensor.clone() for name, tensor in state.items() if name not in done}, **done}


def _rows(tensor: Tensor, mask: Mask) -> Tensor:
    return tensor[torch.from_numpy(np.flatnonzero(mask)).to(tensor.device)]


def _sliced_weight(weight: Tensor, conv: Conv, keep: Mask) -> Tensor:
    """``(C_out, C_in / groups, k, k)`` cut to the survivors; each group reads its own slice of the input."""
    out, into = keep[conv.makes], keep[conv.reads]
    if conv.depthwise:
        return _rows(weight, out)
    groups = conv.groups
    parts = [
        _block(part, rows, columns)
        for part, rows, columns in zip(weight.chunk(groups), np.split(out, groups), np.split(into, groups))
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _block(weight: Tensor, rows: Mask, columns: Mask) -> Tensor:
    """The kept rows, of them the kept columns: whole runs are copied, which indexing both at once does not."""
    for dimension, mask in enumerate((rows, columns)):
        if not mask.all():
            weight = weight.index_select(dimension, torch.from_numpy(np.flatnonzero(mask)).to(weight.device))
    return weight.clone() if rows.all() and columns.all() else weight


def _fold(done: dict[str, Tensor], conv: Conv, added: Tensor) -> None:
    """Give a convolution's readers back what its output lost: through the running mean, or its own bias."""
    if conv.norm is not None and f"{conv.name}.bias" not in done:
        mean = done.get(f"{conv.norm}.running_mean")
        if mean is None:  # normalised by the batch's own statistics: a constant falls out
            return
        done[f"{conv.norm}.running_mean"] = (mean.double() - added.to(mean.device)).to(mean.dtype)
        return
    weight = done[f"{conv.name}.weight"]
    bias = done.get(f"{conv.name}.bias", torch.zeros(len(weight), dtype=weight.dtype, device=weight.device))
    done[f"{conv.name}.bias"] = (bias.double() + added.to(bias.device)).to(bias.dtype)
