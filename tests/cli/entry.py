"""An entry script without its figures, which take longer than the trainings here: ``-m tests.cli.entry SCRIPT ...``

With THINYOLO_KILL_AT=STAGE:STEP:METHOD in the environment its process ends by `kill -9` in the folder called STAGE,
when the optimiser step STEP (from 1) is done and the trainer's METHOD has been called after it; `_step` is the step
itself, before it is saved.
"""

from __future__ import annotations

import functools
import os
import runpy
import signal
import sys
from typing import Any

import engine.plots
import engine.trainer
from engine.trainer import Trainer


def make_lethal(name: str, place: str) -> None:
    """The trainer dies when its method `name` returns at `place` ("STAGE:STEP")."""
    method = getattr(Trainer, name)

    @functools.wraps(method)
    def lethal(self: Trainer, *arguments: Any) -> Any:
        returned = method(self, *arguments)
        if f"{self.run_dir.name}:{self.progress.step}" == place:
            os.kill(os.getpid(), signal.SIGKILL)
        return returned

    setattr(Trainer, name, lethal)


if __name__ == "__main__":
    if at := os.environ.get("THINYOLO_KILL_AT"):
        place, _, name = at.rpartition(":")
        make_lethal(name, place)
    engine.plots.plot_score = engine.trainer.plot_results = lambda *_: None  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
