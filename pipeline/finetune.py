"""Training one stage, and the student's stage: fine-tuning under a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

import models
from common.errors import UserError
from common.log import log
from data import DataSpec, check, choose_anchors, load_spec
from distill import KDConfig, KDObjective, Teacher
from engine import Tracker, checkpoints, distributed
from engine.config import TrainConfig, option, to_dict
from engine.objective import DetectionObjective
from engine.rundir import ARGS, BEST, find_run, make_run_dir
from engine.seams import Hooks
from engine.trainer import Trainer
from export.report import text_table, verdict, write_report
from export.results import Scores, pictures, scores, shown_split, table
from models.network import Network
from pipeline.show import side_by_side

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

    def __post_init__(self) -> None:
        self.distil.modes()  # refuses a term that nobody knows


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
    scores: dict[str, Scores]


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


def load_network(config: TrainConfig, names: Sequence[str] | None) -> Network:
    """The network of ``--cfg`` and ``--weights``; a `.pt` may stand for both.

    Args:
        names: class names its heads are made for; None leaves them as they are.
    """
    torch.manual_seed(config.seed)  # whatever no file fills is drawn
    if not config.cfg and not config.weights:
        raise UserError("there is no network", todo="--weights thin.pt, or --cfg thin.cfg --weights thin.weights")
    if config.cfg:
        return models.load(config.cfg, weights=config.weights or None, names=names)
    return models.load(config.weights, names=names)


def check_test(spec: DataSpec) -> None:
    """Read the test split's labels now: nobody else does before the last scores, hours later.

    Raises:
        UserError: they have errors.
    """
    if spec.splits.get("test"):
        check(spec, ["test"]).announce()


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
    config: DistilConfig,
    run: Path,
    *,
    student: Network | None = None,
    teacher: Network | None = None,
    kind: str = "student",
    group: str = "",
) -> FinetuneResult:
    """Fine-tune under the teacher in the folder `run`, or go on there with ``--resume``; then score and draw.

    Args:
        student, teacher: where they are already in memory; without, from the files `config` names.
        kind: what the stage is called in its checkpoints and in W&B.
        group: the name of the run this is a stage of, under which W&B groups the stages.
    """
    spec = load_spec(config.data, single_cls=config.single_cls)
    student = student or load_network(config, spec.names)
    if config.anchors == "fit":  # auto keeps them: the student's weights, and the teacher's, were trained for them
        anchors, reason = choose_anchors("fit", spec, student.specs, config.input_size, config.seed)
        student = student.with_anchors(anchors) if anchors is not None else student
        log.info("%s", reason)
    guide = _teacher(config, student, teacher)
    objective = KDObjective(student, guide, config.loss, config.distil)
    tracker = stage_tracker(config, run, kind, group)
    found: dict[str, Scores] = {"start": scores(student, spec, config, splits=("val",))}
    if guide is not None:
        guide.to(distributed.start(config.device))  # on every rank; mixed precision is set up on the device
        found["teacher"] = scores(guide.network, spec, config, run / "teacher")
        student.meta["teacher"] = {"source": guide.source, "sha256": guide.fingerprint}
    _announce(found)
    reference = found.get("teacher", {}).get("val")

    def beside_teacher(row: dict[str, float]) -> dict[str, float]:
        mine = {name: row[f"val/{name}"] for name in ("mAP50-95", "mAP50") if f"val/{name}" in row}
        values = {f"student/{name}": value for name, value in mine.items()}
        if reference is not None and mine:
            theirs = reference.as_dict()
            values |= {f"teacher/{name}": theirs[name] for name in mine}
            values |= {"gap": theirs["mAP50-95"] - mine["mAP50-95"], "gap/mAP50": theirs["mAP50"] - mine["mAP50"]}
        return values

    student = train_network(
        student, spec, config, run, kind=kind, objective=objective, tracker=tracker, eval_extra=beside_teacher
    )
    found["student"] = scores(student, spec, config, run / "student")
    result = FinetuneResult(run, student, guide, found)
    if distributed.is_main():
        _track(result, tracker, f"{group or run.name}-{kind}")
    tracker.finish()
    return result


def stage_tracker(config: TrainConfig, folder: Path, kind: str, group: str = "") -> Tracker:
    """The W&B run of a stage; the stages of a run share its name as their group. Rank 0 records for all."""
    name = f"{group}-{kind}" if group else folder.name
    mode = config.wandb if distributed.is_main() else "off"
    return Tracker(folder, to_dict(config), mode, group=group or None, name=name, kind=kind)


def _teacher(config: DistilConfig, student: Network, network: Network | None) -> Teacher | None:
    wanted = bool(config.t_cfg or config.t_weights or network is not None)
    if not wanted and config.distil.modes():
        raise UserError(
            f"--kd {config.distil.kd} needs a teacher",
            todo="add --t_weights FAT.pt, or --kd none for plain fine-tuning",
        )
    if network is not None:
        return Teacher(network, student, network.cfg.source)
    return Teacher.load(config.t_cfg, config.t_weights, student) if wanted else None


def _announce(found: dict[str, Scores]) -> None:
    """Before the first step: a teacher that was silently not loaded shows here."""
    start = found["start"]["val"]
    if "teacher" in found:
        teacher = found["teacher"]["val"]
        log.info("teacher on val: mAP50-95 %.4f, mAP50 %.4f", teacher.map50_95, teacher.map50)
        if teacher.map50_95 < start.map50_95:
            log.warning(
                "the teacher (mAP50-95 %.4f) is worse than the untrained student (%.4f): it has little to teach",
                teacher.map50_95,
                start.map50_95,
            )
    log.info("student on val, before the first step: mAP50-95 %.4f, mAP50 %.4f", start.map50_95, start.map50)


def report(result: FinetuneResult, config: TrainConfig) -> str:
    """Write the run's ``report.html``; the table and the verdict line for the terminal."""
    spec = load_spec(config.data, single_cls=config.single_cls)
    split = shown_split(spec)
    networks = {"student": result.student}
    if result.teacher is not None:
        networks = {"teacher": result.teacher.network, **networks}
    rows = table(networks, {name: result.scores[name][split] for name in networks}, config.input_size)
    line = verdict(rows[0], rows[-1], split) if len(rows) > 1 else ""
    figures, shown = pictures(result.run / "student" / split)
    if len(networks) > 1:
        shown = side_by_side(networks, spec, split, config.input_size)
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
            "figures": figures,
            "pictures": shown,
            "settings": {"student": to_dict(config)},
            "lineage": result.student.lineage,
        },
    )
    return "\n".join(filter(None, [text_table(rows), line, f"best student: {result.run / BEST}"]))


def _track(result: FinetuneResult, tracker: Tracker, artifact: str) -> None:
    """The run's last words: scores, prediction pictures, and the best student with the teacher in its lineage."""
    for name, splits in result.scores.items():
        for split, score in splits.items():
            tracker.log_summary({f"{name}/{split}/{key}": value for key, value in score.as_dict().items()})
    for path in sorted((result.run / "student").glob("*/*.jpg")):
        tracker.log_pictures(f"{path.stem}/{path.parent.name}", [(path.parent.name, path)])
    ancestors = [{"kind": step.get("kind"), "sha256": step["sha256"]} for step in result.student.lineage]
    metadata = {"teacher": result.student.meta.get("teacher"), "lineage": ancestors}
    tracker.log_artifact(result.run / BEST, artifact, metadata=metadata)
