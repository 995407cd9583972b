"""What is killed: the smallest run of each kind, in a process forked from one that has imported everything."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import models
from common.rundir import ARGS
from tests import nets
from tests.cli.material import NAMES, QUICK, make_set
from tests.crash.compare import differences
from tests.crash.points import Points, install
from tests.distill.material import tiny_network
from thinyolo.main import main as thinyolo

OFTEN = (*QUICK, "--save-every", "1", "--name", "x")
LINE = ("--cfg", "net.cfg", "--data", "data.yaml", *OFTEN, "--prune", "params=0.5", "--shortcuts", "1")
PAIR = ("--weights", "thin.pt", "--t_weights", "fat.pt", "--data", "data.yaml", *OFTEN)
TRIAL = "trial"
LINES = {
    "train_prune": ("prune", *LINE, "--target", "0.3", "--tolerance", "1", "--then-kd", "--rounds", "2"),
    "finetune_kd": ("distill", *PAIR),
    "ablate": ("ablate", *PAIR, "--modes", "none; bounded", "--seeds", "2"),
}
"""The kind of a run -> its command."""


def make_material(folder: Path) -> Path:
    """The data set and the networks that the lines begin with."""
    make_set(folder)
    (folder / "net.cfg").write_text(nets.RESIDUAL)
    for name, width in (("thin", 8), ("fat", 16)):
        network = tiny_network(width, seed=width)
        network.names = list(NAMES)
        models.save(network, folder / f"{name}.pt")
    return folder


def in_child(folder: Path, words: Sequence[str], die_at: int | None = None) -> tuple[int, list[str]]:
    """A command in a forked process in `folder`: its exit status (negative: a signal), and the points it passed."""
    record = folder / "points.txt"
    record.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            _become(folder, words, Points(record, die_at))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, record.read_text().splitlines() if record.exists() else []


def _become(folder: Path, words: Sequence[str], points: Points) -> None:
    os.chdir(folder)
    os.environ["THINYOLO_CACHE"] = str(folder / "cache")
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    install(points)
    os._exit(thinyolo(list(words)))


@dataclass(frozen=True)
class Line:
    """A kind of run, and the one that nobody interrupted.

    Attributes:
        kind: its key in `LINES`.
        material: what each trial begins with.
        whole: the uninterrupted run's folder.
        points: the points it passed.
    """

    kind: str
    material: Path
    whole: Path
    points: list[str]

    @classmethod
    def begin(cls, kind: str, material: Path, folder: Path) -> Line:
        trial = _fresh(material, folder / TRIAL)
        status, points = in_child(trial, LINES[kind])
        assert status == 0, (trial / "output.txt").read_text()
        shutil.rmtree(folder / "whole", ignore_errors=True)
        (trial / "runs" / kind / "x").rename(folder / "whole")
        return cls(kind, material, folder / "whole", points)

    def attempt(self, point: int) -> list[str]:
        """Die at `point`, resume, and say what is then not as it should be; where something is, the folder is kept.

        All in the folder in which the whole run was: an ablation knows its pictures by their whole paths.
        """
        trial = _fresh(self.material, self.whole.parent / TRIAL)
        status, passed = in_child(trial, LINES[self.kind], point)
        if status != -signal.SIGKILL or passed != self.points[: point + 1]:
            return [f"ended with status {status} after {len(passed)} points, not at point {point}"]
        run = trial / "runs" / self.kind / "x"
        resumed = LINES[self.kind][0], "--resume", str(run.relative_to(trial))  # as a user types it: files name it
        if not (run / ARGS).exists():  # nothing was begun: that is said, and the run starts anew
            status, _ = in_child(trial, resumed)
            found = [] if status == 2 else [f"to resume what was not begun ended with status {status}, not 2"]
            shutil.rmtree(run, ignore_errors=True)
            resumed = LINES[self.kind]
        else:
            found = []
        status, _ = in_child(trial, resumed)
        found += [f"the resumed run ended with status {status}"] if status else list(differences(self.whole, run))
        if found:
            trial.rename(self.whole.parent / f"point{point}")
        return found


def _fresh(material: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(material, folder)
