"""Fine-tune a thin student under a fat teacher.

The student learns from the labels as always; the teacher's terms (--kd) are added to the detection loss. The teacher's
mAP is measured and printed before the first step, the student's beside it after every epoch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import models
from common.errors import UserError, run_cleanly
from common.log import log, show_log
from data import DataSpec, choose_anchors, load_spec
from distill import KDConfig, KDObjective, Teacher
from distill.modes import describe_modes
from engine import Tracker, checkpoints, distributed, evaluate
from engine.config import TrainConfig, option, parse_config, to_dict
from engine.evaluate import Score
from engine.objective import DetectionObjective
from engine.rundir import ARGS, BEST, find_run, make_run_dir
from engine.seams import Hooks
from engine.trainer import Trainer
from export.latency import measure
from export.report import Row, text_table, verdict, write_report
from models.network import Network

EPILOG = """examples:
  python finetune_kd.py --cfg thin.cfg --weights thin.weights --t_cfg fat.cfg --t_weights fat.weights --data hand.yaml
  python finetune_kd.py --weights pruned.pt --t_weights baseline.pt --data hand.yaml --kd hinton:1,bounded:0.5
  python finetune_kd.py --weights pruned.pt --data hand.yaml --kd none       plain fine-tuning, to compare with
  python finetune_kd.py --resume runs/finetune_kd/exp                        go on where it was stopped
"""
DISTILLATION = "distillation"


@dataclass
class DistilConfig(TrainConfig):
    """Every option of a fine-tune under a teacher."""

    t_cfg: str = option(
        "", "the teacher's .cfg; a .pt of ours brings its own", group=DISTILLATION, metavar="FILE", flags=("--t_cfg",)
    )
    t_weights: str = option(
        "", "the teacher's trained weights", group=DISTILLATION, metavar="FILE", flags=("--t_weights",)
    )
    list_modes: bool = option(False, "show the KD terms, their papers and weights, and exit", group=DISTILLATION)
    distil: KDConfig = field(default_factory=KDConfig, metadata={"group": DISTILLATION})


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tune leaves behind.

    Attributes:
        run: its folder.
        student: the best student by val mAP50-95, as in `weights/best.pt`.
        teacher: the teacher, or None.
        scores: "start" (the student before the first step), "student", "teacher" -> split ("val", "test") -> score;
            "start" has "val" only.
    """

    run: Path
    student: Network
    teacher: Teacher | None
    scores: dict[str, dict[str, Score]]


def start_run(config: TrainConfig, kind: str) -> Path:
    """The run's folder with its `args.yaml`: a new one, or the one `--resume` names. Joins a distributed run first."""
    distributed.start(config.device)
    if config.resume:
        return find_run(config.resume, config.project)
    run = None
    if distributed.is_main():
        run = make_run_dir(config.project, kind, config.name, exist_ok=config.exist_ok)
        config.save(run / ARGS)
    return distributed.broadcast(run)


def load_network(config: TrainConfig, names: Sequence[str]) -> Network:
    """The network of ``--cfg`` and ``--weights``, its heads made for `names`; a `.pt` may stand for both."""
    if not config.cfg and not config.weights:
        raise UserError("there is no network", todo="--weights thin.pt, or --cfg thin.cfg --weights thin.weights")
    if config.cfg:
        return models.load(config.cfg, weights=config.weights or None, names=names)
    return models.load(config.weights, names=names)


def train_network(
    network: Network,
    spec: DataSpec,
    config: TrainConfig,
    run: Path,
    *,
    kind: str,
    objective: DetectionObjective | None = None,
    hooks: Sequence[Hooks] = (),
    tracker: Tracker | None = None,
    eval_extra: Callable[[dict[str, float]], dict[str, float]] | None = None,
) -> Network:
    """Train one stage in its own folder, or go on with it where it stopped; the best network by val mAP50-95."""
    done = checkpoints.finished(run) if config.resume else None
    if done is None:
        objective = objective or DetectionObjective(network, config.loss)
        trainer = Trainer(objective, spec, config, run, hooks=hooks, tracker=tracker, kind=kind, eval_extra=eval_extra)
        if config.resume:
            trainer.resume()
        done = trainer.fit()
    distributed.barrier()
    return models.load(done.best)


def finetune(
    config: DistilConfig, run: Path, *, student: Network | None = None, teacher: Network | None = None
) -> FinetuneResult:
    """Fine-tune under the teacher in the folder `run`, or go on there with ``--resume``; then score, draw and report.

    Args:
        student, teacher: where they are already in memory; without, from the files `config` names.
    """
    spec = load_spec(config.data, single_cls=config.single_cls)
    student = student or load_network(config, spec.names)
    if config.anchors == "fit":  # auto keeps them: the student's weights, and the teacher's, were trained for them
        anchors, reason = choose_anchors("fit", spec, student.specs, config.input_size, config.seed)
        student = student.with_anchors(anchors) if anchors is not None else student
        log.info("%s", reason)
    guide = _teacher(config, student, teacher)
    objective = KDObjective(student, guide, config.loss, config.distil)
    tracker = Tracker(
        run, to_dict(config), config.wandb if distributed.is_main() else "off", name=run.name, kind="student"
    )
    device = distributed.start(config.device)
    scores: dict[str, dict[str, Score]] = {"start": _scores(student.to(device), spec, config, splits=("val",))}
    if guide is not None:
        scores["teacher"] = _scores(guide.to(device).network, spec, config, run / "teacher")
        student.meta["teacher"] = {"source": guide.source, "sha256": guide.fingerprint}
    _announce(scores)
    reference = scores.get("teacher", {}).get("val")

    def beside_teacher(row: dict[str, float]) -> dict[str, float]:
        found = {name: row[f"val/{name}"] for name in ("mAP50-95", "mAP50") if f"val/{name}" in row}
        values = {f"student/{name}": value for name, value in found.items()}
        if reference is not None and found:
            theirs = reference.as_dict()
            values |= {f"teacher/{name}": theirs[name] for name in found}
            values |= {"gap": theirs["mAP50-95"] - found["mAP50-95"], "gap/mAP50": theirs["mAP50"] - found["mAP50"]}
        return values

    student = train_network(
        student, spec, config, run, kind="student", objective=objective, tracker=tracker, eval_extra=beside_teacher
    ).to(device)
    scores["student"] = _scores(student, spec, config, run / "student")
    result = FinetuneResult(run, student, guide, scores)
    if distributed.is_main():
        print(summarise(result, config))
        _track(result, tracker)
    tracker.finish()
    return result


def _teacher(config: DistilConfig, student: Network, network: Network | None) -> Teacher | None:
    wanted = bool(config.t_cfg or config.t_weights or network is not None)
    if not wanted and config.distil.modes():
        raise UserError(
            f"--kd {config.distil.kd} needs a teacher",
            todo="add --t_weights FAT.pt, or --kd none for plain fine-tuning",
        )
    if network is not None:
        return Teacher(network, student)
    return Teacher.load(config.t_cfg, config.t_weights, student) if wanted else None


def _scores(
    network: Network,
    spec: DataSpec,
    config: TrainConfig,
    folder: Path | None = None,
    splits: Sequence[str] = ("val", "test"),
) -> dict[str, Score]:
    """Split -> score, for the splits the data set has; with figures in `folder`. Rank 0 scores for all."""
    if not distributed.is_main():
        return distributed.broadcast(None)
    batch = config.batch_size if config.batch_size > 0 else 16
    found = {
        split: evaluate(
            network, spec, split, config.input_size, batch, workers=config.workers, plots_dir=folder and folder / split
        )
        for split in splits
        if spec.splits.get(split)
    }
    return distributed.broadcast(found)


def _announce(scores: dict[str, dict[str, Score]]) -> None:
    """Before the first step: a teacher that was silently not loaded shows here."""
    if not distributed.is_main():
        return
    start = scores["start"]["val"]
    if "teacher" in scores:
        teacher = scores["teacher"]["val"]
        print(f"teacher on val: mAP50-95 {teacher.map50_95:.4f}, mAP50 {teacher.map50:.4f}")
        if teacher.map50_95 < start.map50_95:
            log.warning(
                "the teacher (mAP50-95 %.4f) is worse than the untrained student (%.4f): it has little to teach",
                teacher.map50_95,
                start.map50_95,
            )
    print(f"student on val, before the first step: mAP50-95 {start.map50_95:.4f}, mAP50 {start.map50:.4f}")


def summarise(result: FinetuneResult, config: TrainConfig) -> str:
    """Write ``report.html``; the table and the verdict line for the terminal."""
    split = "test" if "test" in result.scores["student"] else "val"
    networks = {"student": result.student}
    if result.teacher is not None:
        networks = {"teacher": result.teacher.network, **networks}
    latency = measure(networks, config.input_size)
    rows = [
        Row(
            name,
            models.parameters(net),
            models.megabytes(net),
            models.macs(net, config.input_size),
            latency[name].median_ms,
            result.scores[name][split].map50,
            result.scores[name][split].map50_95,
        )
        for name, net in networks.items()
    ]
    line = verdict(rows[0], rows[-1], split) if len(rows) > 1 else ""
    folder = result.run / "student" / split
    write_report(
        result.run,
        {
            "title": f"Student {result.run.name}",
            "verdict": line,
            "rows": rows,
            "split": split,
            "size": config.input_size,
            "baseline": rows[0].name,
            "results": {"fine-tuning": result.run / "results.csv"},
            "figures": [(path.stem.replace("_", " "), path) for path in sorted(folder.glob("*.png"))],
            "pictures": [(path.stem.replace("_", " "), path) for path in sorted(folder.glob("*.jpg"))],
            "settings": {"student": to_dict(config)},
            "lineage": result.student.lineage,
        },
    )
    return "\n".join(filter(None, [text_table(rows), line, f"best student: {result.run / BEST}"]))


def _track(result: FinetuneResult, tracker: Tracker) -> None:
    """The run's last words: scores, prediction pictures, and the best student with the teacher in its lineage."""
    for name, splits in result.scores.items():
        for split, score in splits.items():
            tracker.log_summary({f"{name}/{split}/{key}": value for key, value in score.as_dict().items()})
    pictures = sorted((result.run / "student").glob("*/*.jpg"))
    tracker.log_pictures("predictions", [(f"{path.parent.name}: {path.stem}", path) for path in pictures])
    ancestors = [{"kind": step.get("kind"), "sha256": step["sha256"]} for step in result.student.lineage]
    metadata = {"teacher": result.student.meta.get("teacher"), "lineage": ancestors}
    tracker.log_artifact(result.run / BEST, f"{result.run.name}-student", metadata=metadata)


def main() -> int:
    show_log()
    config = parse_config(DistilConfig, prog="finetune_kd.py", description=__doc__ or "", epilog=EPILOG)
    if config.list_modes:
        print(describe_modes())
        return 0
    try:
        finetune(config, start_run(config, "finetune_kd"))
    finally:
        distributed.finish()
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
