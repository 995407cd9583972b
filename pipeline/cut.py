"""One cut as the command line asks for it: the budget of a round, what is measured for it, what is mended after it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from torch import Tensor, nn

import prune
from common.log import log
from data import Dataset, DataSpec, make_loader
from data.batch import Batch
from data.options import BATCH
from engine import distributed, evaluate
from engine.objective import DetectionObjective
from engine.step import training_step
from export.latency import OnnxLatency
from export.to_onnx import need_onnx
from models.network import Network
from pipeline.prune_options import PruneConfig
from prune.candidates import Candidates

CALIBRATION = 256
"""Training pictures, without augmentation, on which BatchNorm is re-estimated and gradients are taken."""


IDLE_KEPT = 0.1
"""Share of the kept channels that may be idle: rounding, floors and ties hold a few."""


def check_idle(thin: Network, config: PruneConfig) -> None:
    """Warn where sparsity training silenced clearly more channels than the cut took: mAP given away."""
    idle, prunable = prune.idle_channels(thin)
    if idle > IDLE_KEPT * prunable:
        log.warning(
            "%d of the %d channels that the cut kept and could have taken are idle (exactly 0): sparsity training "
            "silenced more than %s takes, and that cost mAP. A deeper cut takes them for nothing; or train with "
            "--target 0, which goes as far as the cut",
            idle,
            prunable,
            f"--max-drop {config.max_drop:g}" if config.plan.max_drop is not None else f"--prune {config.budget}",
        )


class Cutter:
    """Cuts of one network towards one budget.

    Args:
        config: the options.
        spec: the data set; read only where a criterion, --max-drop, --reestimate-bn or --reconstruct wants pictures.
        uncut: the network of which the budget is a share.
    """

    def __init__(self, config: PruneConfig, spec: DataSpec, uncut: Network):
        self.config, self.spec, self.uncut = config, spec, uncut
        self.plan = config.plan
        self.device = distributed.start(config.device)

    def __call__(self, network: Network, kind: str, number: int = 1) -> prune.PruneResult:
        """Cut `network` as far as round `number` of ``--rounds`` goes; `network` is left as it is.

        Args:
            kind: what `network` is called in the lineage.
            number: the round, from 1; the last one reaches the budget.
        """
        plan = self.plan.round(number, self._left(network))
        if plan.max_drop is not None:
            search = prune.max_drop(network, self.score, plan, kind=kind, losses=self.losses)
            log.info("val mAP50-95 before any fine-tuning: %.4f -> %.4f", search.base, search.score)
            found = search.result
        else:
            found = prune.prune(network, plan, kind=kind, losses=self.losses, cost=self.latency)
            if found.report.folded:
                found.report.border_error = prune.border_error(network, found.network)
            if self.config.reestimate_bn:
                prune.reestimate(found.network.to(self.device), self.batches)
        if self.config.reconstruct:
            solved = prune.reconstruct_if_better(
                found.network.to(self.device), network.to(self.device), self.batches, self._val_score
            )
            found.report.solved = solved.lines()
        found.network.cpu()
        network.cpu()
        if number == self.config.rounds:
            check_idle(found.network, self.config)
        return found

    def rehearse(self) -> Candidates:
        """Choose what would go without cutting it, and without pictures or a clock.

        Returns:
            What can be cut by the first cut's plan, but all shortcut blocks at once.

        Raises:
            UserError: the options contradict the network, or the budget cannot be reached.
        """
        if self.plan.kept and self.plan.kept[0].measured:
            need_onnx()
        first = replace(self.plan.round(1), shortcuts=self.plan.shortcuts)
        candidates = Candidates(self.uncut, first.rehearsal())
        candidates.choose()
        return candidates

    def _left(self, network: Network) -> float:
        """The share of the uncut network's cost that is left in `network`, by the budget's kind."""
        if network is self.uncut or not self.plan.kept:
            return 1.0
        budget, _ = self.plan.kept
        if budget.measured:
            return self.latency(network) / self.latency(self.uncut)
        return budget.of(network, self.config.input_size) / budget.of(self.uncut, self.config.input_size)

    def latency(self, network: Network) -> float:
        """Milliseconds in ONNX Runtime, measured beside the uncut network."""
        return self._clock(network)

    @cached_property
    def _clock(self) -> OnnxLatency:
        measured = OnnxLatency(self.config.input_size, self.config.threads or None)
        log.info("ONNX Runtime, %d threads: the uncut network takes %.2f ms", measured.threads, measured(self.uncut))
        return measured

    @cached_property
    def batches(self) -> list[Batch]:
        """A few hundred training pictures without augmentation, drawn with ``--seed``; no batch is smaller."""
        config = self.config
        pictures = Dataset(self.spec, "train", config.input_size)
        size = min(config.batch_size if config.batch_size > 0 else BATCH, len(pictures))
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
        batch = self.config.batch_size if self.config.batch_size > 0 else BATCH
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
