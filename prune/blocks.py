"""Shortcut blocks: which residual branches a `[shortcut]` adds, how much each matters, and the cfg without some."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from common.errors import UserError
from models.cfg import Section
from models.dropping import rebuilt, renumbered, without_sections
from models.network import Network


@dataclass(frozen=True)
class Block:
    """One shortcut block.

    Attributes:
        layer: Darknet number of the `[shortcut]`.
        branch: numbers of the layers that only the branch needs; they go with it.
        score: mean |gamma| of the last BatchNorm in the branch; None where there is none.
        obstacle: why it cannot be removed; empty if it can.
        norm: number of the convolution that has that BatchNorm.
    """

    layer: int
    branch: tuple[int, ...] = ()
    score: float | None = None
    obstacle: str = ""
    norm: int | None = None


def find_blocks(net: Network) -> list[Block]:
    """All `[shortcut]` sections in order, each with its branch and score, or with what keeps it from being removed."""
    cfg, number = net.cfg, net.cfg.index()
    readers = cfg.readers()
    return [_block(net, section, number, readers) for section in cfg.layers if section.facts.joins == "add"]


def _block(net: Network, section: Section, number: dict[Section, int], readers: dict[Section, list[Section]]) -> Block:
    layer = number[section]
    if len(section.inputs) != 2:
        return Block(layer, obstacle=f"sums {len(section.inputs)} layers: none of them is *the* branch")
    if (act := section.str("activation", "linear")) != "linear":
        return Block(layer, obstacle=f"has activation={act}: without the branch it would still bend the other input")
    ends = residual_ends(section, number)
    if ends is None:
        return Block(layer, obstacle="adds two maps of which neither is computed from the other")
    branch, skip = ends
    widths = [net.output_channels(number[end]) for end in ends]
    if skip is net.cfg.net or widths[0] != widths[1]:
        return Block(layer, obstacle=f"adds {widths[0]} channels to {widths[1]}")
    last = _last_norm(net, branch, skip, number)
    if last is None:
        return Block(layer, obstacle="its branch ends in no single BatchNorm to score it by")
    gone = _only_for(branch, section, skip, readers, number)
    gamma = net.convolutions[last].bn
    assert gamma is not None
    score = float(gamma.weight.detach().abs().mean())
    return Block(layer, tuple(sorted(number[item] for item in gone)), score, norm=last)


def residual_ends(section: Section, number: dict[Section, int]) -> tuple[Section, Section] | None:
    """(end of the branch, what it is added to), or None: every path back from the branch has to meet the other."""
    first, second = section.inputs
    for branch, skip in ((first, second), (second, first)):
        if branch is not skip and _all_paths_meet(branch, skip, number):
            return branch, skip
    return None


def _all_paths_meet(branch: Section, skip: Section, number: dict[Section, int]) -> bool:
    open_, seen = [branch], {skip}
    while open_:
        section = open_.pop()
        if section in seen:
            continue
        if number[section] < number[skip]:
            return False
        seen.add(section)
        open_.extend(section.inputs)
    return True


def _last_norm(net: Network, branch: Section, skip: Section, number: dict[Section, int]) -> int | None:
    """The convolution whose BatchNorm the branch ends in."""
    section, convolutions = branch, net.convolutions
    while section is not skip:
        if (layer := convolutions.get(number[section])) is not None:
            return number[section] if layer.bn is not None else None
        if section.facts.joins == "gate":
            section = section.inputs[1]  # the map that is scaled, not its gate
        elif len(section.inputs) == 1:
            section = section.inputs[0]
        else:
            return None
    return None


def _only_for(
    branch: Section, shortcut: Section, skip: Section, readers: dict[Section, list[Section]], number: dict[Section, int]
) -> set[Section]:
    """The shortcut and the layers of the branch that nobody else reads."""
    gone = {shortcut}
    open_ = [branch]
    while open_:
        section = open_.pop()
        if section is skip or section in gone or number[section] <= number[skip]:
            continue
        if all(reader in gone for reader in readers[section]):
            gone.add(section)
            open_.extend(section.inputs)
    return gone


def choose_blocks(net: Network, remove: int, protected: Collection[int] = ()) -> tuple[list[Block], list[Block]]:
    """The `remove` lowest blocks, and all blocks.

    Args:
        protected: layers that have to stay, and with them the blocks they belong to.

    Raises:
        UserError: fewer can be removed.
    """
    every = [
        replace(block, obstacle="holds an excluded layer")
        if not block.obstacle and not set(protected).isdisjoint(block.branch)
        else block
        for block in find_blocks(net)
    ]
    able = sorted((block for block in every if not block.obstacle), key=lambda block: (block.score, block.layer))
    if not 0 <= remove <= len(able):
        why = "; ".join(f"layer {block.layer} {block.obstacle}" for block in every if block.obstacle)
        raise UserError(
            f"{remove} shortcut blocks are to be removed, but {len(able)} of {len(every)} can be"
            + (f" ({why})" if why else ""),
            where=net.cfg.source,
            todo=f"ask for 0 to {len(able)}",
        )
    return able[:remove], every


@torch.no_grad()
def cut_blocks(net: Network, blocks: list[Block]) -> tuple[Network, dict[int, int]]:
    """A new network without the blocks (and without a lineage), and new layer -> old; `net` is not touched.

    Only layers with tensors are among the numbers.
    """
    number = net.cfg.index()
    twins: dict[Section, Section] = {}
    cfg = net.cfg.copy(twins)
    instead: dict[Section, Section] = {}
    gone: set[Section] = set()
    for block in blocks:
        section = net.cfg.layers[block.layer]
        ends = residual_ends(section, number)
        assert ends is not None
        instead[twins[section]] = twins[ends[1]]
        gone |= {twins[net.cfg.layers[layer]] for layer in block.branch}
    old_number = {twins[section]: layer for section, layer in number.items()}
    without_sections(cfg, gone, instead)
    cfg.legalise()
    new_number = cfg.index()
    moved = {new_number[section]: old_number[section] for section in cfg.layers if section in old_number}
    filled = {new: old for new, old in moved.items() if any(True for _ in net.layers[old].parameters())}
    return rebuilt(net, cfg, renumbered(net, moved)), filled
