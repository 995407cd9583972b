"""How far a thin network is from the fat one whose dropped gammas are 0: what folding cannot make exact, measured."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from models.keys import conv_key, layer_of, moved_key
from models.lineage import entry_of, known_as
from models.network import Network
from prune.blocks import cut_blocks, find_blocks
from prune.tracing import trace


@torch.no_grad()
def border_error(fat: Network, thin: Network, images: Tensor | None = None) -> list[float]:
    """Per head, max|thin - fat| / max|fat|, where `fat` has its dropped gammas at 0 and its betas kept.

    With folding it is the border alone (a padded convolution sees 0 beyond the border, folding assumes that the
    constant goes on), and what met a gate (`PruneReport.unfolded`); for a network cut with ``fold=False`` it is all
    that dropped channels left behind. Shortcut blocks that `thin` lacks are taken out of `fat` first.

    Args:
        fat: the network that `thin` was cut from, or an ancestor of it; neither is changed.
        images: ``(B, C, H, W)`` in 0..1; None: two pictures of noise in the size of `fat`'s cfg.

    Raises:
        UserError: `fat` is no ancestor of `thin`, or `thin` lacks layers that are no shortcut block.
    """
    reference = gammas_at_zero(fat, thin)
    first = next(fat.parameters())
    if images is None:
        random = torch.Generator().manual_seed(0)
        images = torch.rand(2, fat.in_channels, *fat.image_size, generator=random)
    images = images.to(first.device, first.dtype)
    modes = [(module, module.training) for module in thin.modules()]
    try:
        found = [head.to(first.device) for head in thin.eval()(images.to(next(thin.parameters()).device))]
    finally:
        for module, mode in modes:
            module.training = mode
    wanted = reference.eval()(images)
    return [float((one - two).abs().max() / two.abs().max()) for one, two in zip(found, wanted, strict=True)]


@torch.no_grad()
def gammas_at_zero(fat: Network, thin: Network) -> Network:
    """A copy of `fat` without the blocks that `thin` lacks, and with the gammas of the channels it lacks at 0.

    Raises:
        UserError: as `border_error`.
    """
    todo = "hand in the network that was pruned, as it was then"
    entry = entry_of(thin.lineage, known_as(thin.lineage, fat), whose="the thin one", todo=todo)
    kept = {str(row["layer"]): row["kept"] for row in entry["layers"].values()}
    layers = {str(key): layer_of(key) for key in fat.conv_modules}
    missing = {layer for key, layer in layers.items() if key not in kept}
    there = set(layers.values()) - missing
    # A block that merely holds a removed one has convolutions left.
    blocks = [
        block
        for block in find_blocks(fat)
        if not block.obstacle and missing.intersection(block.branch) and there.isdisjoint(block.branch)
    ]
    rest = sorted(missing.difference(*(block.branch for block in blocks)))
    if rest:
        raise UserError(
            f"the thin network lacks the convolutions of layers {rest}, which are no shortcut block",
            todo="compare with the network as it was after its heads were dropped",
        )
    if blocks:
        reference, moved = cut_blocks(fat, blocks)
    else:
        reference, moved = copy.deepcopy(fat), {number: number for number in range(len(fat.layers))}
    graph = trace(reference)
    keep = np.ones(len(graph.root), bool)
    for name, conv in graph.convs.items():
        gone = np.ones(len(conv.makes), bool)
        gone[kept[str(moved_key(conv_key(name), moved))]] = False
        keep[conv.makes[gone]] = False
    modules = dict(reference.named_modules())
    for name, ids in graph.norms.items():
        weight = modules[name].weight
        assert isinstance(weight, Tensor)
        weight[torch.from_numpy(~keep[ids]).to(weight.device)] = 0
    return reference
