"""The instants at which a process may die, found by wrapping the file writer and what lies between two files.

A run passes them in the same order each time, so a point is a number; its name is for people.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends import backend_agg  # noqa: F401  (imported here, not in each process that is forked)
from matplotlib.figure import Figure

import common.files
import engine.plots
import engine.trainer
import pipeline.ablate_cell
import pipeline.finetune
import pipeline.teaching
import pipeline.train_prune
from common.files import whole_file
from engine.trainer import Trainer
from pipeline.train_prune import PruneRun

STAGES = ("_start", "baseline", "sparse", "cut", "students", "summarise")


class Points:
    """Counts the points that this process passes, and ends it at one of them, as `kill -9` does.

    Args:
        record: a file that gets the names, a line a point.
        die_at: the number of the point, from 0; None: none.
    """

    def __init__(self, record: Path, die_at: int | None = None):
        self.record, self.die_at, self.passed = record, die_at, 0

    def reach(self, name: str) -> None:
        with open(self.record, "a", encoding="utf-8") as handle:
            handle.write(name + "\n")
        if self.passed == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1

    def around(self, owner: Any, name: str, told: Callable[..., str], before: bool = True) -> None:
        """A point (before and) after each call of ``owner.name``; `told` makes a name of its arguments."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            what = told(*given)
            if before:
                self.reach(f"before {what}")
            returned = function(*given, **named)
            self.reach(f"after {what}")
            return returned

        setattr(owner, name, wrapped)


def install(points: Points) -> None:
    """Wrap everything, in a process that has been forked for it. What only draws becomes quick."""
    engine.trainer.plot_results = _as_text  # type: ignore[assignment]
    Figure.savefig = lambda _, path, **how: Path(path).write_bytes(PNG)  # type: ignore[method-assign, assignment]
    engine.plots.plot_score = lambda *_: []  # type: ignore[assignment]
    points.around(common.files, "put_in_place", lambda _, path: f"the file {_short(path)}")
    points.around(Trainer, "_validate", lambda self: f"the validation of {self.run_dir.name}")
    points.around(Trainer, "_step", lambda self, _: f"a step of {self.run_dir.name}", before=False)
    for stage in STAGES:
        points.around(PruneRun, stage, lambda self, *_, stage=stage: f"the stage {stage}")
    for module in (pipeline.finetune, pipeline.teaching, pipeline.train_prune):
        points.around(module, "scores", lambda *_: "the scores of a network")
    points.around(pipeline.ablate_cell, "finetune", lambda _, run: f"the cell {_short(run)}")


PNG = b"\x89PNG"
"""As much of a picture as a page looks at before it takes it."""


def _as_text(results: Path, figure: Path, *_: object) -> Path:
    """In the place of a figure: how many epochs it would show."""
    with whole_file(figure) as temporary:
        temporary.write_text(str(len(results.read_text().splitlines())))
    return figure


def _short(path: str | Path) -> str:
    """Its end; what a file of the cache is called depends on where the pictures are."""
    return "/".join("*" if len(part) > 40 else part for part in Path(path).parts[-3:])
