"""The student's stage: fine-tuning under a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from common.errors import UserError
from common.log import log
from common.rundir import BEST
from data import DataSpec, choose_anchors, load_spec
from data.labels import scan
from distill import KDObjective, Teacher
from distill.modes import USUAL_MODES
from distill.teacher import split_chain
from engine import Tracker, distributed
from engine.config import TrainConfig
from engine.evaluate import Score
from engine.progress import memory_used
from engine.seams import Hooks
from models.network import Network
from pipeline.begun import check_teacher, kd_off, said_before
from pipeline.crossfit import check_members, members_of_pictures
from pipeline.distil_options import DistilConfig
from pipeline.footage import FootageColumns, FootageFacts, check_footage, footage_of, gathered, uses_footage
from pipeline.measured import Mark
from pipeline.records import begun_record, compared, costed, lineage_records
from pipeline.show import training_pictures
from pipeline.spent import progress_of
from pipeline.stage import check_options, check_space, load_network, stage_tracker, train_network
from pipeline.unhelped import BEGAN, begun_with, start_mark, why_instead, worse_than_begun
from reporting.page import write_report
from reporting.record import kept_speeds
from reporting.report import Row, scored_on, text_table
from reporting.results import Scores, counted, footnote, interval_of, pictures, scores, shown_split, table
from reporting.speed import Speeds
from reporting.verdict import same_network, verdict

BY_HEART = 0.1  # mAP50-95 between train and val; docs/results.md, "Which KD mode helps?", has what lies on either side


Distil = TypeVar("Distil", bound=DistilConfig)


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tune leaves behind.

    Attributes:
        run: its folder.
        student: the best student by val mAP50-95, as in `weights/best.pt`.
        teacher: the teacher, or None.
        scores: "start" (the student before the first step), "student", "teacher" -> split ("val", "test") -> score;
            "start" has "val" only, "teacher" also "train", of a sample.
        reported: (KD term, what was wrong with it), see `distill.watch`.
        kd_off: why the teacher did not teach, "" where it did or there was none.
        footage: what pictures without labels it was taught on, if any.
    """

    run: Path
    student: Network
    teacher: Teacher | None
    scores: dict[str, Scores]
    reported: tuple[tuple[str, str], ...] = ()
    kd_off: str = ""
    footage: FootageFacts | None = None

    @property
    def note(self) -> str:
        """What the student's row of a table has to say."""
        return self.kd_off or (self.footage.note if self.footage else "")


def finetune(
    config: DistilConfig,
    run: Path,
    *,
    student: Network | None = None,
    teacher: Network | Sequence[Network] | None = None,
    kind: str = "student",
    group: str = "",
    name: str = "",
    known: Mapping[str, Scores] | None = None,
    figures: bool = True,
) -> FinetuneResult:
    """Fine-tune under the teacher in the folder `run`, or go on there with ``--resume``; then score and draw.

    Args:
        student, teacher: where they are already in memory; without, from the files `config` names.
        kind: what the stage is called in its checkpoints and in W&B.
        group: the name of the run this is a stage of, under which W&B groups the stages.
        name: what W&B calls it; by default `group` and `kind`.
        known: scores measured before ("start", "teacher"), which are neither measured nor announced again.
        figures: draw pictures and curves of the scored networks, and send the best student to W&B.
    """
    spec = load_spec(config.data, single_cls=config.single_cls)
    if known is None:
        check_footage(config)
    config = gathered(config, spec, run)
    student = student or load_network(config, spec.names)
    if config.anchors == "fit":  # auto keeps them: the student's weights, and the teacher's, were trained for them
        anchors, reason = choose_anchors(
            "fit", spec, student.specs, config.input_size, config.seed, resize=student.resize
        )
        student = student.with_anchors(anchors) if anchors is not None else student
        log.info("%s", reason)
    check_options(student, config)
    check_space(student, config, run, 1)
    guide = make_teacher(config, student, spec, teacher)
    before = said_before(config, run)
    check_teacher(before, guide, student, run)
    refuse_modes(config, student, guide)
    found: dict[str, Scores] = dict(known or {})
    with stage_tracker(config, run, kind, group, name) as tracker:
        if "start" not in found:
            found["start"] = scores(student, spec, config, splits=("val",))
        if guide is not None and "teacher" not in found:
            found["teacher"] = teacher_scores(guide, spec, config, run / "teacher" if figures else None)
        off = kd_off(config, before, found) if known is None else ""  # an ablation goes on
        if known is None:
            _announce(found, off, guide is not None and guide.is_network(student))
        for earlier in ("kd_off", "unlabelled"):  # what it says of an earlier fine-tune
            student.meta.pop(earlier, None)
        if off:
            student.meta["kd_off"] = off
        elif guide is not None:
            student.meta["teacher"] = {"source": guide.source, "sha256": guide.known_as(student.lineage)}
        footage, facts = None, None
        if config.unlabelled and not uses_footage(config):
            log.info("--kd %s learns nothing from pictures without labels: it goes without", config.distil.kd)
        if uses_footage(config) and guide is not None and not off:
            footage, facts = footage_of(config, spec, guide, found["teacher"]["val"].confidence)
            facts.announce()
            student.meta["unlabelled"] = {"pictures": facts.pictures, "as": config.unlabelled_as}
        torch.manual_seed(config.seed)  # of the adapters' first weights, whatever was drawn before
        objective = KDObjective(student, None if off else guide, config.loss, config.distil)
        hooks: list[Hooks] = [BesideTeacher(found.get("teacher", {}).get("val"))]
        if facts is not None:
            hooks.append(FootageColumns(facts))
        student = train_network(
            student,
            spec,
            config,
            run,
            kind=kind,
            objective=objective,
            hooks=hooks,
            tracker=tracker,
            footage=footage,
            folds=config.cross_fit or 1 if guide is not None and not off else 1,
        )
        found["student"] = scores(student, spec, config, run / "student" if figures else None)
        reported = tuple(sorted(objective.watch.reported)) if objective.modes else ()
        result = FinetuneResult(run, student, guide, found, reported, off, facts)
        if known is None and (warning := worse_than_begun(found, BEGAN)):
            log.warning("%s", warning)
        if distributed.is_main():
            _track(result, tracker, f"{group or run.name}-{kind}" if figures else "")
    return result


def refuse_modes(config: DistilConfig, student: Network, teacher: Teacher | None) -> None:
    """Refuse modes that cannot work on this pair now: to score both networks takes minutes.

    Raises:
        UserError: naming the mode, and those that can.
    """
    if teacher is not None and not config.distil.is_auto:
        KDObjective(student, teacher, kd=config.distil)


class BesideTeacher(Hooks):
    """With every validation ``student/...``, and with a teacher ``teacher/...`` and ``gap/...``.

    ``gap`` is that of mAP50-95; classes come as ``student/AP50-95/NAME``, with a teacher only.

    Args:
        teacher: its score on the validation pictures.
    """

    def __init__(self, teacher: Score | None):
        self.teacher = teacher

    def after_validation(
        self, network: Network, averaged: Network, score: Score, evaluate: Callable[[Network], Score]
    ) -> dict[str, float]:
        shown = ["mAP50-95", "mAP50"]
        mine = {name: float(value) for name, value in score.as_dict(classes=self.teacher is not None).items()}
        mine = {name: value for name, value in mine.items() if name in shown or name.startswith("AP50-95/")}
        values = {f"student/{name}": value for name, value in mine.items()}
        if self.teacher is not None:
            theirs = self.teacher.as_dict(classes=True)
            both = [name for name in mine if name in theirs]
            values |= {f"teacher/{name}": theirs[name] for name in both}
            values |= {f"gap/{name}": theirs[name] - mine[name] for name in both}
            values["gap"] = values.pop("gap/mAP50-95")
        return values


def train_assistants(config: Distil, run: Path) -> Distil:
    """Go through a chain of teachers (``--t_weights a.pt,b.pt``) up to the last one, which is the student's teacher.

    Each network of the chain is fine-tuned under the one before it, with the options of the run, in a folder of its own
    (`assistant1`, ...), and resumed there: teacher assistants (Mirzadeh et al., AAAI 2020), for a student so much
    smaller than its teacher that it learns more from one in between.

    Returns:
        `config` with the last of them as its teacher; the same `config` where there is no chain.
    """
    links = split_chain(config.t_cfg, config.t_weights)
    if len(links) == 1:
        return config
    (cfg, weights), *assistants = links
    for number, (own_cfg, own_weights) in enumerate(assistants, start=1):
        log.info("assistant %d of %d: %s, under %s", number, len(assistants), own_weights or own_cfg, weights or cfg)
        stage = replace(config, cfg=own_cfg, weights=own_weights, t_cfg=cfg, t_weights=weights, freeze="")
        folder = run / f"assistant{number}"
        finetune(stage, folder, kind=folder.name, group=run.name)
        cfg, weights = "", str(folder / BEST)
    return replace(config, t_cfg=cfg, t_weights=weights)


def make_teacher(
    config: DistilConfig, student: Network, spec: DataSpec, network: Network | Sequence[Network] | None = None
) -> Teacher | None:
    """The teacher of `config`, or `network` as one; None where neither is given and no KD term asks for it."""
    wanted = bool(config.t_cfg or config.t_weights or network is not None)
    if not wanted and config.distil.modes():
        raise UserError(
            f"--kd {USUAL_MODES if config.distil.is_auto else config.distil.kd} needs a teacher",
            todo="add --t_weights FAT.pt, or --kd none for plain fine-tuning",
        )
    if not wanted:
        return None
    if network is None:
        teacher = Teacher.load(config.t_cfg, config.t_weights, student)
    else:
        first = network if isinstance(network, Network) else network[0]
        teacher = Teacher(network, student, first.cfg.source)
    check_members(config, teacher.members)
    teacher.folds = members_of_pictures(config, spec)
    return teacher


def teacher_scores(teacher: Teacher, spec: DataSpec, config: TrainConfig, folder: Path | None = None) -> Scores:
    """The teacher's scores, with figures in `folder`; "train" is of about as many pictures with objects as val has."""
    found = scores(teacher.network, spec, config, folder)  # type: ignore[arg-type]
    train = scan(spec, "train")
    filled = [path for path, labels in zip(train.pictures, train.labels) if len(labels)] or train.pictures
    network = teacher.network
    if teacher.folds is not None:  # a member, on pictures that it has not seen: on those it teaches
        own = {path for path, member in zip(train.pictures, teacher.folds.tolist(), strict=True) if member == 0}
        filled, network = [path for path in filled if path in own] or filled, teacher.members[0]
    sample = tuple(filled[:: max(1, len(filled) // len(spec.require("val")))])
    sampled = replace(spec, splits={"train": sample})
    return found | scores(network, sampled, config, splits=("train",))  # type: ignore[arg-type]


def announce_teacher(found: Scores, start: float, off: str = "") -> None:
    """Before the first step: how good the teacher is, and whether it can be of use.

    Args:
        found: from `teacher_scores`.
        start: the student's mAP50-95 on val.
        off: from `kd_off`.
    """
    val, train = found["val"].map50_95, found["train"].map50_95
    log.info(
        "teacher on val: mAP50-95 %.4f, mAP50 %.4f; on pictures it is to teach on: mAP50-95 %.4f",
        val,
        found["val"].map50,
        train,
    )
    if off:
        log.warning("%s: plain fine-tuning. An explicit --kd %s teaches all the same", off, USUAL_MODES)
    elif val < start:
        log.warning(
            "the teacher (mAP50-95 %.4f) is worse than the student before its first step (%.4f): it has "
            "little to teach",
            val,
            start,
        )
    elif train - val > BY_HEART:
        log.warning(
            "the teacher is much better on the pictures it is to teach on (mAP50-95 %.3f) than on val (%.3f): it may "
            "know them by heart, and then says little that their labels do not. Compare with --kd none",
            train,
            val,
        )


def _announce(found: dict[str, Scores], off: str, twins: bool) -> None:
    """Before the first step: a teacher that was silently not loaded shows here; `twins`: it is its student."""
    start = found["start"]["val"]
    if twins:
        log.warning("%s It can teach only what its student already knows", same_network("teacher", "student"))
    if "teacher" in found:
        announce_teacher(found["teacher"], start.map50_95, off)
    log.info("student on val, before the first step: mAP50-95 %.4f, mAP50 %.4f", start.map50_95, start.map50)


def report(result: FinetuneResult, config: DistilConfig, solved: Sequence[str] = ()) -> str:
    """Write the run's ``report.html``; the table and the verdict line for the terminal.

    Args:
        solved: what was done to the student before the first step.
    """
    spec = load_spec(config.data, single_cls=config.single_cls)
    split = shown_split(spec)
    kept = kept_speeds(result.run) if config.resume else {}
    rows, speeds = _rows(result, split, config.input_size, kept.get("table"))
    student = rows[-1]
    warning = worse_than_begun(result.scores, BEGAN)
    start = begun_with(config, spec, result.run) if warning else None
    if start:
        warning = worse_than_begun(result.scores, str(start[0]))
    found = {name: result.scores[name][split] for name in ("teacher", "student") if name in result.scores}
    record = begun_record(config, spec, split, f"Student {result.run.name}", f"kd {config.distil.kd}")
    record["speeds"] = {"table": speeds.as_dict()}
    line, matches = warning, {"student": found["student"].matches}
    if len(rows) > 1:
        compared(record, result.run, spec, (rows[0], found["teacher"]), (student, found["student"]))
        interval = interval_of(found["teacher"], found["student"])
        same = result.teacher is not None and result.teacher.is_network(result.student)
        more = same_network("teacher", "student") if same else ""
        speed = speeds.compared("teacher", "student")
        line = verdict(rows[0], student, split, interval=interval, speed=speed, more=more)
        line = "\n".join(filter(None, [line, warning]))
        if result.teacher is not None and len(result.teacher.members) == 1:  # several have no cost of their own
            fat = Mark("teacher", "fat", config.input_size, found["teacher"], result.teacher.members[0])
            thin = Mark("student", "cut", config.input_size, found["student"], result.student, path=result.run / BEST)
            marks, instead = [fat, thin], None
            if start:
                marks.insert(1, start_mark(*start, result.scores["start"], spec, config, split))
                instead = marks[1].name, why_instead(warning, start[0], config)
            matches |= costed(record, result.run, spec, config, marks, instead)
    figures, _ = pictures(result.run / "student" / split)
    record |= {
        "intro": str(result.footage or ""),
        "verdict": line,
        "rows": [asdict(row) for row in rows],
        "baseline": rows[0].name,
        "last": student.name,
        "resize": result.student.resize,
        "measured_with": speeds.measured_with,
        "counted": counted(found["student"]),
        "cut": [{"title": "solved before the first step", "plain": [], "text": "\n".join(solved)}] if solved else [],
        "results": {"fine-tuning": "results.csv"},
        "figures": [
            (caption, path.relative_to(result.run).as_posix())
            for caption, path in [*training_pictures(result.run, result.run, spec), *figures]
        ],
        "lineage": lineage_records(result.student.lineage),
    }
    write_report(result.run, record, matches)
    memory = f"peak memory: {memory_used(distributed.start(config.device)):.1f} GB"
    note = footnote(result.scores["student"][split])
    mean = scored_on(split, result.scores["student"][split].images, config.input_size)
    told = [text_table(rows), mean, speeds.measured_with, note, line, memory, f"best student: {result.run / BEST}"]
    return "\n".join(filter(None, told))


def _rows(result: FinetuneResult, split: str, size: tuple[int, int], kept: Any = None) -> tuple[list[Row], Speeds]:
    """The teacher's row, if there is one, and the student's. Several teachers are one row: what asking all costs."""
    members = result.teacher.members if result.teacher is not None else ()
    networks = {f"teacher {number}": member for number, member in enumerate(members)} | {"student": result.student}
    (*taught, student), speeds = table(networks, {"student": result.scores["student"][split]}, size, kept)
    student = replace(student, note=result.note, epochs=progress_of(result.run).epoch)
    if not taught:
        return [student], speeds
    speeds = speeds.together([row.name for row in taught], "teacher")
    score = result.scores["teacher"][split]
    teacher = Row(
        "teacher",
        sum(row.parameters or 0 for row in taught),
        sum(row.megabytes or 0 for row in taught),
        sum(row.macs or 0 for row in taught),
        speeds.cpu_ms("teacher"),
        score.map50,
        score.map50_95,
        note=f"{len(taught)} teachers, averaged" if len(taught) > 1 else "",
    )
    return [teacher, student], speeds


def _track(result: FinetuneResult, tracker: Tracker, artifact: str) -> None:
    """The run's last words: scores, prediction pictures, and the best student with the teacher in its lineage."""
    for name, splits in result.scores.items():
        for split, score in splits.items():
            tracker.log_summary({f"{name}/{split}/{key}": value for key, value in score.as_dict().items()})
    if not artifact:
        return
    for path in sorted((result.run / "student").glob("*/*.jpg")):
        tracker.log_pictures(f"{path.stem}/{path.parent.name}", [(path.parent.name, path)])
    ancestors = [{"kind": step.get("kind"), "sha256": step["sha256"]} for step in result.student.lineage]
    metadata = {"teacher": result.student.meta.get("teacher"), "lineage": ancestors}
    tracker.log_artifact(result.run / BEST, artifact, metadata=metadata)
