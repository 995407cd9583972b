"""What a run begins with, and which stages it goes through."""

from __future__ import annotations

from pathlib import Path

import models
from common.errors import UserError
from common.log import log
from common.rundir import chosen_network, is_checkpoint
from data import DataSpec
from data.anchors import boxes_wh
from export.opening import names_beside
from models.classes import class_order, numbers_only
from models.dropping import drop_heads, only_heads
from models.heads import ONE_TO_MANY, ONE_TO_ONE
from models.network import Network
from pipeline.prune_options import STAGES, PruneConfig
from pipeline.stage import load_network
from prune.heads import idle_heads


def chosen_stages(config: PruneConfig, start: Network, spec: DataSpec) -> list[str]:
    """The stages of a run that begins with `start`, in order.

    Raises:
        UserError: a stage nobody knows, or stages that leave nothing to do.
    """
    if config.stages == "auto":
        named = {name for name in STAGES if name != "student" or config.then_kd}
        if start.meta.get("trained_for") == list(spec.names):
            log.info("%s is trained for these classes: no baseline stage (--stages trains it further)", config.weights)
            named.discard("baseline")
    else:
        named = {name.strip() for name in config.stages.split(",") if name.strip()}
        if unknown := named - set(STAGES):
            raise UserError(
                f"--stages {config.stages}: no stage is called {', '.join(sorted(unknown))}",
                todo=f"choose from {', '.join(STAGES)}",
            )
        if config.then_kd and "prune" in named:  # a recipe's then_kd does not make a student of an uncut network
            named.add("student")
    if not named:
        raise UserError(f"--stages {config.stages!r} names no stage", todo=f"choose from {', '.join(STAGES)}")
    return [name for name in STAGES if name in named]


def first_network(config: PruneConfig, spec: DataSpec) -> Network:
    """The network of ``--cfg`` and ``--weights`` with heads for the data set's classes.

    `meta["trained_for"]` says which classes it already detects: those of the data set if every tensor, the heads
    included, came from ``--weights`` and the file's class names are the data set's (or it names none). One that knows
    more classes than these was trained on other pictures: it has a head start and no more.
    """
    network = load_network(config, spec.names)
    network.meta.pop("trained_for", None)  # what an earlier run of these weights said
    report = network.load_report
    if config.weights and (report is None or not (report.missing or report.unfit)):
        theirs = _class_names(config.weights)
        if theirs is None or (len(theirs) == len(spec.names) and class_order(spec.names, theirs) is not None):
            network.meta["trained_for"] = list(spec.names)
    return without_heads(config, network, spec)


def without_heads(config: PruneConfig, network: Network, spec: DataSpec) -> Network:
    """The network without the heads ``--drop-heads`` names; `meta["dropped_heads"]` holds their strides.

    The other heads have to learn the boxes anew with anchors of their own, so it is trained for nothing any more,
    unless the anchors are to be kept.

    Raises:
        UserError: there is no head of such a stride, or none would be left.
    """
    network.meta.pop("dropped_heads", None)
    wanted, strides = config.head_strides, [head.stride for head in network.specs]
    if not wanted:
        return network
    if wanted in (ONE_TO_MANY, ONE_TO_ONE):
        return _without_kind(network, str(wanted))
    if wanted == "auto" or all(head.anchors for head in network.specs):
        idle, shares = idle_heads(boxes_wh(spec, config.input_size, resize=network.resize), network.specs)
        shown = ", ".join(f"stride {stride} {share:.1%}" for stride, share in zip(strides, shares))
        log.info("boxes whose best anchor is the head's: %s", shown)
    if wanted == "auto":
        places = idle
    else:
        places = [place for place, stride in enumerate(strides) if stride in wanted]
        if unknown := [str(stride) for stride in wanted if stride not in strides]:
            raise UserError(
                f"--drop-heads {config.drop_heads}: no head has the stride {', '.join(unknown)}",
                where=network.cfg.source,
                todo=f"strides are {', '.join(map(str, strides))}",
            )
        if len(places) == len(strides):
            raise UserError(
                f"--drop-heads {config.drop_heads} leaves no head",
                where=network.cfg.source,
                todo=f"strides are {', '.join(map(str, strides))}: name fewer",
            )
    if not places:
        log.info("--drop-heads auto: every head has work, none is dropped")
        return network
    gone = [strides[place] for place in places]
    thin = _told(network, drop_heads(network, places), f"of stride {', '.join(map(str, gone))}")
    thin.meta["dropped_heads"] = gone
    if config.anchors != "keep":
        thin.meta.pop("trained_for", None)
    return thin


def _without_kind(network: Network, kind: str) -> Network:
    """The network without its heads of this kind; those of the other detect what they did before."""
    if all(head.one_to_one != (kind == ONE_TO_ONE) for head in network.specs):
        raise UserError(f"--drop-heads {kind}: there is no such head", where=network.cfg.source, todo="leave it out")
    thin = only_heads(network, ONE_TO_MANY if kind == ONE_TO_ONE else ONE_TO_ONE)
    return _told(network, thin, f"that are {kind}")


def _told(network: Network, thin: Network, which: str) -> Network:
    log.info(
        "heads %s are dropped with all that only they read: %s parameters -> %s",
        which,
        f"{models.parameters(network):,}",
        f"{models.parameters(thin):,}",
    )
    return thin


def _class_names(weights: str) -> list[str] | None:
    """The class names in a `.pt` or a run, or beside a `.weights`; None where there are none, or numbers only."""
    weights = str(chosen_network(weights))
    if not is_checkpoint(weights):
        return names_beside(Path(weights))
    names = models.load(weights).names
    return None if numbers_only(names) else names
