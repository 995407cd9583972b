"""One cut as the command line asks for it: the budget of a round, what is measured for it, what is mended after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from torch import Tensor, nn

import prune
from common.cores import usable_threads
from common.errors import UserError
from common.log import log
from data import DataSpec
from engine.objective import DetectionObjective
from engine.step import training_step
from export.formats import FORMATS
from export.latency import DeployedLatency
from models.network import Network
from pipeline.calibration import Calibration
from pipeline.prune_options import PruneConfig
from prune.candidates import Candidates
from prune.plan import CutPlan

IDLE_KEPT = 0.1
"""Share of the kept channels that may be idle: rounding, floors and ties hold a few."""

LIVE_CUT = 0.05
"""Share of all |gamma| that may go with channels in use before a cut needs a word of advice."""
REPAIRS = 0.0025
"""AdamW's peak rate that mends such cuts in some hundred steps; docs/results.md, "The rate of the fine-tune"."""


def kept_idle(thin: Network, config: PruneConfig) -> str:
    """That sparsity training silenced clearly more channels than the cut took, mAP given away; "" where it did not."""
    idle, prunable = prune.idle_channels(thin)
    if idle <= IDLE_KEPT * prunable:
        return ""
    taken = f"--max-drop {config.max_drop:g}" if config.plan.max_drop is not None else f"--prune {config.budget}"
    return (
        f"{idle} of the {prunable} channels that the cut kept and could have taken are idle (exactly 0): sparsity "
        f"training silenced more than {taken} takes, and that cost mAP. A deeper cut takes them for nothing; or train "
        "with --target 0, which goes as far as the cut"
    )


def live_cut(alive: float, config: PruneConfig, kind: str) -> str:
    """What to do where channels in use were cut; "" where hardly any were, or --max-drop saw to it.

    Args:
        alive: the share of all |gamma| that went with them.
        kind: what the network that was cut is called.
    """
    if alive <= LIVE_CUT or config.plan.max_drop is not None:
        return ""
    trained = "longer sparsity training (--sparse-epochs)"
    before = trained if kind == "sparse" else "sparsity training first (--stages sparse,prune)"
    off = "" if config.reconstruct else ", and --reconstruct, which is off"
    after = "the fine-tune that comes next" if config.then_kd else "a fine-tune after it (--then-kd)"
    lr0 = config.finetune_lr0 or config.lr0
    if config.optimizer == "adamw" and lr0 < REPAIRS / 2:
        after += f", at a higher rate if it has but some hundred steps (--finetune-lr0 {REPAIRS:g}; it is {lr0:g})"
    return (
        f"so {alive:.0%} of the network that was in use went, and mAP with it. What helps: {before}, a cut no "
        f"deeper than val allows (--max-drop 0.02), {after}{off}"
    )


class Cutter(Calibration):
    """Cuts of one network towards one budget.

    Args:
        config: the options.
        spec: the data set; read only where a criterion, --max-drop, --reestimate-bn or --reconstruct wants pictures.
        uncut: the network of which the budget is a share.
    """

    def __init__(self, config: PruneConfig, spec: DataSpec, uncut: Network):
        super().__init__(config, spec, uncut.resize)
        self.config, self.uncut = config, uncut
        self.plan = config.plan

    def __call__(self, network: Network, kind: str, number: int = 1) -> prune.PruneResult:
        """Cut `network` as far as round `number` of ``--rounds`` goes; `network` is left as it is.

        Args:
            kind: what `network` is called in the lineage.
            number: the round, from 1; the last one reaches the budget.
        """
        plan = self.plan.round(number, self._left(network))
        found = self._searched(network, plan, kind) if plan.max_drop is not None else self._cut(network, plan, kind)
        found.network.cpu()
        network.cpu()
        self._tell_target(found)
        if number == self.config.rounds:
            if idle := kept_idle(found.network, self.config):
                log.warning("%s", idle)
            said = live_cut(found.report.alive, self.config, kind), idle
            found.report.notes += [line for line in said if line]
        return found

    def _cut(self, network: Network, plan: CutPlan, kind: str) -> prune.PruneResult:
        """By a budget; then mended as the options say."""
        found = prune.prune(network, plan, kind=kind, losses=self.losses, cost=self.latency)
        if found.report.folded:
            found.report.border_error = prune.border_error(network, found.network)
        if self.config.reestimate_bn:
            prune.reestimate(found.network.to(self.device), self.batches)
        if self.config.reconstruct:
            found.report.solved = self.solve(found.network, network).lines()
        return found

    def _searched(self, network: Network, plan: CutPlan, kind: str) -> prune.PruneResult:
        """By ``--max-drop``, each candidate mended before it is judged.

        Solving sets BatchNorm's statistics too, so it stands in the place of re-estimating them.
        """
        solving = self.config.reconstruct
        search = prune.max_drop(
            network.to(self.device),
            self.val_score if solving else self.score,
            plan,
            kind=kind,
            losses=self.losses,
            images=self.batches if solving else None,
        )
        log.info("val mAP50-95 before any fine-tuning: %.4f -> %.4f", search.base, search.score)
        return search.result

    def rehearse(self) -> Candidates:
        """Choose what would go without cutting it, and without pictures or a clock; try where it will run.

        Returns:
            What can be cut by the first cut's plan, but all shortcut blocks at once.

        Raises:
            UserError: the options contradict the network, or the budget cannot be reached.
        """
        self._check_target()
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
        """Milliseconds where the network will run (ONNX Runtime, or `--deploy-to`), beside the uncut network's."""
        if self._clock.reference is None:
            taken = self._clock(self.uncut)
            log.info("%s: the uncut network takes %.2f ms", self._clock.place, taken)
        return self._clock(network)

    @cached_property
    def _clock(self) -> DeployedLatency:
        target = FORMATS[self.config.deploy_to or "onnx"]
        return DeployedLatency(self.config.input_size, target, usable_threads(self.config.threads) or None)

    def _check_target(self) -> None:
        """Bring the uncut network to where the thin one will run.

        Raises:
            UserError: a latency is to be measured, and cannot be here.
        """
        measured = self.plan.kept is not None and self.plan.kept[0].measured
        if not (measured or self.config.deploy_to):
            return
        try:
            self._clock.opened(self.uncut)
        except UserError as error:
            if measured:
                raise
            log.warning(
                "--deploy-to %s: the cut keeps multiples of %d channels, but this network cannot be tried there: %s",
                self.config.deploy_to,
                self.plan.round_to,
                error,
            )

    def _tell_target(self, found: prune.PruneResult) -> None:
        """Where the cut network will run, and where its latency was measured, in the report and the lineage."""
        if self.config.deploy_to:
            found.report.asked["deploy_to"] = self.config.deploy_to
            found.network.lineage[-1]["cut"] = found.report.cut()
        if found.report.latency:
            found.report.notes.append(f"latency: ms of {self._clock.place}")

    def score(self, network: Network) -> float:
        """val mAP50-95 of a candidate; its BatchNorm statistics are re-estimated in place where that is better.

        A cut through live channels shifts the statistics, and re-estimating them repairs much. Where only idle channels
        went they were right, and belonged to the augmented pictures of the training: new ones can then cost mAP.
        """
        as_cut = self.val_score(network.to(self.device))
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        prune.reestimate(network, self.batches)
        anew = self.val_score(network)
        if anew < as_cut:
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
        return max(as_cut, anew)

    def losses(self, network: nn.Module) -> Iterator[Tensor]:
        """The weighted detection loss of one batch after the other, BatchNorm statistics untouched."""
        assert isinstance(network, Network)
        alone = DetectionObjective(network.to(self.device).eval(), self.config.loss, lambda value: value)
        for batch in self.batches:
            for terms, _ in training_step(alone, [batch.prepared(self.device)], 0.0):
                yield terms.total()
