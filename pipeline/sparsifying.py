"""The stage of sparsity training: which pull, how often it is looked at, and what it shows while it runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import prune
from common.errors import UserError
from common.log import log
from engine import Hooks
from engine.evaluate import Score
from models.network import Network
from pipeline.prune_options import PruneConfig
from prune.options import held_layers

# The controller of --sparsity auto backs off by what validations say: it gets at least half so many.
VALIDATIONS = 8
USUAL_TARGET = 0.7


def make_sparsity(network: Network, config: PruneConfig) -> prune.Sparsity:
    """The hook that ``--sparsity`` and its options ask for; layers that have to stay are not pushed."""
    graph = prune.trace(network)
    graph = graph.without(held_layers(graph, config.include, config.exclude))
    if config.sparsity == "auto":
        if config.s:
            log.info("--sparsity auto chooses the pull itself: --s %g is not used", config.s)
        target, budget = config.target, ""
        if not target:  # as far as the cut
            wanted = foreseen(config)
            target, budget = wanted.get("ratio") or USUAL_TARGET, wanted.get("budget", "")
        return prune.AutoSparsity(
            network,
            target,
            config.tolerance,
            config.layer_keep,
            config.strategy,
            graph,
            budget,
            config.input_size,
            config.round_to,
        )
    form = config.sparse_form
    if form == "auto":
        form = "proximal" if config.optimizer == "adamw" else "subgradient"
    return prune.Sparsity(network, config.s, config.sparsity, form, config.optimizer, graph)


def watched(config: PruneConfig) -> PruneConfig:
    """The stage's options, validated often enough for its controller."""
    if config.sparsity != "auto":
        return config
    return replace(config, val_every=min(config.val_every, math.ceil(config.epochs / VALIDATIONS)))


def foreseen(config: PruneConfig) -> dict[str, Any]:
    """The options of `prune.prune` for the cut that is foreseen while the network still trains.

    That is the wanted cut itself where its cost can be computed. What has to be measured on every candidate (latency,
    a drop of mAP) would take too long: the target share of channels stands for it, and gamma for gradients.
    """
    options = dict(config.pruning)
    if config.cuts_channels:
        kind = str(options.get("budget", "")).partition("=")[0].strip()
        if kind not in ("channels", "params", "flops") and "ratio" not in options:
            options.pop("budget", None)
            options["ratio"] = config.target or USUAL_TARGET
        if options.get("criterion") == "taylor":
            options["criterion"] = "gamma"
    return options


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
