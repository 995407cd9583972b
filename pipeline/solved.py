"""The student as a fine-tune begins with it: solved, before the first step, for what a network it was cut from says."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import models
from common.errors import UserError
from common.log import log
from common.rundir import LAST, MARK, mark
from data import DataSpec, load_spec
from distill import Teacher
from engine import checkpoints, distributed
from models.lineage import entry_of
from models.network import Network
from pipeline.calibration import Calibration
from pipeline.distil_options import TEACHER, AblateConfig
from pipeline.stage import load_network
from pipeline.teaching import make_teacher
from pipeline.unhelped import SOLVED


@dataclass(frozen=True)
class SolvedStart:
    """A student that was solved, kept in a file.

    Attributes:
        path: the file.
        network: the student.
        lines: what solving it changed.
        changed: whether it changed anything.
    """

    path: Path
    network: Network
    lines: list[str]
    changed: bool = True

    @classmethod
    def read(cls, path: Path, spec: DataSpec) -> SolvedStart:
        """Raises `UserError` where it was solved on other data than `spec`."""
        content = checkpoints.read_own(path, checkpoints.MADE_AGAIN)
        checkpoints.check_pictures(content["extra"].get("pictures"), spec, path)
        return cls(path, models.from_checkpoint(content, path), content["extra"]["solved"])


def begin_solved(config: AblateConfig, run: Path) -> SolvedStart | None:
    """What ``--reconstruct`` makes of the student of `config`, kept in the folder `run`.

    None where nothing is asked for, or where a resumed run is ahead of its start.

    Raises:
        UserError: see `ancestor_of`.
    """
    path = run / SOLVED
    if not config.reconstruct:
        return None
    spec = load_spec(config.data, single_cls=config.single_cls)
    if config.resume and (run / LAST).exists():
        return SolvedStart.read(path, spec) if path.exists() else None
    student = load_network(config, spec.names)
    ancestor = ancestor_of(config.reconstruct, student, make_teacher(config, student, spec))
    return solve_start(config, spec, student, ancestor, config.reconstruct, path, keep=bool(config.resume))


def ancestor_of(said: str, student: Network, teacher: Teacher | None) -> Network:
    """The network that ``--reconstruct`` names.

    Raises:
        UserError: there is none, or the student was not cut from it.
    """
    if said != TEACHER:
        ancestor, name = models.load(said), said
    elif teacher is None or len(teacher.members) > 1:
        there = "there is none" if teacher is None else "there are several"
        raise UserError(
            f"--reconstruct means the teacher, and {there}",
            todo="name the network that was cut: --reconstruct sparse.pt",
        )
    else:
        ancestor, name = teacher.members[0], teacher.source
    sha256 = models.known_as(student.lineage, ancestor)
    entry_of(
        student.lineage,
        sha256,
        whose="the student",
        todo="name one of these; .weights files carry no lineage, the .pt does",
        said=f"--reconstruct {said}: this network ({sha256[:12]})",
        where=name,
    )
    return ancestor


def solve_start(
    config: AblateConfig, spec: DataSpec, student: Network, ancestor: Network, said: str, path: Path, keep: bool
) -> SolvedStart:
    """Solve a copy of the student, by rank 0 for all, into the file `path`; with `keep` one that is there is taken.

    Args:
        said: what the ancestor is called.
    """
    if distributed.is_main() and not (keep and path.exists()):
        solved = copy.deepcopy(student)
        with distributed.alone():  # the other processes of torchrun take no part
            told, *worst = Calibration(config, spec, student.resize).solve(solved, ancestor).lines()
        lines = [f"for {said}: {told}", *worst]
        log.info("the student, before the first step: %s", "\n".join(lines))
        extra = {MARK: mark(path), "solved": lines, "pictures": checkpoints.pictures_of(spec)}
        models.save(solved, path, extra=extra)
    distributed.barrier()
    return SolvedStart.read(path, spec)
