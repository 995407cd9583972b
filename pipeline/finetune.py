"""The student's stage: fine-tuning under a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from common.log import log
from common.rundir import BEST
from data import DataSpec, choose_anchors, load_spec
from data.footage import Footage
from distill import KDObjective, Teacher
from distill.teacher import split_chain
from engine import Tracker, distributed
from engine.seams import Hooks
from models.network import Network
from pipeline.begun import check_teacher, kd_off, said_before
from pipeline.distil_options import DistilConfig
from pipeline.footage import FootageColumns, FootageFacts, check_footage, footage_of, gathered, uses_footage
from pipeline.stage import check_options, check_space, load_network, stage_tracker, train_network
from pipeline.teaching import BesideTeacher, announce_teacher, make_teacher, refuse_modes, teacher_scores
from pipeline.unhelped import BEGAN, worse_than_begun
from reporting.results import Scores, scores
from reporting.verdict import same_network

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
    student = _begin(config, spec, run, student)
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
        asked = None if off else guide
        footage, facts = _gather_footage(config, spec, asked, found)
        if facts is not None:
            student.meta["unlabelled"] = {"pictures": facts.pictures, "as": config.unlabelled_as}
        torch.manual_seed(config.seed)  # of the adapters' first weights, whatever was drawn before
        objective = KDObjective(student, asked, config.loss, config.distil)
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
            folds=config.cross_fit or 1 if asked is not None else 1,
        )
        found["student"] = scores(student, spec, config, run / "student" if figures else None)
        reported = tuple(sorted(objective.watch.reported)) if objective.modes else ()
        result = FinetuneResult(run, student, guide, found, reported, off, facts)
        if known is None and (warning := worse_than_begun(found, BEGAN)):
            log.warning("%s", warning)
        if distributed.is_main():
            _track(result, tracker, f"{group or run.name}-{kind}" if figures else "")
    return result


def _begin(config: DistilConfig, spec: DataSpec, run: Path, student: Network | None) -> Network:
    """The student before its first step: in memory already, or from the files `config` names."""
    student = student or load_network(config, spec.names)
    if config.anchors == "fit":  # auto keeps them: the student's weights, and the teacher's, were trained for them
        anchors, reason = choose_anchors(
            "fit", spec, student.specs, config.input_size, config.seed, resize=student.resize
        )
        student = student.with_anchors(anchors) if anchors is not None else student
        log.info("%s", reason)
    check_options(student, config)
    check_space(student, config, run, 1)
    return student


def _gather_footage(
    config: DistilConfig, spec: DataSpec, teacher: Teacher | None, found: Mapping[str, Scores]
) -> tuple[Footage | None, FootageFacts | None]:
    """The pictures without labels that `teacher` answers on, announced; nothing where nobody does."""
    if config.unlabelled and not uses_footage(config):
        log.info("--kd %s learns nothing from pictures without labels: it goes without", config.distil.kd)
    if teacher is None or not uses_footage(config):
        return None, None
    footage, facts = footage_of(config, spec, teacher, found["teacher"]["val"].confidence)
    facts.announce()
    return footage, facts


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


def _announce(found: dict[str, Scores], off: str, twins: bool) -> None:
    """Before the first step: a teacher that was silently not loaded shows here; `twins`: it is its student."""
    start = found["start"]["val"]
    if twins:
        log.warning("%s It can teach only what its student already knows", same_network("teacher", "student"))
    if "teacher" in found:
        announce_teacher(found["teacher"], start.map50_95, off)
    log.info("student on val, before the first step: mAP50-95 %.4f, mAP50 %.4f", start.map50_95, start.map50)


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
