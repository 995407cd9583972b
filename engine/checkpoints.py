"""What a training keeps in `weights/last.pt` to go on after a kill, and `weights/best.pt`.

Both are ordinary checkpoints of the averaged weights; `last.pt` holds the state of the training beside them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

import models
from common.errors import UserError
from common.log import log
from common.reading import lines_of, read_text
from common.rundir import BEST, LAST, MARK, NETWORKS, RESULTS, check_mark, mark, run_of
from data import DataSpec
from data.contents import labels_digest, last_changed, pictures_digest
from models.content import PIXEL_RANGE, TRAINED_AT, check_parts, misfit, need_state, need_type, size_text
from models.network import Network
from models.weights import need_sound

NAMES, READING = "names", "reading"  # no split is called so
MADE_AGAIN = "delete it, and the run makes it again"


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


def read_with(spec: DataSpec, size: tuple[int, int]) -> dict[str, Any]:
    """What a network's `meta` says of how the pictures it learnt from were read, and brought to which (H, W)."""
    return {PIXEL_RANGE: list(spec.pixel_range) if spec.pixel_range else None, TRAINED_AT: size_text(size)}


def save_last(run_dir: Path, averaged: Network, kind: str, progress: Progress, state: dict[str, Any]) -> None:
    """Write `last.pt`: the averaged weights, and under "training" everything a resumed training needs."""
    training = {"kind": kind, "progress": asdict(progress), **state}
    models.save(averaged, run_dir / LAST, extra={MARK: mark(run_dir / LAST), "training": training})


def save_best(run_dir: Path, averaged: Network, kind: str, progress: Progress, metrics: dict[str, float]) -> None:
    """Write `best.pt`: the averaged weights with the score they reached."""
    extra = {MARK: mark(run_dir / BEST), "kind": kind, "epoch": progress.epoch + 1, "step": progress.step}
    extra["metrics"] = metrics
    models.save(averaged, run_dir / BEST, extra=extra)


def read_own(path: Path, remade: str = "") -> dict[str, Any]:
    """The content of a checkpoint that the run left itself, read to go on with the run.

    Args:
        remade: what to delete so that the run makes it again; "": it cannot.

    Raises:
        UserError: it is damaged or is not this run's (`common.rundir.check_mark`); with what is left.
    """
    run = run_of(path)
    again = f"--resume {run or path.parent}"
    todo = (
        f"put a copy of it back, or {remade}; then {again}"
        if remade
        else (f"put a copy of it back, then {again}; or start a new run")
    )
    try:
        content = models.read_checkpoint(path)
    except UserError as error:
        problem = f"{error.problem}. This file of the run is lost{_left(path, run)}"
        raise UserError(problem, where=path, todo=todo) from error
    check_mark(content["extra"].get(MARK), path, todo)
    return content


def own_network(path: Path, remade: str = "") -> Network:
    """The network in such a checkpoint."""
    return models.from_checkpoint(read_own(path, remade), path)


def _left(path: Path, run: Path | None) -> str:
    """Which networks a run still has beside `path`, as the end of a sentence."""
    others = [run / name for name in NETWORKS if run / name != path] if run else []
    names = [str(other.relative_to(run)) for other in others if run and other.is_file() and _sound(other)]
    return f"; {', '.join(names)} {'are' if len(names) > 1 else 'is'} still there" if names else ""


def _sound(path: Path) -> bool:
    try:
        models.read_checkpoint(path)
    except UserError:
        return False
    return True


def anew(run_dir: str | Path) -> str:
    """What to delete so that the training in a folder is done again."""
    return f"delete {Path(run_dir) / LAST} and {Path(run_dir) / RESULTS}, to train this stage again from its beginning"


def check_begun(run_dir: Path) -> None:
    """Refuse to begin a training anew without a word where one has been going on.

    Raises:
        UserError: two epochs or more are in `results.csv`, and there is no `last.pt`.
    """
    table = run_dir / RESULTS
    lines = lines_of(read_text(table, lossy=True)) if table.is_file() else []
    rows = sum(bool(line.strip()) for line in lines[1:])
    if rows > 1:
        run = run_of(run_dir / LAST)
        raise UserError(
            f"is not there, and {RESULTS} tells of {rows} epochs: the state of this training is lost"
            + _left(run_dir / LAST, run),
            where=run_dir / LAST,
            todo=f"put a copy of it back, or delete {run_dir / RESULTS}, to train this stage again from its beginning; "
            f"then go on with --resume {run or run_dir}",
        )
    if rows:
        log.info("%s: killed before its first %s was written: it begins anew", run_dir, LAST.name)


def read_last(run_dir: str | Path) -> dict[str, Any] | None:
    """The "training" part of a run's `last.pt`; None if there is none yet.

    Raises:
        UserError: the file is damaged, no checkpoint of a training, or another run's.
    """
    path = Path(run_dir) / LAST
    if not os.path.lexists(path):
        return None
    training: dict[str, Any] | None = read_own(path, anew(run_dir))["extra"].get("training")
    if training is None:
        raise UserError("holds weights, no state of a training", where=path, todo=f"start anew with --weights {path}")
    todo = f"take another checkpoint; or {anew(run_dir)}"
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


def reading_of(spec: DataSpec) -> dict[str, Any]:
    """The keys of a data set's yaml by which the same files mean other pixels, boxes or scores, as JSON has them."""
    return {
        "max_det": spec.max_det,
        "pixel_range": list(spec.pixel_range) if spec.pixel_range else None,
        "kpt_shape": list(spec.keypoints) if spec.keypoints else None,
    }


def pictures_of(spec: DataSpec) -> dict[str, Any]:
    """What a run remembers of its data: split -> number of pictures, and digests of their names with their folders'
    names ("sha256"), of their contents and of their label files; the names of the classes, in order; `reading_of`."""
    found: dict[str, Any] = {
        split: {
            "count": len(paths),
            "sha256": hashlib.sha256(
                "\n".join(f"{path.parent.name}/{path.name}" for path in paths).encode(errors="surrogateescape")
            ).hexdigest(),
            "contents": pictures_digest(paths),
            "labels": labels_digest(paths),
        }
        for split, paths in spec.splits.items()
        if paths
    }
    return {**found, NAMES: list(spec.names), READING: reading_of(spec)}


def check_pictures(kept: Any, spec: DataSpec, where: Path) -> None:
    """Refuse to go on with other data than those a run began with.

    Args:
        kept: what `pictures_of` said then; what earlier versions did not keep is not known, and not compared.
        where: the file that says so.

    Raises:
        UserError: with what changed in each split.
    """
    if not isinstance(kept, dict):
        return
    kept, now = dict(kept), pictures_of(spec)
    before, names = kept.pop(NAMES, None), now.pop(NAMES)
    read, reading = kept.pop(READING, None), now.pop(READING)
    if before is not None and before != names:
        raise UserError(
            f"the classes are not those this run began with: {', '.join(map(str, before))[:200]} then, "
            f"{', '.join(names)[:200]} now ({spec.source})",
            where=where,
            todo="write them as they were, or start a new run with --weights and what this one has so far",
        )
    other = other_readings(read, reading)
    told = [f"`{key}` was {_key(read[key])} and is {_key(reading[key])}" for key in other]
    told += [_changed(split, kept.get(split) or {}, now.get(split) or {}, spec) for split in {**kept, **now}]
    if any(told):
        raise UserError(
            f"the data set is not the one this run began with: {'; '.join(filter(None, told))} ({spec.source})",
            where=where,
            todo="bring it back as it was, or start a new run with --weights and what this one has so far",
        )


def other_readings(then: Any, now: Any) -> list[str]:
    """The keys on which two `reading_of` differ; none is, where one is of an earlier version, which kept none."""
    if not isinstance(then, dict) or not isinstance(now, dict):
        return []
    return [key for key in now if key in then and then[key] != now[key]]


def _key(value: Any) -> str:
    return "not given" if value is None else str(value)[:80]


def _changed(split: str, then: dict[str, Any], now: dict[str, Any], spec: DataSpec) -> str:
    """What is not as it was in a split; "" where nothing is."""
    before, count = then.get("count", 0), now.get("count", 0)
    if before != count:
        return f"{split} had {before} pictures and has {count}"
    if then.get("sha256") != now.get("sha256"):
        return f"{split} has other {count} pictures"
    pictures = spec.splits.get(split, ())
    if then.get("contents") not in (None, now.get("contents")):
        return f"{split} has other pictures under the same names (written last: {last_changed(pictures)})"
    if then.get("labels") not in (None, now.get("labels")):
        return f"{split} has other labels (written last: {last_changed(pictures, labels=True)})"
    return ""


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


def check_start(kept: str | None, now: str, where: Path) -> None:
    """Refuse to go on with a training that began with other weights: fingerprints then (earlier versions kept none) and
    now. Whoever trains without a run's folder may build the network from `last.pt` itself.

    Raises:
        UserError: they differ.
    """
    if kept not in (None, now) and run_of(where):
        raise UserError(
            "is of a training that began with other weights than this one would: a file they come from (--weights, or "
            "an earlier stage's) has been replaced",
            where=where,
            todo=f"put that file back as it was; or {anew(where.parents[1])}",
        )


def check_weights(training: dict[str, Any], network: Network, where: Path) -> None:
    """Refuse weights that are no numbers, or not those of `network`.

    Raises:
        UserError: naming the first of them.
    """
    for part in ("network", "ema"):
        for name, tensor in training[part].items():
            need_sound(tensor, name, where)
        if wrong := misfit(network.state_dict(), training[part]):
            raise UserError(
                f"does not fit this training: {wrong}",
                where=where,
                todo=f"resume with the options the run was started with; or {anew(where.parents[1])}",
            )


def clear_older(run_dir: Path, begins: bool) -> None:
    """Delete what an older run has left in a folder that is used again.

    Args:
        begins: the training is at its first step; else only `best.pt` may be an older run's.
    """
    for name in (BEST, LAST, RESULTS) if begins else (BEST,):
        (run_dir / name).unlink(missing_ok=True)


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
