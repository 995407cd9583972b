"""The three calls: prune channels, remove shortcut blocks, or both scored on the uncut network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from models.lineage import descend
from models.network import Network
from prune.blocks import Block, choose_blocks, cut_blocks
from prune.cost import Cost
from prune.fold import Leftovers, leftovers
from prune.identities import ChannelGraph, Mask
from prune.importance import CRITERIA
from prune.report import PruneReport
from prune.select import Scores, Selection, Selector
from prune.surgery import layer_number, thin_network
from prune.tracing import trace

STRATEGIES = ("union",)
BUDGETS = ("channels", "params", "flops")


@dataclass
class PruneResult:
    """The thin network and what was done. The network handed in is left as it was."""

    network: Network
    report: PruneReport


@dataclass(frozen=True)
class ChannelOptions:
    """How channels are chosen; exactly one of budget, ratio and threshold is given.

    Attributes:
        strategy: "union": a tied channel goes only if every member of its group lets it go.
        criterion: "gamma".
        budget: kept share of the whole network, as "channels=0.4", "params=0.1" or "flops=0.3"; met after rounding,
            never above.
        ratio: share of the participating scores that want to go; ties and floors then hold some back.
        threshold: scores up to it want to go.
        layer_keep: floor per convolution: a share of its channels (float) or a count (int); never below 1.
        round_to: survivors are a multiple of it, rounded up; 4 or 8 suit CPUs.
        fold: move what dropped channels leave behind into their readers.
        exclude: globs of module names whose channels stay, as "layers.3" or "layers.1?.conv".
        size: (H, W) at which MACs are counted; the cfg's own if None.
    """

    strategy: str = "union"
    criterion: str = "gamma"
    budget: str | None = None
    ratio: float | None = None
    threshold: float | None = None
    layer_keep: float = 0.01
    round_to: int = 1
    fold: bool = True
    exclude: tuple[str, ...] = ()
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy={self.strategy!r} is not known", todo=f"choose from {', '.join(STRATEGIES)}")
        if self.criterion not in CRITERIA:
            raise UserError(f"criterion={self.criterion!r} is not known", todo=f"choose from {', '.join(CRITERIA)}")
        given = [name for name in ("budget", "ratio", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(f"{' and '.join(given) or 'none of budget, ratio and threshold'} given for channel pruning",
                            todo="give exactly one, as budget='channels=0.4' or ratio=0.6")
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise UserError(f"ratio={self.ratio} is not a share", todo="give a number in 0..1")
        if self.round_to < 1:
            raise UserError(f"round_to={self.round_to} has to be at least 1")
        if self.layer_keep < 0 or (isinstance(self.layer_keep, float) and self.layer_keep > 1):
            raise UserError(f"layer_keep={self.layer_keep} is neither a share in 0..1 nor a count")
        if self.budget is not None:
            parse_budget(self.budget)


def parse_budget(text: str) -> tuple[str, float]:
    """ "params=0.1" -> ("params", 0.1). Raises `UserError` on anything else."""
    what, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if what.strip() not in BUDGETS or not 0 < share <= 1:
        raise UserError(f"budget={text!r} is not a kept share", todo=f"write one of {', '.join(BUDGETS)} and a number "
                                                                     "in 0..1, as params=0.1")
    return what.strip(), share


def channels(net: Network, strategy: str = "union", criterion: str = "gamma", *, budget: str | None = None,
             ratio: float | None = None, threshold: float | None = None, layer_keep: float = 0.01, round_to: int = 1,
             fold: bool = True, exclude: Iterable[str] = (), size: tuple[int, int] | None = None,
             kind: str = "sparse") -> PruneResult:
    """Prune channels; see `ChannelOptions` for what each argument trades.

    Args:
        kind: what `net` is called as an ancestor in the lineage.
    """
    options = ChannelOptions(strategy, criterion, budget, ratio, threshold, layer_keep, round_to, fold, tuple(exclude),
                             size)
    return _prune(net, options, 0, kind)


def shortcuts(net: Network, remove: int, kind: str = "sparse") -> PruneResult:
    """Remove the `remove` shortcut blocks whose last BatchNorm has the lowest mean |gamma|.

    Raises:
        UserError: fewer can be removed.
    """
    return _prune(net, None, remove, kind)


def prune(net: Network, shortcuts: int = 0, kind: str = "sparse", **options: object) -> PruneResult:
    """Remove shortcut blocks and channels, both scored on the uncut network. `options`: those of `channels`."""
    if "exclude" in options:
        options["exclude"] = tuple(options["exclude"])  # type: ignore[arg-type]
    wanted = ChannelOptions(**options) if options else None  # type: ignore[arg-type]
    return _prune(net, wanted, shortcuts, kind)


def _prune(net: Network, options: ChannelOptions | None, remove: int, kind: str) -> PruneResult:
    size = (options.size if options else None) or net.image_size
    graph = trace(net)
    whole = Cost(net, graph, size)
    report = PruneReport({**(vars(options) if options else {}), "shortcuts": remove}, size=size)
    every = np.ones(len(graph.root), bool)
    before = (whole.channels(every), whole.parameters(every), whole.macs(every))
    scores = CRITERIA[options.criterion](net, graph) if options else {}
    shorter, moved = net, {number: number for number in net.convolutions}
    if remove or options is None:  # even removing nothing gives a network of its own
        chosen, blocks = choose_blocks(net, remove)
        shorter, moved = cut_blocks(net, chosen)
        _note_blocks(report, chosen, blocks)
        graph = trace(shorter)
        scores = {name: scores[_renamed(name, moved)] for name in graph.norms} if options else {}
    cost = whole if shorter is net else Cost(shorter, graph, size)
    keep = np.ones(len(graph.root), bool)
    result = shorter
    if options is not None:
        relative = {"channels": before[0], "params": before[1], "flops": before[2]}
        keep = _select(graph, scores, options, cost, relative, report).keep
        left = leftovers(shorter, graph, keep) if options.fold else Leftovers()
        report.folded, report.unfolded = len(left.added), left.unfolded
        result = thin_network(shorter, graph, keep, left)
    after = (cost.channels(keep), cost.parameters(keep), cost.macs(keep))
    report.channels, report.params, report.macs = (before[0], after[0]), (before[1], after[1]), (before[2], after[2])
    survivors = {moved[layer_number(name)]: int(keep[conv.makes].sum()) for name, conv in graph.convs.items()}
    report.layers = {number: (conv.out_channels, survivors.get(number, 0)) for number, conv in net.convolutions.items()}
    _set_lineage(net, result, graph, keep, moved, kind)
    return PruneResult(result, report)


def _select(graph: ChannelGraph, scores: Scores, options: ChannelOptions, cost: Cost, whole: dict[str, float],
            report: PruneReport) -> Selection:
    """Choose what stays, and note what held the rest back. A budget is a share of `whole`, the uncut network."""
    limited = graph.without(options.exclude)
    selector = Selector(limited, scores, options.layer_keep, options.round_to)
    if options.budget is not None:
        what, share = parse_budget(options.budget)
        measure = {"channels": cost.channels, "params": cost.parameters, "flops": cost.macs}[what]
        cut = selector.cut_at_budget(share, lambda keep: measure(keep) / whole[what], what)
    elif options.ratio is not None:
        cut = selector.cut_at_ratio(options.ratio)
    else:
        assert options.threshold is not None
        cut = selector.cut_at_threshold(options.threshold)
    selection = selector.settle(cut)
    report.fixed = int(sum(limited.fixed[conv.makes].sum() for conv in limited.convs.values()))
    report.tied, report.carried = selection.tied, selection.carried
    report.floored, report.equalised, report.rounded = selection.floored, selection.equalised, selection.rounded
    return selection


def _renamed(name: str, moved: dict[int, int]) -> str:
    number = layer_number(name)
    return name.replace(f"layers.{number}.", f"layers.{moved[number]}.", 1)


def _note_blocks(report: PruneReport, chosen: list[Block], blocks: list[Block]) -> None:
    gone = {block.layer for block in chosen}
    report.removed_blocks = {block.layer: block.score for block in chosen if block.score is not None}
    report.kept_blocks = {block.layer: block.obstacle or block.score or 0.0 for block in blocks
                          if block.layer not in gone}


def _set_lineage(net: Network, result: Network, graph: ChannelGraph, keep: Mask, moved: dict[int, int],
                 kind: str) -> None:
    """One step from `net` to the result: the network without blocks that lay in between is nobody's ancestor."""
    step = {layer_number(name): (moved[layer_number(name)], np.flatnonzero(keep[conv.makes]).tolist())
            for name, conv in graph.convs.items()}
    result.lineage = descend(net, kind, step)
