"""The three calls: prune channels, remove shortcut blocks, or both scored on the uncut network."""

from __future__ import annotations

from collections.abc import Iterable

from models.network import Network
from prune.candidates import Auto, Candidates, PruneResult
from prune.importance import Losses
from prune.options import BUDGETS, ChannelOptions, parse_budget
from prune.search import Latency, within_latency
from prune.select import STRATEGIES, Scores

__all__ = [
    "BUDGETS",
    "STRATEGIES",
    "ChannelOptions",
    "PruneResult",
    "channels",
    "parse_budget",
    "prune",
    "shortcuts",
    "thin",
]


def channels(
    net: Network,
    strategy: str = "union",
    criterion: str = "gamma",
    *,
    budget: str | None = None,
    ratio: float | None = None,
    threshold: float | None = None,
    layer_keep: float = 0.01,
    round_to: int = 1,
    fold: bool = True,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    size: tuple[int, int] | None = None,
    seed: int = 0,
    scores: Scores | None = None,
    losses: Losses | None = None,
    cost: Latency | None = None,
    kind: str = "sparse",
) -> PruneResult:
    """Prune channels; see `ChannelOptions` for what the other arguments trade.

    Args:
        scores: module -> ``(C,)`` score of each of its channels, in the place of the criterion's.
        losses: for criterion="taylor": from the network to the loss of each of some batches.
        cost: for a latency budget: from a network to its latency, in any unit.
        kind: what `net` is called as an ancestor in the lineage.

    Raises:
        UserError: options that contradict each other, or a budget that cannot be reached, with what binds.
    """
    return prune(
        net,
        0,
        kind,
        scores=scores,
        losses=losses,
        cost=cost,
        strategy=strategy,
        criterion=criterion,
        budget=budget,
        ratio=ratio,
        threshold=threshold,
        layer_keep=layer_keep,
        round_to=round_to,
        fold=fold,
        include=include,
        exclude=exclude,
        size=size,
        seed=seed,
    )


def thin(net: Network, shortcuts: int | Auto = 0, **options: object) -> Network:
    """The network that `prune` would cut, to be looked at and thrown away: without lineage and report.

    Both cost a hash of every weight of `net`, which on large networks takes longer than the cut.
    """
    candidates = Candidates(net, ChannelOptions(**options) if options else None, shortcuts)  # type: ignore[arg-type]
    variant, selection = candidates.choose()
    return candidates.network(variant, selection.keep)[0]


def shortcuts(net: Network, remove: int, kind: str = "sparse") -> PruneResult:
    """Remove the `remove` shortcut blocks whose last BatchNorm has the lowest mean |gamma|.

    Raises:
        UserError: fewer can be removed.
    """
    candidates = Candidates(net, None, remove)
    return candidates.build(*candidates.choose(), kind)


def prune(
    net: Network,
    shortcuts: int | Auto = 0,
    kind: str = "sparse",
    *,
    scores: Scores | None = None,
    losses: Losses | None = None,
    cost: Latency | None = None,
    **options: object,
) -> PruneResult:
    """Remove shortcut blocks and channels, both scored on the uncut network.

    Args:
        shortcuts: how many blocks go, the lowest first; "auto": blocks and channels compete for the one budget, and
            a block goes once the threshold has passed the mean |gamma| of its last BatchNorm.
        scores, losses, cost, options: as in `channels`; without options only blocks go.
    """
    wanted = ChannelOptions(**options) if options else None  # type: ignore[arg-type]
    candidates = Candidates(net, wanted, shortcuts, scores, losses)
    if wanted is not None and wanted.budget is not None and cost is not None:
        what, share = parse_budget(wanted.budget)
        if what == "latency":
            found = within_latency(candidates, share, cost)
            result = candidates.build(found.variant, found.selection, kind)
            result.report.latency, result.report.tried = found.latency, found.tried
            return result
    return candidates.build(*candidates.choose(), kind)
