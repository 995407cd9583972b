"""Which channels go: a ranking, a cut through it, and what ties, cardinalities, floors and rounding hold back.

All work is on *groups* of tied identities. The order is fixed: the cut lets groups go; then floors, equal slices and
rounding bring the best of the dropped ones back until nothing is violated. Channels are only ever brought back, so
this ends; keeping everything violates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from prune.identities import ChannelGraph, Conv, Ids, Mask, said_by_count
from prune.plan import STRATEGIES, CutPlan

Scores = dict[str, NDArray[np.float64]]

# Why a channel whose group was let go stays after all.
_FLOOR, _SLICES, _ROUNDING = 1, 2, 3


@dataclass(frozen=True)
class Ranking:
    """One order over all scores. Made on the uncut network, it stays valid when shortcut blocks are cut.

    Attributes:
        values: ``(M,)`` the participating scores, ascending.
        positions: module -> ``(C,)`` where each of its channels stands in `values`; -1: fixed. No two are equal.
    """

    values: NDArray[np.float64]
    positions: dict[str, Ids]

    def renamed(self, old_names: Mapping[str, str]) -> Ranking:
        """The same order for a network whose modules have other names, or of which some are gone: new -> old name."""
        return Ranking(
            self.values, {new: self.positions[old] for new, old in old_names.items() if old in self.positions}
        )


def ranked(graph: ChannelGraph, scores: Scores) -> Ranking:
    """Order the participating scores; equal ones spread evenly over the layers instead of emptying the first.

    Args:
        scores: module (a BatchNorm or a convolution) -> ``(C,)`` score of each of its channels; low goes first.
    """
    ids = {name: scored_ids(graph, name) for name in scores}
    free = {name: graph.prunable(found) for name, found in ids.items()}
    positions = {name: np.full(len(found), -1) for name, found in ids.items()}
    names = [name for name in scores if free[name].any()]
    if not names:
        return Ranking(np.zeros(0), positions)
    values = [np.asarray(scores[name], np.float64)[free[name]] for name in names]
    # Multiples of the golden ratio: any first part of the order is spread evenly over layers and over slices.
    places = [np.arange(1, len(v) + 1) * 0.6180339887 % 1 for v in values]
    every = np.concatenate(values)
    order = np.lexsort((np.concatenate(places), every))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    for name, part in zip(names, np.split(rank, np.cumsum([len(v) for v in values])[:-1])):
        positions[name][free[name]] = part
    return Ranking(every[order], positions)


def scored_ids(graph: ChannelGraph, name: str) -> Ids:
    """The identities whose channels a score of module `name` is about."""
    return graph.norms[name] if name in graph.norms else graph.convs[name].makes


@dataclass
class LayerHeld:
    """What became of the channels of one convolution.

    Attributes:
        before, after: its channels, and those that stay.
        fixed: channels that may never go (head outputs, what passes a reshape, excluded layers).
        fixed_by: why -> how many of these.
        asked: channels whose own score let them go.
        tied, carried: of those asked, how many a member of the tied group, or a layer that carries the channel, held.
        overruled: channels whose own score would have kept them, but the layer that decides for the tie let them go.
        floored, equalised, rounded: channels brought back by the floor, by equal slices, by rounding up; here, or in
            another layer of the tie.
        equalised_by: what asked for equal slices -> how many of these.
    """

    before: int
    after: int
    fixed: int = 0
    asked: int = 0
    tied: int = 0
    carried: int = 0
    overruled: int = 0
    floored: int = 0
    equalised: int = 0
    rounded: int = 0
    fixed_by: dict[str, int] = field(default_factory=dict)
    equalised_by: dict[str, int] = field(default_factory=dict)


@dataclass
class Selection:
    """What stays, and what held the rest back.

    Attributes:
        keep: ``(N,)`` per identity.
        cut: the position in the ranking below which groups were let go.
        reason: ``(N,)`` at the groups' own numbers: what brought a group back that was let go; 0: nothing.
        floored, equalised, rounded: channels of convolutions brought back by the floor per layer, by a cardinality
            constraint, by rounding.
        floors: the layers at their floor.
    """

    keep: Mask
    cut: int = 0
    reason: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    floored: int = 0
    equalised: int = 0
    rounded: int = 0
    floors: list[str] = field(default_factory=list)


class Selector:
    """Turns a cut through the ranking into a keep mask.

    The strategy says which scores decide about a group of tied identities:

    - *union*: it goes only if every member lets it go, the layers that carry it included;
    - *shared*: the first layer in the order of execution decides for all;
    - *conservative*: channels that an add ties stay; what is only carried (depthwise, gates) follows its producer.

    A member without a score (a convolution without BatchNorm, by the gamma criterion) has no say.

    Args:
        graph: the identities; fixed ones never go.
        scores: the scores, or the ranking already made of them.
        layer_keep: floor per convolution: a share of its channels (float) or a count (int); at least one stays.
        round_to: survivors of every convolution are a multiple of it, rounded up, or all of them.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        scores: Scores | Ranking,
        layer_keep: float = CutPlan.layer_keep,
        round_to: int = CutPlan.round_to,
        strategy: str = CutPlan.strategy,
    ):
        assert strategy in STRATEGIES, strategy
        self.graph, self.layer_keep, self.round_to, self.strategy = graph, layer_keep, round_to, strategy
        self.ranking = scores if isinstance(scores, Ranking) else ranked(graph, scores)
        self.layers = [(name, graph.root[conv.makes]) for name, conv in graph.convs.items()]
        self.offsets = np.cumsum([0] + [len(roots) for _, roots in self.layers[:-1]])
        self.all_roots = np.concatenate([roots for _, roots in self.layers])
        self.widths = np.array([len(roots) for _, roots in self.layers])
        self.floors = np.array([_floor(layer_keep, len(roots)) for _, roots in self.layers])
        self.slices = [(item.name, [graph.root[part] for part in item.slices]) for item in graph.constraints]
        self.grouped = {name for name, _ in self.slices} & set(graph.convs)
        self._decide()

    def _decide(self) -> None:
        """The position at which each group, and each identity by its own scores alone, lets go; -1: never."""
        graph = self.graph
        names = in_order(graph, self.ranking.positions)
        ids = [scored_ids(graph, name) for name in names] or [np.zeros(0, np.int64)]
        rank = [self.ranking.positions[name] for name in names] or [np.zeros(0, np.int64)]
        every, position = np.concatenate(ids), np.concatenate(rank)
        voter = np.repeat(np.arange(len(ids)), [len(part) for part in ids])
        able = (position >= 0) & graph.prunable(every)
        every, position, voter = every[able], position[able], voter[able]
        count = len(graph.root)
        self.rank_of_identity = np.full(count, -1)  # the highest among the layers that scale the identity
        np.maximum.at(self.rank_of_identity, every, position)
        self.rank_of_group = np.full(count, -1)
        self.decides = np.ones(len(every), bool)
        if self.strategy != "union":
            first = np.full(count, len(ids))
            np.minimum.at(first, graph.root[every], voter)
            self.decides = first[graph.root[every]] == voter
        if self.strategy == "conservative":
            self.decides &= ~summed_groups(graph)[graph.root[every]]
        np.maximum.at(self.rank_of_group, graph.root[every[self.decides]], position[self.decides])
        self.participating = np.sort(position[self.decides])

    @property
    def candidates(self) -> Ids:
        """Groups that may go, the first to go first."""
        groups = np.flatnonzero(self.rank_of_group >= 0)
        return groups[np.argsort(self.rank_of_group[groups])]

    @property
    def cuts(self) -> Ids:
        """Every cut that lets different groups go, from none to all."""
        return np.concatenate([[0], self.rank_of_group[self.candidates] + 1])

    def cut_at_ratio(self, ratio: float) -> int:
        """The cut below which the given share of the deciding scores lies."""
        count = round(ratio * len(self.participating))
        return int(self.participating[count - 1]) + 1 if count else 0

    def cut_at_threshold(self, threshold: float) -> int:
        """The cut below which lie the scores that do not exceed the threshold."""
        return int(np.searchsorted(self.ranking.values, threshold, side="right"))

    def cut_at_budget(self, kept_share: float, cost: Callable[[Mask], float], what: str) -> int:
        """The smallest cut whose cost, after everything that holds channels back, is within the share.

        The next smaller cut, one group less, is above it.

        Args:
            cost: keep mask over identities -> cost as a share of the whole network's.

        Raises:
            UserError: not even the largest cut is cheap enough; it names what binds.
        """
        cuts = self.cuts
        low, high = -1, len(cuts) - 1
        if (reached := cost(self.settle(int(cuts[high])).keep)) > kept_share:
            raise UserError(
                f"{what}={kept_share:g} cannot be reached: the most that may go leaves {reached:.4f}",
                todo=self._binding(cost, reached, kept_share),
            )
        while high - low > 1:
            middle = (low + high) // 2
            if cost(self.settle(int(cuts[middle])).keep) <= kept_share:
                high = middle
            else:
                low = middle
        return int(cuts[high])

    def least(self) -> Selection:
        """Everything goes that may."""
        return self.settle(int(self.cuts[-1]))

    def _binding(self, cost: Callable[[Mask], float], reached: float, asked: float) -> str:
        """Which limit holds the most, found by lifting each in turn; and what else holds where that is not enough."""

        def without(layer_keep: float, round_to: int, strategy: str) -> float:
            return cost(Selector(self.graph, self.ranking, layer_keep, round_to, strategy).least().keep)

        least = self.least()
        places = f", first at {', '.join(least.floors[:3])}" if least.floors else ""
        lifted = {
            f"the floor per layer layer_keep={self.layer_keep:g}{places}": without(0, self.round_to, self.strategy),
            f"rounding to round_to={self.round_to}": without(self.layer_keep, 1, self.strategy),
            f"strategy={self.strategy}, which keeps the channels an add ties": without(
                self.layer_keep, self.round_to, "union" if self.strategy == "conservative" else self.strategy
            ),
        }
        name = min(lifted, key=lambda key: lifted[key])
        best = lifted[name]
        fixed = said_by_count(self.graph.fixed_by(np.concatenate([conv.makes for conv in self.graph.convs.values()])))
        rest = (
            f"what is left is one channel a layer and what is fixed ({fixed or 'nothing'}); ask for a larger "
            "share, or remove shortcut blocks too"
        )
        if best >= reached - 1e-9:
            return rest
        if best > asked:
            return f"it is held by {name}, and without that {best:.4f} could be reached, which is not enough: {rest}"
        return f"it is held by {name}: without that {best:.4f} could be reached; or ask for a larger share"

    # -- a cut becomes a keep mask ------------------------------------------------------------------------------------

    def let_go(self, cut: int) -> Mask:
        """``(N,)`` at the groups' own numbers: what the cut lets go, before anything is brought back."""
        return (self.rank_of_group >= 0) & (self.rank_of_group < cut)

    def settle(self, cut: int) -> Selection:
        """Drop what ranks below the cut, then bring back what floors, equal slices and rounding ask for."""
        group = ~self.let_go(cut)  # (N,), meaningful at the groups' own numbers
        reason = np.zeros(len(group), np.int8)
        floors: list[str] = []
        while True:
            start = group.copy()
            for why, bring_back in (
                (_FLOOR, self._raise_to_floors),
                (_SLICES, self._equalise),
                (_ROUNDING, self._round),
            ):
                before = group.copy()
                floors += bring_back(group)
                reason[group & ~before] = why
            if np.array_equal(group, start):
                break
        _, floored, equalised, rounded = np.bincount(reason[self.all_roots], minlength=4).tolist()
        return Selection(group[self.graph.root], cut, reason, floored, equalised, rounded, sorted(set(floors)))

    def held(self, selection: Selection) -> dict[str, LayerHeld]:
        """Convolution -> what became of its channels."""
        graph, cut, gone = self.graph, selection.cut, self.let_go(selection.cut)
        summed = summed_groups(graph)
        found = {}
        for name, conv in graph.convs.items():
            roots = graph.root[conv.makes]
            row = LayerHeld(len(roots), int(selection.keep[conv.makes].sum()), int(graph.fixed[conv.makes].sum()))
            _, row.floored, row.equalised, row.rounded = np.bincount(selection.reason[roots], minlength=4).tolist()
            row.fixed_by = graph.fixed_by(conv.makes)
            row.equalised_by = graph.sliced_by(roots[selection.reason[roots] == _SLICES])
            if (position := self._own_position(conv)) is not None:
                asked = (position >= 0) & (position < cut)
                held = asked & ~gone[roots]
                by_carrier = held & ~summed[roots]
                if self.strategy == "union":
                    by_carrier |= held & (self.rank_of_identity[conv.makes] >= cut)
                row.asked, row.carried = int(asked.sum()), int(by_carrier.sum())
                row.tied = int(held.sum()) - row.carried
                row.overruled = int(((position >= cut) & gone[roots] & ~selection.keep[conv.makes]).sum())
            found[name] = row
        return found

    def _own_position(self, conv: Conv) -> Ids | None:
        positions = self.ranking.positions
        return positions.get(conv.norm or conv.name, positions.get(conv.name))

    def survivors(self, group: Mask) -> Ids:
        """Per convolution, the number of its channels that stay."""
        return np.add.reduceat(group[self.all_roots].astype(np.int64), self.offsets)

    def _raise_to_floors(self, group: Mask) -> list[str]:
        """Returns the layers that were below their floor."""
        below = np.flatnonzero(self.survivors(group) < self.floors)
        for layer in below:
            self._bring_back(group, self.layers[layer][1], int(self.floors[layer]))
        return [self.layers[layer][0] for layer in below]

    def _equalise(self, group: Mask) -> tuple[()]:
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
        return ()

    def _round(self, group: Mask) -> tuple[()]:
        if self.round_to == 1:
            return ()
        counts = self.survivors(group)
        wanted = np.minimum(-(-counts // self.round_to) * self.round_to, self.widths)
        for layer in np.flatnonzero(counts < wanted):
            self._bring_back(group, self.layers[layer][1], int(wanted[layer]))
        return ()

    def _bring_back(self, group: Mask, roots: Ids, wanted: int) -> None:
        """Restore the best of the dropped groups until `wanted` channels of the layer stay."""
        gone = np.unique(roots[~group[roots]])
        gone = gone[np.argsort(-self.rank_of_group[gone], kind="stable")]
        copies = (
            np.array([int((roots == g).sum()) for g in gone])
            if len(gone) < len(roots[~group[roots]])
            else np.ones(len(gone), np.int64)
        )
        missing = wanted - int(group[roots].sum())
        if missing > 0:
            enough = int(np.searchsorted(np.cumsum(copies), missing)) + 1
            group[gone[:enough]] = True


def in_order(graph: ChannelGraph, names: Iterable[str]) -> list[str]:
    """Modules in the order in which the network calls them first."""
    place: dict[str | None, int] = {}
    for number, step in enumerate(graph.steps):
        place.setdefault(step.module, number)
    return sorted(names, key=lambda name: place.get(name, len(graph.steps)))


def summed_groups(graph: ChannelGraph) -> Mask:
    """``(N,)`` at the groups' own numbers: is it tied by an add, or by a layer that is called twice?

    Other groups of several identities are tied by a gate only, which carries its producer's channels.
    """
    found = np.zeros(len(graph.root), bool)
    seen: dict[str, Ids] = {}
    for step in graph.steps:
        ids = [ids for source in step.reads if (ids := graph.steps[source].ids) is not None]
        if step.op == "add" and len(ids) == 2:
            a, b = ids
        elif step.op in ("conv", "norm") and step.module and ids:
            a, b = seen.setdefault(step.module, ids[0]), ids[0]
        else:
            continue
        common = min(len(a), len(b))  # where channels differ only the leading ones are added
        a, b = a[:common], b[:common]
        found[graph.root[a[(a != b) & (graph.root[a] == graph.root[b])]]] = True
    return found


def _floor(layer_keep: float, width: int) -> int:
    wanted = layer_keep if isinstance(layer_keep, int) else math.ceil(layer_keep * width - 1e-9)
    return max(1, min(width, int(wanted)))
