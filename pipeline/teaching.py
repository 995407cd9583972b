"""The teacher of a fine-tune: made, scored, and announced before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from common.log import log
from data import DataSpec
from data.labels import scan
from distill import KDObjective, Teacher
from distill.modes import USUAL_MODES
from engine.config import TrainConfig
from engine.evaluate import Score
from engine.seams import Hooks
from models.network import Network
from pipeline.crossfit import check_members, members_of_pictures
from pipeline.distil_options import DistilConfig
from reporting.results import Scores, scores

BY_HEART = 0.1  # mAP50-95 between train and val; docs/results.md, "Which KD mode helps?", has what lies on either side


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


def refuse_modes(config: DistilConfig, student: Network, teacher: Teacher | None) -> None:
    """Refuse modes that cannot work on this pair now: to score both networks takes minutes.

    Raises:
        UserError: naming the mode, and those that can.
    """
    if teacher is not None and not config.distil.is_auto:
        KDObjective(student, teacher, kd=config.distil)


def teacher_scores(teacher: Teacher, spec: DataSpec, config: TrainConfig, folder: Path | None = None) -> Scores:
    """The teacher's scores, with figures in `folder`; "train" is of about as many pictures with objects as val has."""
    found = scores(teacher.network, spec, config, folder)  # type: ignore[arg-type]
    train = scan(spec, "train")
    filled = [path for path, labels in zip(train.pictures, train.labels) if len(labels)] or train.pictures
    network = teacher.network
    if teacher.folds is not None:  # a member, on pictures that it has not seen: on those it teaches
        own = {path for path, member in zip(train.pictures, teacher.folds.tolist(), strict=True) if member == 0}
        filled, network = [path for path in filled if path in own] or filled, teacher.alone(0)
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
