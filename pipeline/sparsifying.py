"""The stage of sparsity training: which pull, how often it is looked at, and what it shows while it runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import prune
from common.errors import UserError
from common.log import log
from engine import Hooks
from engine.evaluate import Score
from models.network import Network
from pipeline.prune_options import PruneConfig
from prune.candidates import fixed_too
from prune.layers import held_layers
from prune.plan import CutPlan
from prune.schedules import USUAL_TARGET

# The controller of --sparsity auto backs off by what validations say: it gets at least half so many.
VALIDATIONS = 8


def make_sparsity(network: Network, config: PruneConfig) -> prune.Sparsity:
    """The hook that ``--sparsity`` and its options ask for; layers that have to stay are not pushed."""
    graph = prune.trace(network)
    graph = fixed_too(graph, held_layers(graph, config.include, config.exclude))
    if config.sparsity == "auto":
        if config.s:
            log.info("--sparsity auto chooses the pull itself: --s %g is not used", config.s)
        return prune.AutoSparsity(network, config.target or None, config.tolerance, foreseen(config), graph)
    form = config.sparse_form
    if form == "auto":
        form = "proximal" if config.optimizer == "adamw" else "subgradient"
    return prune.Sparsity(network, config.s, config.sparsity, form, config.optimizer, graph)


def watched(config: PruneConfig) -> PruneConfig:
    """The stage's options, validated often enough for its controller."""
    if config.sparsity != "auto":
        return config
    return replace(config, val_every=min(config.val_every, math.ceil(config.epochs / VALIDATIONS)))


def foreseen(config: PruneConfig) -> CutPlan:
    """The cut that is foreseen while the network still trains.

    That is the wanted cut itself where its cost can be computed. What has to be measured on every candidate (latency,
    a drop of mAP) would take too long: the target share of channels stands for it, and gamma, which is what the
    training moves, for a criterion that needs gradients.
    """
    return config.plan.rehearsal(ratio=config.target or USUAL_TARGET, criterion="gamma")


class PrunedScore(Hooks):
    """With every validation, the mAP the network would have if it were pruned now, before any fine-tuning.

    As long as ``pruned/mAP50`` lies far below ``val/mAP50`` the cut would take channels that are still at work.

    Args:
        cut: prunes a network as the run will in the end, and returns the thin one.
    """

    def __init__(self, cut: Callable[[Network], Network]):
        self.cut = cut
        self._told = False

    def after_validation(
        self, network: Network, averaged: Network, score: Score, evaluate: Callable[[Network], Score]
    ) -> dict[str, float]:
        candidate = copy.deepcopy(averaged)
        prune.settle_ema(network, candidate)  # as at the end of the stage
        try:
            thin = self.cut(candidate)
        except UserError as error:
            if not self._told:
                log.warning("the mAP of the pruned network is not shown while it trains: %s", error)
            self._told = True
            return {}
        found = evaluate(thin)
        return {"pruned/mAP50-95": float(found.map50_95), "pruned/mAP50": float(found.map50)}
