"""An entry script without its figures, which take longer than the trainings here: ``-m tests.cli.entry SCRIPT ...``

With THINYOLO_KILL_AT=STAGE:STEP in the environment its process ends by `kill -9` in the folder called STAGE, when the
optimiser step STEP (from 1) is done and before it is saved.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence

import engine.plots
import engine.trainer
from data.batch import Batch
from engine.trainer import Trainer

step = Trainer._step


def lethal_step(self: Trainer, batches: Sequence[Batch]) -> None:
    step(self, batches)
    if f"{self.run_dir.name}:{self.progress.step}" == os.environ.get("THINYOLO_KILL_AT"):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Trainer._step = lethal_step  # type: ignore[method-assign]
    engine.plots.plot_score = engine.trainer.plot_results = lambda *_: None  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
