"""How long the networks of a run were trained, and whether the baseline had come to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.log import log
from engine import checkpoints
from engine.trainer import FITNESS
from pipeline.prune_options import PruneConfig

GAIN = 0.005
"""mAP50-95; a smaller one in the last quarter of a training is chance, or nearly nothing."""
LATE = 0.75

LONGER = "longer"
"""The folder of the baseline of ``--equal-baseline``."""


def longer_row(first: str) -> str:
    """What the table calls the network `first` once it was trained on."""
    return f"{first}, trained on"


def progress_of(folder: Path) -> checkpoints.Progress:
    """How far the training in a folder came, also one that `--patience` ended; nowhere, where there is none.

    It reads a `last.pt` as a whole, which is several times as large as its network.
    """
    state = checkpoints.read_last(folder)
    return checkpoints.Progress.of(state["progress"]) if state else checkpoints.Progress()


def improving(history: Sequence[Mapping[str, float]]) -> str:
    """In one sentence, that a training was still improving when it ended; empty where it was not, or nobody can tell.

    It was, if the best val mAP50-95 of the last quarter of its epochs is above the best before by more than `GAIN`.

    Args:
        history: the rows of its `results.csv`.
    """
    scores = [(int(row["epoch"]), row[FITNESS]) for row in history if FITNESS in row]
    start = len(history) * LATE
    before = [score for epoch, score in scores if epoch <= start]
    late = [score for epoch, score in scores if epoch > start]
    if not before or not late or max(late) - max(before) <= GAIN:
        return ""
    return (
        "The baseline was still improving when its training ended: its best val mAP50-95 rose from "
        f"{max(before):.3f} to {max(late):.3f} in the last quarter of its {len(history)} epochs."
    )


def spent(first: str, before: Sequence[int], last: str, after: Sequence[int]) -> str:
    """How long the two networks of a verdict were trained, in one sentence."""
    parts = f" ({' + '.join(map(str, after))})" if len(after) > 1 else ""
    return f"Epochs of training in this run: {first} {sum(before)}, {last} {sum(after)}{parts}."


def epochs_after_baseline(config: PruneConfig, stages: Sequence[str]) -> int:
    """The epochs that the student's line is planned to have beyond the baseline's."""
    between = (config.rounds - 1) * config.recovery_epochs if "prune" in stages else 0
    sparse = config.sparse_epochs or config.epochs if "sparse" in stages else 0
    student = config.finetune_epochs or config.epochs if "student" in stages else 0
    return sparse + between + student


def say_equal(config: PruneConfig, stages: Sequence[str]) -> None:
    """What ``--equal-baseline`` costs, before anything is trained."""
    extra = epochs_after_baseline(config, stages)
    own = config.epochs if "baseline" in stages else 0
    log.info(
        "--equal-baseline: the uncut baseline is trained on for %d epochs, as many as all stages after it have; the "
        "run has %d epochs instead of %d, and those of a thin student are the cheaper ones",
        extra,
        own + 2 * extra,
        own + extra,
    )
