"""Cut a network by a plan: channels, shortcut blocks, or both, scored on the uncut network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import UserError
from models.network import Network
from prune.candidates import Candidates, PruneResult
from prune.importance import Losses
from prune.plan import CutPlan
from prune.reconstruct import Images, reconstruct
from prune.search import Latency, within_latency
from prune.select import Scores


def prune(
    net: Network,
    plan: CutPlan | None = None,
    *,
    kind: str = "sparse",
    scores: Scores | None = None,
    losses: Losses | None = None,
    cost: Latency | None = None,
    images: Images | None = None,
    **options: Any,
) -> PruneResult:
    """Remove shortcut blocks and channels.

    Args:
        plan: what is asked for.
        kind: what `net` is called as an ancestor in the lineage.
        scores: module -> ``(C,)`` score of each of its channels, in the place of the criterion's.
        losses: for a criterion that needs them: from the network to the loss of each of some batches.
        cost: for a budget that has to be measured: from a network to its latency, in any unit.
        images: pictures, without augmentation, on which the result is solved for what `net` says, as in `reconstruct`.
        options: those of a `CutPlan` that differ from `plan`; without a plan they are all that is asked for.

    Raises:
        UserError: options that there are not or that contradict each other, or a budget that cannot be reached, with
            what binds.
    """
    wanted = _wanted(plan, options)
    result = _cut(Candidates(net, wanted, scores, losses), cost, kind)
    if images is not None:
        result.report.solved = reconstruct(result.network, net, images).lines()
    return result


def channels(
    net: Network,
    plan: CutPlan | None = None,
    *,
    kind: str = "sparse",
    scores: Scores | None = None,
    losses: Losses | None = None,
    cost: Latency | None = None,
    images: Images | None = None,
    **options: Any,
) -> PruneResult:
    """As `prune`, where channels have to go: with a budget, a ratio or a threshold."""
    wanted = CutPlan.of(plan, options)
    _need_depth(wanted)
    return prune(net, wanted, kind=kind, scores=scores, losses=losses, cost=cost, images=images)


def shortcuts(net: Network, remove: int, kind: str = "sparse") -> PruneResult:
    """Remove the `remove` shortcut blocks whose last BatchNorm has the lowest mean |gamma|.

    Raises:
        UserError: fewer can be removed.
    """
    return prune(net, CutPlan(shortcuts=remove), kind=kind)


def thin(net: Network, plan: CutPlan | None = None, **options: Any) -> Network:
    """The network that `prune` would cut, to be looked at and thrown away: without lineage and report.

    Both cost a hash of every weight of `net`, which on large networks takes longer than the cut.
    """
    candidates = Candidates(net, _wanted(plan, options))
    variant, selection = candidates.choose()
    return candidates.network(variant, selection.keep)[0]


def _cut(candidates: Candidates, cost: Latency | None, kind: str) -> PruneResult:
    kept = candidates.plan.kept
    if kept is None or not kept[0].measured or cost is None:
        return candidates.build(*candidates.choose(), kind)
    found = within_latency(candidates, cost)
    result = candidates.build(found.variant, found.selection, kind)
    result.report.latency, result.report.tried = found.latency, found.tried
    return result


def _wanted(plan: CutPlan | None, options: Mapping[str, Any]) -> CutPlan:
    """The plan; options that say how channels are chosen and not how many of them are a mistake."""
    wanted = CutPlan.of(plan, options)
    if options.keys() - {"shortcuts"}:
        _need_depth(wanted)
    return wanted


def _need_depth(plan: CutPlan) -> None:
    if not plan.cuts_channels:
        raise UserError(
            "none of budget, ratio and threshold given for channel pruning",
            todo="give exactly one, as budget='channels=0.4' or ratio=0.6",
        )
