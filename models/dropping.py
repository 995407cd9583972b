"""A network without some of its sections: without heads and all that only they read."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from common.errors import UserError
from common.log import log
from models.cfg import Cfg, Section
from models.heads import ONE_TO_MANY, ONE_TO_ONE, spec_read
from models.heads.anchored import head_anchors, head_mask
from models.lineage import compose, renumbering
from models.network import Network


@torch.no_grad()
def drop_heads(net: Network, places: Iterable[int]) -> Network:
    """A new network without the heads at `places` (in `net.specs`) and without what only they read.

    The other heads' outputs are the same bits. Anchors that belonged to the dropped heads leave the lists the heads
    share. The lineage is `net`'s own, seen from the new layer numbers; `net` is not touched.

    Raises:
        UserError: there is no such head, or none would be left.
    """
    chosen, count = sorted(set(places)), len(net.specs)
    if any(not 0 <= place < count for place in chosen) or len(chosen) >= count:
        raise UserError(
            f"heads {chosen} cannot be dropped: the network has {count}, and one has to stay",
            where=net.cfg.source,
            todo=f"name fewer of 0..{count - 1}",
        )
    twins: dict[Section, Section] = {}
    cfg = net.cfg.copy(twins)
    old_number = {twins[section]: number for section, number in net.cfg.index().items()}
    cut_heads(cfg, {cfg.heads[place] for place in chosen})
    moved = {new: old_number[section] for section, new in cfg.index().items() if old_number.get(section, -1) >= 0}
    result = rebuilt(net, cfg, renumbered(net, moved))
    result.lineage = compose(net.lineage, renumbering(net, moved))
    result.load_report = net.load_report
    return result


def cut_heads(cfg: Cfg, heads: set[Section]) -> None:
    """Remove head sections and every section that only they read, in place; the cfg stays legal Darknet."""
    readers = cfg.readers()
    gone = set(heads)
    open_ = [source for head in heads for source in head.inputs]
    while open_:
        section = open_.pop()
        if section is not cfg.net and section not in gone and all(reader in gone for reader in readers[section]):
            gone.add(section)
            open_.extend(section.inputs)
    without_sections(cfg, gone, {})
    cfg.legalise()
    _shrink_anchors(cfg)


def _shrink_anchors(cfg: Cfg) -> None:
    """Where all heads write down one list of anchors, each with its own mask: leave out those nobody masks."""
    heads = [head for head in cfg.heads if "mask" in head.options]
    lists = [head_anchors(head) for head in heads]
    if not heads or len(heads) < len(cfg.heads) or any(other != lists[0] for other in lists):
        return
    used = sorted({number for head in heads for number in head_mask(head)})
    if len(used) == len(lists[0]):
        return
    for head in heads:
        head.set("mask", [used.index(number) for number in head_mask(head)])
        head.set("anchors", [value for number in used for value in lists[0][number]])
        head.set("num", len(used))


def rebuilt(net: Network, cfg: Cfg, tensors: dict[str, Tensor]) -> Network:
    """The network of `cfg` with the given tensors; names, meta and mode as `net` has them, without a lineage."""
    with torch.device("meta"):  # no time is spent on weights that are replaced at once
        thin = Network(cfg, net.names)
    thin.load_state_dict(tensors, assign=True)
    thin.meta = copy.deepcopy(net.meta)
    return thin.train(net.training)


def renumbered(net: Network, moved: Mapping[int, int]) -> dict[str, Tensor]:
    """Copies of the tensors of `net` for a cfg without some of its sections: new layer -> old."""
    state = net.state_dict()
    return {
        f"layers.{new}.{name.split('.', 2)[2]}": tensor.clone()
        for new, old in moved.items()
        for name, tensor in state.items()
        if name.startswith(f"layers.{old}.")
    }


def without_sections(cfg: Cfg, gone: set[Section], instead: dict[Section, Section]) -> None:
    """Remove sections from a cfg in place; whoever read one reads `instead` of it (followed until it stays)."""
    for section in cfg.layers:
        section.inputs = [_follow(source, instead) for source in section.inputs]
    cfg.layers = [section for section in cfg.layers if section not in gone]


def _follow(section: Section, instead: dict[Section, Section]) -> Section:
    while section in instead:
        section = instead[section]
    return section


def only_heads(net: Network, kind: str = "auto") -> Network:
    """The network with heads of one kind alone, and without all that only the others read.

    Where a network has both kinds, half of its heads are dead weight once it only detects.

    Args:
        kind: "one-to-many" or "one-to-one"; "auto" is what `Network.decode` reads: the first where there are both.

    Returns:
        A new network; `net` itself where there is nothing to leave out.

    Raises:
        UserError: it has no heads of this kind.
    """
    wanted = spec_read(net.specs).one_to_one if kind == "auto" else kind == ONE_TO_ONE
    others = [place for place, spec in enumerate(net.specs) if spec.one_to_one != wanted]
    if len(others) == len(net.specs):
        has = ONE_TO_MANY if wanted else ONE_TO_ONE
        raise UserError(f"has no {kind} heads, only {has} ones", where=net.cfg.source, todo=f"ask for {has}")
    if not others:
        return net
    if kind == "auto":
        log.info(
            "%s: detects with its %s heads; its %s ones, which need no NMS, are left out (--heads %s asks for them)",
            net.cfg.source,
            ONE_TO_MANY,
            ONE_TO_ONE,
            ONE_TO_ONE,
        )
    return drop_heads(net, others)
