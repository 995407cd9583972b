"""What a training keeps in `weights/last.pt` to go on after a kill, and `weights/best.pt`.

Both are ordinary checkpoints of the averaged weights; `last.pt` holds the state of the training beside them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

import models
from common.errors import UserError
from common.rundir import BEST, LAST
from data import DataSpec
from models.content import check_parts, need_state, need_type
from models.network import Network

NAMES = "names"  # no split is called so


@dataclass
class Progress:
    """Where a training stands; plain data.

    Attributes:
        epoch: how many epochs are done; people are told `epoch + 1`, the number of the current one.
        batch: batches of this epoch that are done.
        step: optimiser steps done; every random choice of a step and its learning rate follow from it.
        seen: pictures seen, as Darknet counts them.
        sums: sums over this epoch's pictures of what is logged, by name.
        pictures: pictures the sums are over.
        history: the rows of `results.csv`.
        best_score: the best val mAP50-95, below 0 before the first validation that may be the best.
        best_epoch: how many epochs were done before its epoch; until then those before the last epoch.
        finished: the training has ended, by its epochs or by `--patience`.
        seconds: training time so far.
        skipped: steps in a row, up to now, whose losses were no numbers.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    pictures: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_score: float = -1.0
    best_epoch: int = 0
    finished: bool = False
    seconds: float = 0.0
    skipped: int = 0

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progress:
        """What a checkpoint holds of it. Rows count epochs from 1; those of older runs counted from 0."""
        rows = [{**row, "epoch": number} for number, row in enumerate(state["history"], start=1)]
        return cls(**{**state, "history": rows})

    def means(self) -> dict[str, float]:
        """The epoch's running means."""
        return {name: total / max(self.pictures, 1e-9) for name, total in self.sums.items()}


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves behind.

    Attributes:
        best, last: checkpoints of the averaged weights; `best` by val mAP50-95. It is `last` where no epoch may be the
            best (`Hooks.may_be_best`): sparsity training that missed its target.
        best_score: that mAP50-95, below 0 if there is none.
        history: a row of names and numbers per epoch, as in `results.csv`.
    """

    best: Path
    last: Path
    best_score: float
    history: list[dict[str, float]]


TRAINING: dict[str, Any] = {
    "progress": dict,
    "batch": int,
    "network": dict,
    "ema": dict,
    "adapters": dict,
    "optimizer": dict,
    "precision": dict,
    "hooks": list,
}
"""What "training" has to hold."""
_NUMBER = (int, float)
PROGRESS = {
    each.name: {"int": int, "float": _NUMBER, "bool": bool}.get(str(each.type), list if "list" in each.type else dict)
    for each in fields(Progress)
}


def save_last(run_dir: Path, averaged: Network, kind: str, progress: Progress, state: dict[str, Any]) -> None:
    """Write `last.pt`: the averaged weights, and under "training" everything a resumed training needs."""
    training = {"kind": kind, "progress": asdict(progress), **state}
    models.save(averaged, run_dir / LAST, extra={"training": training})


def save_best(run_dir: Path, averaged: Network, kind: str, progress: Progress, metrics: dict[str, float]) -> None:
    """Write `best.pt`: the averaged weights with the score they reached."""
    extra = {"kind": kind, "epoch": progress.epoch + 1, "step": progress.step, "metrics": metrics}
    models.save(averaged, run_dir / BEST, extra=extra)


def read_last(run_dir: str | Path) -> dict[str, Any] | None:
    """The "training" part of a run's `last.pt`; None if there is none yet.

    Raises:
        UserError: the file is no checkpoint of a training.
    """
    path = Path(run_dir) / LAST
    if not path.is_file():
        return None
    training: dict[str, Any] | None = models.read_checkpoint(path)["extra"].get("training")
    if training is None:
        raise UserError("holds weights, no state of a training", where=path, todo=f"start anew with --weights {path}")
    todo = f"take another checkpoint, or start anew with --weights {path}"
    need_type(training, dict, "its state of a training is", path, todo)
    check_parts(training, TRAINING, "its state of a training", path, todo)
    check_parts(training["progress"], PROGRESS, "its progress", path, todo)
    for row in training["progress"]["history"]:
        need_type(row, dict, "its history has a row", path, todo)
    for part in ("network", "ema", "adapters"):
        need_state(training[part], f"its {part!r}", path)
    for hook in training["hooks"]:
        need_type(hook, dict, "it has a state of a hook", path, todo)
    return training


def pictures_of(spec: DataSpec) -> dict[str, Any]:
    """What a run remembers of its data: split -> number of pictures, and a digest of their names and folders' names;
    and the names of the classes, in order."""
    found: dict[str, Any] = {
        split: {
            "count": len(paths),
            "sha256": hashlib.sha256(
                "\n".join(f"{path.parent.name}/{path.name}" for path in paths).encode(errors="surrogateescape")
            ).hexdigest(),
        }
        for split, paths in spec.splits.items()
        if paths
    }
    return {**found, NAMES: list(spec.names)}


def check_pictures(kept: Any, spec: DataSpec, where: Path) -> None:
    """Refuse to go on with other pictures than those a run began with.

    Args:
        kept: what `pictures_of` said then; anything else was written by an earlier version, and nothing is known.
        where: the file that says so.

    Raises:
        UserError: with the numbers then and now.
    """
    if not isinstance(kept, dict):
        return
    kept, now = dict(kept), pictures_of(spec)
    before, names = kept.pop(NAMES, None), now.pop(NAMES)
    if before is not None and before != names:
        raise UserError(
            f"the classes are not those this run began with: {', '.join(map(str, before))[:200]} then, "
            f"{', '.join(names)[:200]} now ({spec.source})",
            where=where,
            todo="write them as they were, or start a new run with --weights and what this one has so far",
        )
    changed = [split for split in {**kept, **now} if kept.get(split) != now.get(split)]
    if not changed:
        return
    counts = ((split, *((each.get(split) or {}).get("count", 0) for each in (kept, now))) for split in changed)
    told = ", ".join(
        f"{split} had {then} pictures and has {here}" if then != here else f"{split} has other {here} pictures"
        for split, then, here in counts
    )
    raise UserError(
        f"the data set is not the one this run began with: {told} ({spec.source})",
        where=where,
        todo="bring the pictures back, or start a new run with --weights and what this one has so far",
    )


def check_labels(kept: str | None, now: str, spec: DataSpec, where: Path) -> None:
    """Refuse to go on with other labels than those a run began with: `Scan.digest` then (earlier versions kept none)
    and now.

    Raises:
        UserError: they differ.
    """
    if kept not in (None, now):
        raise UserError(
            f"the labels, or the sizes, of the pictures to train on have changed since this run began ({spec.source})",
            where=where,
            todo="bring them back as they were, or start a new run with --weights and what this one has so far",
        )


def batch_of(run_dir: str | Path) -> int:
    """Pictures a batch, over all processes, of the training that `last.pt` is of; 0 if nothing is known."""
    return int((read_last(run_dir) or {}).get("batch", 0))


def finished(run_dir: str | Path) -> TrainResult | None:
    """The result of a training that has ended, so that a script of several stages can skip it; else None."""
    return ended(Path(run_dir), read_last(run_dir))


def ended(run_dir: Path, training: dict[str, Any] | None) -> TrainResult | None:
    """As `finished`, of what `read_last` gave."""
    if training is None or not training["progress"]["finished"]:
        return None
    return result(run_dir, Progress.of(training["progress"]))


def result(run_dir: Path, progress: Progress) -> TrainResult:
    """Where a training has got to."""
    best = BEST if progress.best_score >= 0 else LAST
    return TrainResult(run_dir / best, run_dir / LAST, progress.best_score, progress.history)


def adapters_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of an objective's state, what is not the network: adapters, balancers."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("network.")}
