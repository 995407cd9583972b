"""Detection heads a data set has no use for: which, and the network without them and all that only they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import UserError
from data.anchors import overlap
from models.cfg import Cfg, Section
from models.heads import HeadSpec
from models.heads.anchored import head_anchors, head_mask
from models.lineage import compose, renumbering
from models.network import Network
from prune.surgery import rebuilt, renumbered, without_sections

LEAST_SHARE = 0.01
"""A head with a smaller share of the boxes is idle."""


def head_shares(boxes: NDArray[np.float64], specs: Sequence[HeadSpec]) -> NDArray[np.float64]:
    """Per head the share of the boxes that one of its anchors fits best, by IoU laid centre on centre.

    A box whose best anchor several heads have (their masks overlap) counts for each of them in equal parts.

    Args:
        boxes: ``(n, 2)`` widths and heights in pixels of the network input; without any, every head gets 1.
        specs: the heads.

    Returns:
        ``(heads,)``, their sum is 1 where there are boxes.

    Raises:
        UserError: these heads have no anchors.
    """
    if not all(spec.anchors for spec in specs):
        raise UserError(
            "which head a box is for is told by their anchors, and these heads have none",
            todo="name the heads to drop by their strides: --drop-heads 8",
        )
    if not len(boxes):
        return np.ones(len(specs))
    best = np.stack([overlap(boxes, np.array(spec.anchors, float)).max(axis=1) for spec in specs], axis=1)
    owners = best == best.max(axis=1, keepdims=True)  # (n, heads)
    return (owners / owners.sum(axis=1, keepdims=True)).sum(axis=0) / len(boxes)


def idle_heads(
    boxes: NDArray[np.float64], specs: Sequence[HeadSpec], least: float = LEAST_SHARE
) -> tuple[list[int], NDArray[np.float64]]:
    """The heads whose scale holds less than the share `least` of the boxes, by place; and every head's share.

    The head with the most boxes is never among them.
    """
    shares = head_shares(boxes, specs)
    return [place for place, share in enumerate(shares) if share < least and place != shares.argmax()], shares


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
