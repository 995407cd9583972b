"""Which channels go: a ranking, a cut through it, and what ties, cardinalities, floors and rounding hold back.

All work is on *groups* of tied identities. The order is fixed: the cut lets groups go; then floors, equal slices and
rounding bring the best of the dropped ones back until nothing is violated. Channels are only ever brought back, so
this ends; keeping everything violates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from prune.identities import ChannelGraph, Ids, Mask

Scores = dict[str, NDArray[np.float64]]


@dataclass
class Selection:
    """What stays, and what held the rest back.

    Attributes:
        keep: ``(N,)`` per identity.
        floored, equalised, rounded: channels of convolutions brought back by the floor per layer, by a cardinality
            constraint, by rounding.
        carried, tied: channels whose own score let them go, but which a carrying layer (depthwise) or a member of
            their tied group held.
        floors: the layers at their floor.
    """

    keep: Mask
    floored: int = 0
    equalised: int = 0
    rounded: int = 0
    carried: int = 0
    tied: int = 0
    floors: list[str] = field(default_factory=list)


class Selector:
    """The *union* strategy: a tied group goes only if every member lets it go, carriers included.

    Args:
        graph: the identities; fixed ones never go.
        scores: norm -> ``(C,)`` score of each of its channels; a low score goes first.
        layer_keep: floor per convolution: a share of its channels (float) or a count (int); at least one stays.
        round_to: survivors of every convolution are a multiple of it, rounded up, or all of them.
    """

    def __init__(self, graph: ChannelGraph, scores: Scores, layer_keep: float = 0.01, round_to: int = 1):
        self.graph, self.round_to = graph, round_to
        self.layers = [(name, graph.root[conv.makes]) for name, conv in graph.convs.items()]
        self.offsets = np.cumsum([0] + [len(roots) for _, roots in self.layers[:-1]])
        self.all_roots = np.concatenate([roots for _, roots in self.layers])
        self.floors = np.array([_floor(layer_keep, len(roots)) for _, roots in self.layers])
        self.slices = [(item.name, [graph.root[part] for part in item.slices]) for item in graph.constraints]
        self.grouped = {name for name, _ in self.slices} & set(graph.convs)
        self._rank(scores)

    def _rank(self, scores: Scores) -> None:
        """Order the participating scores; equal ones spread evenly over the layers instead of emptying the first."""
        graph = self.graph
        names = [name for name in scores if graph.prunable(graph.norms[name]).any()]
        masks = [graph.prunable(graph.norms[name]) for name in names]
        ids = [graph.norms[name][mask] for name, mask in zip(names, masks)]
        values = [scores[name][mask] for name, mask in zip(names, masks)]
        # Multiples of the golden ratio: any first part of the order is spread evenly over layers and over slices.
        places = [np.arange(1, len(v) + 1) * 0.6180339887 % 1 for v in values]
        count = len(graph.root)
        self.rank_of_identity = np.full(count, -1)  # the highest rank among the norms that scale the identity
        self.rank_of_group = np.full(count, -1)
        self.values = np.sort(np.concatenate(values)) if values else np.zeros(0)
        self.own_rank: dict[str, Ids] = {}
        self.own_ids: dict[str, Ids] = {}
        if not values:
            return
        order = np.lexsort((np.concatenate(places), np.concatenate(values)))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        every = np.concatenate(ids)
        np.maximum.at(self.rank_of_identity, every, rank)
        np.maximum.at(self.rank_of_group, graph.root[every], rank)
        self.own_rank = dict(zip(names, np.split(rank, np.cumsum([len(v) for v in values])[:-1])))
        self.own_ids = dict(zip(names, ids))

    @property
    def candidates(self) -> Ids:
        """Groups that may go, the first to go first."""
        groups = np.flatnonzero(self.rank_of_group >= 0)
        return groups[np.argsort(self.rank_of_group[groups])]

    def cut_at_ratio(self, ratio: float) -> int:
        """The cut below which the given share of the participating scores lies."""
        return round(ratio * len(self.values))

    def cut_at_threshold(self, threshold: float) -> int:
        """The cut below which lie the scores that do not exceed the threshold."""
        return int(np.searchsorted(self.values, threshold, side="right"))

    def cut_at_budget(self, kept_share: float, cost: Callable[[Mask], float], what: str) -> int:
        """The smallest cut whose cost, after everything that holds channels back, is within the share.

        Args:
            cost: keep mask over identities -> cost as a share of the whole network's.

        Raises:
            UserError: not even the largest cut is cheap enough.
        """
        groups = self.candidates
        cuts = np.concatenate([[0], self.rank_of_group[groups] + 1])
        low, high = -1, len(cuts) - 1
        least = self.settle(int(cuts[high]))
        if (reached := cost(least.keep)) > kept_share:
            raise UserError(f"{what}={kept_share:g} cannot be reached: the most that may go leaves {reached:.4f}",
                            todo=_binding(least, self.round_to))
        while high - low > 1:
            middle = (low + high) // 2
            if cost(self.settle(int(cuts[middle])).keep) <= kept_share:
                high = middle
            else:
                low = middle
        return int(cuts[high])

    # -- a cut becomes a keep mask ------------------------------------------------------------------------------------

    def settle(self, cut: int) -> Selection:
        """Drop what ranks below the cut, then bring back what floors, equal slices and rounding ask for."""
        graph = self.graph
        gone = (self.rank_of_group >= 0) & (self.rank_of_group < cut)
        keep = ~gone[graph.root]
        result = Selection(keep)
        self._count_ties(cut, keep, result)
        group = ~gone  # (N,), meaningful at the groups' own numbers
        while True:
            before = int(group.sum())
            floored = self._raise_to_floors(group, result)
            equalised = self._equalise(group)
            rounded = self._round(group)
            result.floored += floored
            result.equalised += equalised
            result.rounded += rounded
            if int(group.sum()) == before:
                break
        result.keep = group[graph.root]
        return result

    def survivors(self, group: Mask) -> Ids:
        """Per convolution, the number of its channels that stay."""
        return np.add.reduceat(group[self.all_roots].astype(np.int64), self.offsets)

    def _channels(self, group: Mask) -> int:
        return int(group[self.all_roots].sum())

    def _raise_to_floors(self, group: Mask, result: Selection) -> int:
        before = self._channels(group)
        for layer in np.flatnonzero(self.survivors(group) < self.floors):
            name, roots = self.layers[layer]
            self._bring_back(group, roots, int(self.floors[layer]))
            result.floors.append(name)
        return self._channels(group) - before

    def _equalise(self, group: Mask) -> int:
        before = self._channels(group)
        for name, parts in self.slices:
            counts = [int(group[part].sum()) for part in parts]
            wanted = max(counts)
            if self.round_to > 1:
                # Whoever reads one slice of a route reads that many channels; of a grouped convolution all slices.
                step = self.round_to // math.gcd(self.round_to, len(parts)) if name in self.grouped else self.round_to
                wanted = min(-(-wanted // step) * step, len(parts[0]))
            for part, count in zip(parts, counts):
                if count < wanted:
                    self._bring_back(group, part, wanted)
        return self._channels(group) - before

    def _round(self, group: Mask) -> int:
        if self.round_to == 1:
            return 0
        before = self._channels(group)
        counts = self.survivors(group)
        widths = np.diff(np.append(self.offsets, len(self.all_roots)))
        wanted = np.minimum(-(-counts // self.round_to) * self.round_to, widths)
        for layer in np.flatnonzero(counts < wanted):
            self._bring_back(group, self.layers[layer][1], int(wanted[layer]))
        return self._channels(group) - before

    def _bring_back(self, group: Mask, roots: Ids, wanted: int) -> None:
        """Restore the best of the dropped groups until `wanted` channels of the layer stay."""
        gone = np.unique(roots[~group[roots]])
        gone = gone[np.argsort(-self.rank_of_group[gone], kind="stable")]
        copies = np.array([int((roots == g).sum()) for g in gone]) if len(gone) < len(roots[~group[roots]]) else \
            np.ones(len(gone), np.int64)
        missing = wanted - int(group[roots].sum())
        if missing > 0:
            enough = int(np.searchsorted(np.cumsum(copies), missing)) + 1
            group[gone[:enough]] = True

    def _count_ties(self, cut: int, keep: Mask, result: Selection) -> None:
        norms = {conv.norm for conv in self.graph.convs.values()}
        for name, rank in self.own_rank.items():
            if name not in norms:  # scales no convolution's output of its own
                continue
            ids = self.own_ids[name]
            wants = (rank < cut) & keep[ids]
            by_carrier = wants & (self.rank_of_identity[ids] >= cut)
            result.carried += int(by_carrier.sum())
            result.tied += int((wants & ~by_carrier).sum())


def _floor(layer_keep: float, width: int) -> int:
    wanted = layer_keep if isinstance(layer_keep, int) else math.ceil(layer_keep * width - 1e-9)
    return max(1, min(width, int(wanted)))


def _binding(least: Selection, round_to: int) -> str:
    held = {"the floor per layer (lower layer_keep)": least.floored, "rounding (lower round_to)": least.rounded,
            "equal slices": least.equalised, "ties": least.tied}
    worst = max(held, key=lambda key: held[key])
    if not held[worst]:
        return "what is left is fixed: head outputs and what passes a reshape; ask for a larger share"
    layers = f", first at {', '.join(least.floors[:3])}" if least.floors and "floor" in worst else ""
    return f"{held[worst]} channels are held by {worst}{layers}; or ask for a larger share"
