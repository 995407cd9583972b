"""One cut as the command line asks for it: the budget of a round, what is measured for it, what is mended after it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from torch import Tensor, nn

import models
import prune
from common.log import log
from data import Dataset, DataSpec, make_loader
from data.batch import Batch
from engine import distributed, evaluate
from engine.objective import DetectionObjective
from engine.step import training_step
from export.latency import OnnxLatency
from export.to_onnx import need_onnx
from models.network import Network
from pipeline.prune_options import PruneConfig
from prune.candidates import Candidates
from prune.options import ChannelOptions, parse_budget

CALIBRATION = 256
"""Training pictures, without augmentation, on which BatchNorm is re-estimated and gradients are taken."""


class Cutter:
    """Cuts of one network towards one budget.

    Args:
        config: the options.
        spec: the data set; read only where a criterion, --max-drop or --reestimate-bn wants pictures.
        uncut: the network of which the budget is a share.
    """

    def __init__(self, config: PruneConfig, spec: DataSpec, uncut: Network):
        self.config, self.spec, self.uncut = config, spec, uncut
        self.device = distributed.start(config.device)

    def __call__(self, network: Network, kind: str, number: int = 1) -> prune.PruneResult:
        """Cut `network` as far as round `number` of ``--rounds`` goes; `network` is left as it is.

        Args:
            kind: what `network` is called in the lineage.
            number: the round, from 1; the last one reaches the budget.
        """
        config = self.config
        options = self.options(network, number)
        if config.max_drop:
            search = prune.max_drop(network, self.score, config.max_drop, kind=kind, **options)
            log.info("val mAP50-95 before any fine-tuning: %.4f -> %.4f", search.base, search.score)
            found = search.result
        else:
            found = prune.prune(network, kind=kind, **options)
            if found.report.folded:
                found.report.border_error = prune.border_error(network, found.network)
            if config.reestimate_bn:
                prune.reestimate(found.network.to(self.device), self.batches)
        found.network.cpu()
        network.cpu()
        return found

    def rehearse(self) -> Candidates:
        """Choose what would go without cutting it, and without pictures or a clock.

        Returns:
            What can be cut, with the options of the first cut.

        Raises:
            UserError: the options contradict the network, or the budget cannot be reached.
        """
        config = self.config
        options = dict(config.pruning)
        blocks = options.pop("shortcuts")
        if config.budget_kind == "latency":
            need_onnx()
        if config.budget_kind in ("latency", "drop"):  # found by measuring; any cut tells whether the rest is sound
            options.pop("budget", None)
            options["ratio"] = 0.5
        elif config.rounds > 1 and "budget" in options:
            options["budget"] = self._budget(self.uncut, 1)
        if options.get("criterion") == "taylor":
            options["criterion"] = "l1"  # scores the same layers
        candidates = Candidates(self.uncut, ChannelOptions(**options) if options else None, blocks)
        candidates.choose()
        return candidates

    def options(self, network: Network, number: int) -> dict[str, Any]:
        """The options of `prune.prune` for round `number`, in which `network` is to be cut."""
        config = self.config
        options = dict(config.pruning)
        if config.rounds > 1:
            options["shortcuts"] = self._blocks(number)
            if "budget" in options:
                options["budget"] = self._budget(network, number)
        if config.budget_kind == "latency":
            options["cost"] = self.latency
        if options.get("criterion") == "taylor":
            options["losses"] = self.losses
        return options

    def _blocks(self, number: int) -> int | str:
        """Shortcut blocks of a round: each takes an equal part of them."""
        total = self.config.pruning["shortcuts"]
        if isinstance(total, str):
            return total
        rounds = self.config.rounds
        return total * number // rounds - total * (number - 1) // rounds

    def _budget(self, network: Network, number: int) -> str:
        """The budget of a round as a share of `network`: equal factors lead from the uncut network to the last one."""
        what, share = parse_budget(self.config.pruning["budget"])
        left = self._cost(network, what) / self._cost(self.uncut, what) if network is not self.uncut else 1.0
        return f"{what}={min(1.0, share ** (number / self.config.rounds) / left)!r}"

    def _cost(self, network: Network, what: str) -> float:
        if what == "channels":
            return sum(conv.out_channels for conv in network.conv_modules.values())
        if what == "params":
            return models.parameters(network)
        return models.macs(network, self.config.input_size) if what == "flops" else self.latency(network)

    @cached_property
    def latency(self) -> OnnxLatency:
        """Milliseconds in ONNX Runtime, measured beside the uncut network."""
        measured = OnnxLatency(self.config.input_size, self.config.threads or None)
        log.info("ONNX Runtime, %d threads: the uncut network takes %.2f ms", measured.threads, measured(self.uncut))
        return measured

    @cached_property
    def batches(self) -> list[Batch]:
        """A few hundred training pictures without augmentation, drawn with ``--seed``; no batch is smaller."""
        config = self.config
        pictures = Dataset(self.spec, "train", config.input_size)
        size = min(config.batch_size if config.batch_size > 0 else 16, len(pictures))
        loader = make_loader(pictures, size, seed=config.seed, workers=config.workers, drop_last=True)
        return list(itertools.islice(loader, max(1, CALIBRATION // size)))

    @cached_property
    def val(self) -> Dataset:
        return Dataset(self.spec, "val", self.config.input_size)

    def score(self, network: Network) -> float:
        """val mAP50-95 of a candidate; its BatchNorm statistics are re-estimated in place where that is better.

        A cut through live channels shifts the statistics, and re-estimating them repairs much. Where only idle channels
        went they were right, and belonged to the augmented pictures of the training: new ones can then cost mAP.
        """
        as_cut = self._val_score(network.to(self.device))
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        prune.reestimate(network, self.batches)
        anew = self._val_score(network)
        if anew < as_cut:
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
        return max(as_cut, anew)

    def _val_score(self, network: Network) -> float:
        batch = self.config.batch_size if self.config.batch_size > 0 else 16
        return evaluate(
            network,
            self.spec,
            "val",
            batch_size=batch,
            device=self.device,
            workers=self.config.workers,
            dataset=self.val,
        ).map50_95

    def losses(self, network: nn.Module) -> Iterator[Tensor]:
        """The weighted detection loss of one batch after the other, BatchNorm statistics untouched."""
        assert isinstance(network, Network)
        alone = DetectionObjective(network.to(self.device).eval(), self.config.loss, lambda value: value)
        for batch in self.batches:
            for terms, _ in training_step(alone, [batch.prepared(self.device)], 0.0):
                yield terms.total()
