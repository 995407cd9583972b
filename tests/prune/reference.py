"""The fat network that a thin one claims to equal, made without any of the surgery's code.

Reference (a), nothing folded: the fat network with its dropped post-activation outputs multiplied by 0.
Reference (b), folded: the fat network with the dropped gammas at 0 and their betas kept. Padded convolutions there see
the constant of a dropped channel continue past the border, which is what folding assumes; away from the border, and
for 1x1 readers, that changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import Network
from models.keys import conv_key
from prune.identities import ChannelGraph, Ids, Mask

TOLERANCE = 1e-8


def keep_mask(graph: ChannelGraph, thin: Network) -> Mask:
    """The keep mask over identities, read off the thin network's lineage."""
    keep = np.ones(len(graph.root), bool)
    rows = thin.lineage[-1]["layers"]
    for name, conv in graph.convs.items():
        dropped = np.ones(len(conv.makes), bool)
        dropped[rows[str(conv_key(name))]["kept"]] = False
        keep[conv.makes[dropped]] = False
    return keep


@torch.no_grad()
def wither(net: nn.Module, graph: ChannelGraph, share: float, seed: int = 0) -> None:
    """Make all gammas of a random share of the tied groups small, so that ties and carriers agree to let them go."""
    random = np.random.default_rng(seed)
    weak = (random.random(len(graph.root)) < share)[graph.root]
    modules = dict(net.named_modules())
    for name, ids in graph.norms.items():
        modules[name].weight[torch.from_numpy(weak[ids])] *= 0.01


def multiplied_by_zero(net: Network, thin: Network) -> Network:
    """Reference (a)."""
    fat = copy.deepcopy(net)
    for row in thin.lineage[-1]["layers"].values():
        mask = torch.zeros(net.output_channels(row["layer"]), dtype=torch.float64)
        mask[row["kept"]] = 1
        fat.layers[row["layer"]].register_forward_hook(_times(mask))
    return fat


@torch.no_grad()
def gammas_at_zero(net: Network, graph: ChannelGraph, keep: Mask, endless: bool = True) -> Network:
    """Reference (b); with `endless` False the border is as in the fat network.

    What a gate puts out for a dropped channel is no constant, so nothing of it is folded: it is multiplied by 0.
    """
    fat = copy.deepcopy(net)
    modules = dict(fat.named_modules())
    for name, ids in graph.norms.items():
        modules[name].weight[torch.from_numpy(~keep[ids])] = 0
    gates = [step for step in graph.steps if step.op == "gate"]
    layers = [layer for section, layer in zip(fat.cfg.layers, fat.layers) if section.kind in ("scale_channels", "sam")]
    for step, layer in zip(gates, layers, strict=True):
        layer.register_forward_hook(_times(torch.from_numpy(keep[step.ids].astype(float))))
    for name, conv in graph.convs.items():
        if endless and any(modules[name].padding):
            modules[name].register_forward_pre_hook(_continued(modules[name], torch.from_numpy(~keep[conv.reads])))
    return fat


def _times(mask: Tensor) -> Callable:
    return lambda module, inputs, out: out * mask[:, None, None]


def _continued(conv: nn.Conv2d, dropped: Tensor) -> Callable:
    vertical, horizontal = (int(padding) for padding in conv.padding)
    conv.padding = (0, 0)

    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        x = inputs[0]
        constant = x[:, dropped]
        assert float(constant.amax((2, 3)).sub(constant.amin((2, 3))).abs().max() if dropped.any() else 0) < 1e-9
        padded = F.pad(x, (horizontal, horizontal, vertical, vertical))
        padded[:, dropped] = constant[:, :, :1, :1]
        return (padded,)

    return hook


@torch.no_grad()
def distance(one: Network, two: Network, images: Tensor) -> float:
    """Largest difference of the heads, relative to each head's max|out|."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one(images), two(images), strict=True))


def mutants(graph: ChannelGraph, keep: Mask) -> Iterator[tuple[str, ChannelGraph]]:
    """The graph with one kept index of one tensor shifted to a dropped channel: rows, columns, BatchNorm in turn."""
    for name, conv in graph.convs.items():
        if (ids := _shifted(conv.makes, keep)) is not None:
            yield f"rows of {name}", replace(graph, convs={**graph.convs, name: replace(conv, makes=ids)})
        if not conv.depthwise and (ids := _shifted(conv.reads, keep, conv.groups)) is not None:
            yield f"columns of {name}", replace(graph, convs={**graph.convs, name: replace(conv, reads=ids)})
    for name, norm in graph.norms.items():
        if (ids := _shifted(norm, keep)) is not None:
            yield f"channels of {name}", replace(graph, norms={**graph.norms, name: ids})


def _shifted(ids: Ids, keep: Mask, groups: int = 1) -> Ids | None:
    """One kept identity changes places with a dropped neighbour (of the same group)."""
    kept = keep[ids]
    width = len(ids) // groups
    for place in range(len(ids) - 1):
        if kept[place] != kept[place + 1] and place // width == (place + 1) // width:
            swapped = ids.copy()
            swapped[place], swapped[place + 1] = ids[place + 1], ids[place]
            return swapped
    return None
