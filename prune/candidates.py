"""All networks that one set of options can cut out of a network, from scores that are taken once, on the uncut network.

A candidate is a number of shortcut blocks, the lowest first, and a cut through the ranking of channels. Blocks and
channels compete for one budget by one threshold: a block goes once the cut has passed its score, the mean |gamma| of
the last BatchNorm in its branch, which is the mean of the very scores of the channels it adds. Other criteria are
scaled to mean 1 a layer; the blocks' scores then are scaled to the mean of the channels'.

How many blocks that is, is found on the uncut graph with the blocks' layers struck out: no network is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from common.errors import UserError
from models.lineage import conv_key, descend, moved_key
from models.network import Network
from prune.blocks import Block, choose_blocks, cut_blocks, find_blocks
from prune.cost import Cost
from prune.fold import Leftovers, leftovers
from prune.identities import ChannelGraph, Ids, Mask
from prune.importance import Losses, score
from prune.options import ChannelOptions, held_layers, parse_budget
from prune.report import PruneReport
from prune.select import Ranking, Scores, Selection, Selector, ranked
from prune.surgery import layer_number, thin_network
from prune.tracing import trace

Auto = Literal["auto"]


@dataclass
class PruneResult:
    """The thin network and what was done. The network handed in is left as it was."""

    network: Network
    report: PruneReport


@dataclass
class Variant:
    """The network without some shortcut blocks.

    Attributes:
        network, graph: the network (the uncut one itself if no block went) and its identities.
        moved: layer -> its number in the uncut network, at least where it has convolutions.
        blocks: those removed.
        cost: shares are of the uncut network.
        selector: None if no channels are to go.
    """

    network: Network
    graph: ChannelGraph
    moved: dict[int, int]
    blocks: list[Block]
    cost: Cost
    selector: Selector | None


class Candidates:
    """See the module.

    Args:
        net: the uncut network.
        options: how channels are chosen; None: only blocks go.
        shortcuts: how many blocks go, or "auto": blocks compete with channels.
        scores: the channels' scores, where they are already known; else the criterion's are computed.
        losses: the criterion "taylor" only.

    Raises:
        UserError: an unknown pattern, more blocks than can go, "auto" without options.
    """

    def __init__(
        self,
        net: Network,
        options: ChannelOptions | None,
        shortcuts: int | Auto = 0,
        scores: Scores | None = None,
        losses: Losses | None = None,
    ):
        if options is None and shortcuts == "auto":
            raise UserError(
                "shortcuts='auto' lets blocks and channels compete for one budget, and there is none",
                todo="give budget=..., or the number of blocks to remove",
            )
        if isinstance(shortcuts, str) and shortcuts != "auto":
            raise UserError(f"shortcuts={shortcuts!r} is neither a number of blocks nor 'auto'")
        self.net, self.options, self.shortcuts = net, options, shortcuts
        self.asked: dict[str, Any] = dict(vars(options)) if options else {}  # as the report tells it
        self.size = (options.size if options else None) or net.image_size
        self.graph = trace(net)
        self.fold = options.fold if options else False
        self.whole = Cost(net, self.graph, self.size, self.fold)
        self.held = held_layers(self.graph, options.include, options.exclude) if options else set()
        self.ranking = Ranking(np.zeros(0), {})
        if options is not None:
            limited = fixed_too(self.graph, self.held)
            if scores is not None:
                self.asked["criterion"] = "given scores"
            else:
                scores = score(options.criterion, net, self.graph, losses=losses, seed=options.seed)
            self.ranking = ranked(limited, scores)
        self._find_blocks()
        self._variants: dict[int, Variant] = {}
        self._estimates: dict[int, tuple[Selector, Cost]] = {}

    def _find_blocks(self) -> None:
        protected = {layer_number(name) for name in self.held}
        self.order: list[Block] = []
        if self.shortcuts == 0:  # nothing to choose: a network without a single one is as good
            self.blocks = find_blocks(self.net)
        elif self.shortcuts == "auto":
            every = find_blocks(self.net)
            able = sum(not block.obstacle and protected.isdisjoint(block.branch) for block in every)
            self.order, self.blocks = choose_blocks(self.net, able, protected)
        else:
            self.order, self.blocks = choose_blocks(self.net, int(self.shortcuts), protected)
        own = np.array([block.score for block in self.order], float)
        if self.options is not None and self.options.criterion != "gamma" and len(own) and own.mean() > 0:
            own = own / own.mean() * (self.ranking.values.mean() if len(self.ranking.values) else 1.0)
        # A block goes when all scores up to its own have gone: among equals the channels go first.
        self.block_cuts = np.maximum(np.searchsorted(self.ranking.values, own, side="right"), 1)

    # -- blocks ----------------------------------------------------------------------------------------------------

    def removed_at(self, cut: int) -> int:
        """How many blocks a cut takes along."""
        return int((self.block_cuts <= cut).sum()) if self.shortcuts == "auto" else int(self.shortcuts)

    @property
    def fewest(self) -> int:
        return 0 if self.shortcuts == "auto" else int(self.shortcuts)

    def variant(self, count: int) -> Variant:
        """The network without the `count` lowest blocks."""
        if count not in self._variants:
            self._variants[count] = self._cut(count)
        return self._variants[count]

    def _cut(self, count: int) -> Variant:
        if count == 0 and self.options is not None:
            numbers = {number: number for number in range(len(self.net.layers))}
            return Variant(
                self.net, self.graph, numbers, [], self.whole, self._selector(self.graph, self.held, self.ranking)
            )
        network, moved = cut_blocks(self.net, self.order[:count])
        graph = trace(network)
        cost = Cost(network, graph, self.size, self.fold)
        cost.whole = self.whole.whole
        selector = None
        if self.options is not None:
            old = {name: uncut_name(name, moved) for name in [*graph.convs, *graph.norms]}
            held = {name for name in graph.convs if old[name] in self.held}
            selector = self._selector(graph, held, self.ranking.renamed(old))
        return Variant(network, graph, moved, self.order[:count], cost, selector)

    def _selector(self, graph: ChannelGraph, held: set[str], ranking: Ranking) -> Selector:
        assert self.options is not None
        return Selector(
            fixed_too(graph, held), ranking, self.options.layer_keep, self.options.round_to, self.options.strategy
        )

    # -- estimates without building --------------------------------------------------------------------------------

    def estimate(self, cut: int, what: str) -> float:
        """The kept share at a cut, on the uncut graph."""
        selector, cost = self._struck_out(self.removed_at(cut))
        return cost.share(selector.settle(cut).keep, what)

    def _struck_out(self, count: int) -> tuple[Selector, Cost]:
        if count not in self._estimates:
            layers = {layer for block in self.order[:count] for layer in block.branch}
            gone = {name for name in [*self.graph.convs, *self.graph.norms] if layer_number(name) in layers}
            graph = replace(
                self.graph,
                convs={name: conv for name, conv in self.graph.convs.items() if name not in gone},
                norms={name: ids for name, ids in self.graph.norms.items() if name not in gone},
                constraints=[item for item in self.graph.constraints if item.name not in gone],
            )
            left = self.ranking.renamed({name: name for name in self.ranking.positions if name not in gone})
            self._estimates[count] = (self._selector(graph, self.held - gone, left), self.whole.without(gone))
        return self._estimates[count]

    @property
    def cuts(self) -> Ids:
        """Every cut that makes a difference, the lightest first."""
        cuts = self._struck_out(self.fewest)[0].cuts
        return np.union1d(cuts, self.block_cuts) if self.shortcuts == "auto" else cuts

    # -- choices ---------------------------------------------------------------------------------------------------

    def choose(self) -> tuple[Variant, Selection]:
        """What `options` ask for; a latency budget is not chosen here, for that takes building candidates.

        Raises:
            UserError: a budget that cannot be reached.
        """
        options = self.options
        if options is None:
            variant = self.variant(self.fewest)
            return variant, Selection(np.ones(len(variant.graph.root), bool))
        if options.budget is not None:
            return self.at_budget(*_budget(options.budget))
        if self.shortcuts == "auto":
            selector = self._struck_out(0)[0]
            variant = self.variant(self.removed_at(self._asked(selector)))
            return variant, self._settled(variant, self._asked(selector))
        variant = self.variant(self.fewest)
        assert variant.selector is not None
        return variant, variant.selector.settle(self._asked(variant.selector))

    def _asked(self, selector: Selector) -> int:
        assert self.options is not None
        if self.options.ratio is not None:
            return selector.cut_at_ratio(self.options.ratio)
        assert self.options.threshold is not None
        return selector.cut_at_threshold(self.options.threshold)

    def at_cut(self, cut: int) -> tuple[Variant, Selection]:
        """The candidate at a cut, the blocks it takes along included."""
        variant = self.variant(self.removed_at(cut))
        return variant, self._settled(variant, cut)

    @staticmethod
    def _settled(variant: Variant, cut: int) -> Selection:
        assert variant.selector is not None
        return variant.selector.settle(cut)

    def at_budget(self, what: str, share: float) -> tuple[Variant, Selection]:
        """The lightest cut within the kept share of channels, params or flops.

        Raises:
            UserError: it cannot be reached; naming what binds.
        """
        variant = self.variant(self._blocks_for(what, share))
        assert variant.selector is not None
        cut = variant.selector.cut_at_budget(share, partial(variant.cost.share, what=what), what)
        return variant, variant.selector.settle(cut)

    def _blocks_for(self, what: str, share: float) -> int:
        """The blocks that the lightest joint cut within the share takes along."""
        if self.shortcuts != "auto":
            return int(self.shortcuts)
        cuts = self.cuts
        low, high = -1, len(cuts) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.estimate(int(cuts[middle]), what) <= share:
                high = middle
            else:
                low = middle
        return self.removed_at(int(cuts[high]))

    # -- the network -----------------------------------------------------------------------------------------------

    def network(self, variant: Variant, keep: Mask) -> tuple[Network, Leftovers]:
        """The thin network, without a lineage, and what was folded."""
        if self.options is None:
            return variant.network, Leftovers()
        left = leftovers(variant.network, variant.graph, keep) if self.fold else Leftovers()
        return thin_network(variant.network, variant.graph, keep, left), left

    def build(self, variant: Variant, selection: Selection, kind: str = "sparse") -> PruneResult:
        """The thin network with its lineage, and the report.

        Args:
            kind: what the uncut network is called as an ancestor.
        """
        keep, cost = selection.keep, variant.cost
        network, left = self.network(variant, keep)
        report = PruneReport({**self.asked, "shortcuts": self.shortcuts}, size=self.size)
        before, every = self.whole, np.ones(len(self.graph.root), bool)
        report.channels = (before.channels(every), cost.channels(keep))
        report.params = (before.parameters(every), cost.parameters(keep, left.added))
        report.macs = (before.macs(every), cost.macs(keep))
        rows = {conv_key(name): np.flatnonzero(keep[conv.makes]).tolist() for name, conv in variant.graph.convs.items()}
        step = {key: (moved_key(key, variant.moved), kept) for key, kept in rows.items()}
        survivors = {old: len(kept) for old, kept in step.values()}
        # Convolutions inside a backbone that is one layer have no number of their own; `report.held` names them.
        report.layers = {
            number: (conv.out_channels, survivors.get(number, 0)) for number, conv in self.net.convolutions.items()
        }
        report.folded = len(left.added)
        report.unfolded = {uncut_name(name, variant.moved): count for name, count in left.unfolded.items()}
        report.unfolded_why = {uncut_name(name, variant.moved): why for name, why in left.reasons.items()}
        if variant.selector is not None:
            held = variant.selector.held(selection)
            report.note_held({uncut_name(name, variant.moved): row for name, row in held.items()})
        _note_blocks(report, variant.blocks, self.blocks)
        # One step from the uncut network: the one without blocks that lay in between is nobody's ancestor.
        network.lineage = descend(self.net, kind, step)
        network.lineage[-1]["cut"] = report.cut()
        return PruneResult(network, report)


def fixed_too(graph: ChannelGraph, layers: Iterable[str]) -> ChannelGraph:
    """A graph in which what these convolutions make is fixed too."""
    return graph.fixing(graph.convs[name].makes for name in layers)


def uncut_name(name: str, moved: dict[int, int]) -> str:
    """The name a module had before blocks were removed."""
    number = layer_number(name)
    return name.replace(f"layers.{number}.", f"layers.{moved.get(number, number)}.", 1)


def _budget(text: str) -> tuple[str, float]:
    what, share = parse_budget(text)
    if what == "latency":
        raise UserError(
            f"budget={text!r}: a latency has to be measured, and nothing to measure it with is given",
            todo="pass cost=..., a function from a network to its latency",
        )
    return what, share


def _note_blocks(report: PruneReport, chosen: list[Block], blocks: list[Block]) -> None:
    gone = {block.layer for block in chosen}
    report.removed_blocks = {block.layer: block.score for block in chosen if block.score is not None}
    report.kept_blocks = {
        block.layer: block.obstacle or block.score or 0.0 for block in blocks if block.layer not in gone
    }
