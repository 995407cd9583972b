"""What can be said before anything is trained: options that nobody reads, a cut of random weights, a target too low."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from common.command_line import find_hyp
from common.errors import UserError
from common.log import log
from common.options import from_dict, options, read_yaml, to_dict
from pipeline.distil_options import DISTILLATION
from pipeline.prune_options import PRUNING, SPARSE, STUDENT, PruneConfig
from prune.candidates import Candidates

# A cut takes other channels than the first network's gammas foretell: its share is known to about so much.
SHARE_KNOWN_TO = 0.03

# Options of a group that count without the group's stage.
_ELSEWHERE = {PRUNING: {"stages", "drop_heads"}, STUDENT: {"then_kd"}, DISTILLATION: {"list_modes"}}
# The stages that read a group's options; sparsity training looks ahead to the cut. The first is the one to name.
_READERS = {SPARSE: ("sparse",), PRUNING: ("prune", "sparse"), STUDENT: ("student",), DISTILLATION: ("student",)}
_HINTS = {
    "student": "--then-kd adds it",
    "prune": "--stages ...,prune adds it",
    "sparse": "--stages sparse,... adds it",
}


def check_used(config: PruneConfig, stages: Sequence[str]) -> None:
    """Name the options of the command line that only a stage reads which the run does not have.

    Raises:
        UserError: a teacher without a student: whoever names one waits for a student that never comes.
    """
    if config.resume:  # said when the run began
        return
    idle: dict[str, list[str]] = {}
    known = options(PruneConfig)
    for key in sorted(_from_command_line(config)):
        group = known[key].metadata["group"]
        if group not in _READERS or key in _ELSEWHERE.get(group, ()):
            continue
        readers = _READERS[group]
        if key == "finetune_lr0" and config.rounds > 1:
            readers = (*readers, "prune")  # of the trainings between two cuts
        if not set(readers) & set(stages):
            idle.setdefault(readers[0], []).append(known[key].flag)
    teacher = [flag for flag in idle.get("student", ()) if flag in ("--t_cfg", "--t_weights")]
    if teacher:
        raise UserError(
            f"{' and '.join(teacher)}: the run has no student that could learn from a teacher (its stages: "
            f"{', '.join(stages)})",
            todo="add --then-kd, or leave the teacher out",
        )
    for stage, flags in idle.items():
        log.warning("not used: %s; the run has no stage '%s' (%s)", ", ".join(flags), stage, _HINTS[stage])


def _from_command_line(config: PruneConfig) -> set[str]:
    """The options that differ from what defaults and ``--hyp`` say: a recipe may hold more than a run needs."""
    recipe = from_dict(PruneConfig, read_yaml(PruneConfig, find_hyp(config.hyp)) if config.hyp else {})
    before = to_dict(recipe)
    return {key for key, value in to_dict(config).items() if value != before[key]}


def check_trained(config: PruneConfig, stages: Collection[str]) -> None:
    """Say where random weights take the place of a trained network.

    It may be meant (a study of shapes, sparsity training from the start), so the run goes on.
    """
    if config.weights or "baseline" in stages or config.resume:
        return
    told = []
    if "sparse" in stages:
        told.append("sparsity training begins with them")
    elif "prune" in stages:
        told.append("the cut takes channels at random, and what is left detects nothing")
    if "student" in stages and not (config.t_cfg or config.t_weights) and config.distil.modes():
        told.append("the student's teacher is untrained")
    if told:
        log.warning(
            "the weights of %s are random, for there is neither --weights nor a baseline stage: %s. Give "
            "--weights, or --stages baseline,...",
            config.cfg,
            "; ".join(told),
        )


def check_target(config: PruneConfig, candidates: Candidates, stages: Collection[str]) -> None:
    """Warn where the cut will take clearly more channels than ``--target`` lets sparsity training silence.

    Args:
        candidates: of the first network, by the plan of the first cut; a cut that has to be measured tells
            nothing beforehand.
    """
    if "sparse" not in stages or "prune" not in stages or config.sparsity != "auto" or not config.target:
        return
    if config.plan.measured or not config.plan.cuts_channels:
        return
    share = cut_share(candidates)
    if share > config.target + SHARE_KNOWN_TO:
        log.warning(
            "--target %g silences fewer channels than --prune %s takes, which is about %.2f of those that can "
            "go: the rest is cut while it is still at work, and that costs mAP. --target 0, the default, goes as "
            "far as the cut",
            config.target,
            config.budget,
            share,
        )


def cut_share(candidates: Candidates) -> float:
    """The share of prunable BatchNorm channels that the wanted cut takes, those of removed blocks aside."""
    variant, selection = candidates.choose()
    free = (
        [(ids, variant.selector.graph.prunable(ids)) for ids in variant.graph.norms.values()]
        if variant.selector is not None
        else []
    )
    able = sum(int(mask.sum()) for _, mask in free)
    gone = sum(int(np.count_nonzero(~selection.keep[ids[mask]])) for ids, mask in free)
    return gone / able if able else 0.0
