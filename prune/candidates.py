"""All networks that one plan can cut out of a network, from scores that are taken once, on the uncut network.

A candidate is a number of shortcut blocks, the lowest first, and a cut through the ranking of channels. Blocks and
channels compete for one budget by one threshold: a block goes once the cut has passed its score, the mean |gamma| of
the last BatchNorm in its branch, which is the mean of the very scores of the channels it adds. Other criteria are
scaled to mean 1 a layer; the blocks' scores then are scaled to the mean of the channels'.

How many blocks that is, is found on the uncut graph with the blocks' layers struck out: no network is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from common.errors import UserError
from models.keys import conv_key, module_name, moved_key
from models.lineage import descend
from models.network import Network
from prune.blocks import Block, choose_blocks, cut_blocks, find_blocks
from prune.cost import Cost
from prune.criteria import CRITERIA
from prune.fold import Leftovers, leftovers
from prune.identities import ChannelGraph, Ids, Mask
from prune.importance import Losses, score
from prune.layers import held_layers
from prune.plan import CutPlan
from prune.report import PruneReport
from prune.select import Ranking, Scores, Selection, Selector, ranked
from prune.sparsity import alive_among
from prune.surgery import layer_number, modules_in, thin_network
from prune.tracing import trace


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
        plan: what is asked for; without a depth for channels only blocks go.
        scores: the channels' scores, where they are already known; else the criterion's are computed.
        losses: for a criterion that needs them.

    Raises:
        UserError: an unknown pattern, more blocks than can go, "auto" where only blocks go, several rounds.
    """

    def __init__(self, net: Network, plan: CutPlan, scores: Scores | None = None, losses: Losses | None = None):
        if plan.shortcuts == "auto" and not plan.cuts_channels:
            raise UserError(
                "shortcuts='auto' lets blocks and channels compete for one budget, and there is none",
                todo="give budget=..., or the number of blocks to remove",
            )
        if plan.rounds > 1:
            raise UserError(
                f"rounds={plan.rounds}: this makes one cut",
                todo="cut by plan.round(1), train, then by plan.round(2, left=...) and so on",
            )
        self.net, self.plan = net, plan
        self.asked: dict[str, Any] = plan.asked  # as the report tells it
        # Blocks alone are counted at the network's own size.
        self.size = (plan.size if plan.cuts_channels else None) or net.image_size
        self.graph = trace(net)
        self.fold = plan.fold and plan.cuts_channels
        self.whole = Cost(net, self.graph, self.size, self.fold)
        self.held = held_layers(self.graph, plan.include, plan.exclude) if plan.cuts_channels else set()
        self.ranking = Ranking(np.zeros(0), {})
        if plan.cuts_channels:
            limited = fixed_too(self.graph, self.held)
            if scores is not None:
                self.asked["criterion"] = "given scores"
            else:
                scores = score(plan.criterion, net, self.graph, losses=losses, seed=plan.seed)
            self.ranking = ranked(limited, scores)
        self._find_blocks()
        self._variants: dict[int, Variant] = {}
        self._estimates: dict[int, tuple[Selector, Cost]] = {}

    def _find_blocks(self) -> None:
        protected = {layer_number(name) for name in self.held}
        self.order: list[Block] = []
        if self.plan.shortcuts == 0:  # nothing to choose: a network without a single one is as good
            self.blocks = find_blocks(self.net)
        elif self.plan.shortcuts == "auto":
            every = find_blocks(self.net)
            able = sum(not block.obstacle and protected.isdisjoint(block.branch) for block in every)
            self.order, self.blocks = choose_blocks(self.net, able, protected)
        else:
            self.order, self.blocks = choose_blocks(self.net, self.plan.shortcuts, protected)
        own = np.array([block.score for block in self.order], float)
        comparable = CRITERIA[self.plan.criterion].comparable or not self.plan.cuts_channels
        if not comparable and len(own) and own.mean() > 0:
            own = own / own.mean() * (self.ranking.values.mean() if len(self.ranking.values) else 1.0)
        # A block goes when all scores up to its own have gone: among equals the channels go first.
        self.block_cuts = np.maximum(np.searchsorted(self.ranking.values, own, side="right"), 1)

    # -- blocks ----------------------------------------------------------------------------------------------------

    def removed_at(self, cut: int) -> int:
        """How many blocks a cut takes along."""
        return int((self.block_cuts <= cut).sum()) if self.plan.shortcuts == "auto" else self.plan.shortcuts

    @property
    def fewest(self) -> int:
        return 0 if self.plan.shortcuts == "auto" else self.plan.shortcuts

    def variant(self, count: int) -> Variant:
        """The network without the `count` lowest blocks."""
        if count not in self._variants:
            self._variants[count] = self._cut(count)
        return self._variants[count]

    def _cut(self, count: int) -> Variant:
        if count == 0 and self.plan.cuts_channels:
            numbers = {number: number for number in range(len(self.net.layers))}
            return Variant(
                self.net, self.graph, numbers, [], self.whole, self._selector(self.graph, self.held, self.ranking)
            )
        network, moved = cut_blocks(self.net, self.order[:count])
        graph = trace(network)
        cost = Cost(network, graph, self.size, self.fold)
        cost.whole = self.whole.whole
        selector = None
        if self.plan.cuts_channels:
            old = {name: uncut_name(name, moved) for name in [*graph.convs, *graph.norms]}
            held = {name for name in graph.convs if old[name] in self.held}
            selector = self._selector(graph, held, self.ranking.renamed(old))
        return Variant(network, graph, moved, self.order[:count], cost, selector)

    def _selector(self, graph: ChannelGraph, held: set[str], ranking: Ranking) -> Selector:
        plan = self.plan
        return Selector(fixed_too(graph, held), ranking, plan.layer_keep, plan.round_to, plan.strategy)

    # -- estimates without building --------------------------------------------------------------------------------

    def estimate(self, cut: int, what: str) -> float:
        """The kept share at a cut, on the uncut graph."""
        selector, cost = self._struck_out(self.removed_at(cut))
        return cost.share(selector.settle(cut).keep, what)

    def _struck_out(self, count: int) -> tuple[Selector, Cost]:
        if count not in self._estimates:
            layers = {layer for block in self.order[:count] for layer in block.branch}
            gone = modules_in(self.graph, layers)
            graph = self.graph.lacking(gone)
            left = self.ranking.renamed({name: name for name in self.ranking.positions if name not in gone})
            self._estimates[count] = (self._selector(graph, self.held - gone, left), self.whole.without(gone))
        return self._estimates[count]

    @property
    def cuts(self) -> Ids:
        """Every cut that makes a difference, the lightest first."""
        cuts = self._struck_out(self.fewest)[0].cuts
        return np.union1d(cuts, self.block_cuts) if self.plan.shortcuts == "auto" else cuts

    # -- choices ---------------------------------------------------------------------------------------------------

    def choose(self) -> tuple[Variant, Selection]:
        """What the plan asks for, if that can be told without building candidates.

        Raises:
            UserError: a budget that cannot be reached, or that has to be measured.
        """
        plan = self.plan
        if not plan.cuts_channels:
            variant = self.variant(self.fewest)
            return variant, Selection(np.ones(len(variant.graph.root), bool))
        if plan.measured:
            _refuse_measuring(plan)
        if kept := plan.kept:
            return self.at_budget(kept[0].name, kept[1])
        if plan.shortcuts == "auto":
            selector = self._struck_out(0)[0]
            variant = self.variant(self.removed_at(self._asked(selector)))
            return variant, self._settled(variant, self._asked(selector))
        variant = self.variant(self.fewest)
        assert variant.selector is not None
        return variant, variant.selector.settle(self._asked(variant.selector))

    def _asked(self, selector: Selector) -> int:
        if self.plan.ratio is not None:
            return selector.cut_at_ratio(self.plan.ratio)
        assert self.plan.threshold is not None
        return selector.cut_at_threshold(self.plan.threshold)

    def at_cut(self, cut: int) -> tuple[Variant, Selection]:
        """The candidate at a cut, the blocks it takes along included."""
        variant = self.variant(self.removed_at(cut))
        return variant, self._settled(variant, cut)

    @staticmethod
    def _settled(variant: Variant, cut: int) -> Selection:
        assert variant.selector is not None
        return variant.selector.settle(cut)

    def at_budget(self, what: str, share: float) -> tuple[Variant, Selection]:
        """The lightest cut within the kept share of a budget that is computed.

        Raises:
            UserError: it cannot be reached; naming what binds.
        """
        variant = self.variant(self._blocks_for(what, share))
        assert variant.selector is not None
        cut = variant.selector.cut_at_budget(share, partial(variant.cost.share, what=what), what)
        return variant, variant.selector.settle(cut)

    def _blocks_for(self, what: str, share: float) -> int:
        """The blocks that the lightest joint cut within the share takes along."""
        if self.plan.shortcuts != "auto":
            return self.plan.shortcuts
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
        if not self.plan.cuts_channels:
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
        report = PruneReport(dict(self.asked), size=self.size)
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
        gone = self.graph.gone({module_name(old): kept for old, kept in step.values()})
        report.alive, report.gammas = alive_among(self.net, self.graph, gone)
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


def _refuse_measuring(plan: CutPlan) -> None:
    if plan.max_drop is not None:
        raise UserError(
            f"max_drop={plan.max_drop:g}: networks have to be scored, and nothing to score them with is given",
            todo="call prune.max_drop(net, score, plan)",
        )
    assert plan.kept
    raise UserError(
        f"budget={plan.budget!r}: a {plan.kept[0].name} has to be measured, and nothing to measure it with is given",
        todo=f"pass cost=..., a function from a network to its {plan.kept[0].name}",
    )


def _note_blocks(report: PruneReport, chosen: list[Block], blocks: list[Block]) -> None:
    gone = {block.layer for block in chosen}
    report.removed_blocks = {block.layer: block.score for block in chosen if block.score is not None}
    report.kept_blocks = {
        block.layer: block.obstacle or block.score or 0.0 for block in blocks if block.layer not in gone
    }
