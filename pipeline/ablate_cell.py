"""One training of an ablation: its options, and what it leaves."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError, first_line
from common.files import read_json, write_json
from common.rundir import ARGS
from engine import checkpoints, distributed
from engine.tracking import ID_FILE
from pipeline.distil_options import AblateConfig
from pipeline.finetune import finetune
from reporting.results import Scores

CELL, ERROR = "cell.json", "error.txt"


@dataclass(frozen=True)
class Cell:
    """One training of the grid; picklable, so that it can be sent to a worker.

    Attributes:
        variant, seed: its place in the grid.
        config: its options.
        folder: its run folder.
        group: W&B's group, the name of the ablation's run.
        known: scores of the teacher and of the student before its first step, which cells share.
        key: of everything its numbers depend on; a finished cell counts only under the same key.
    """

    variant: str
    seed: int
    config: AblateConfig
    folder: Path
    group: str
    known: dict[str, Scores]
    key: str


def finished(cell: Cell) -> dict[str, Any] | None:
    """What the cell has left, if it is done and was made with the same settings."""
    content = read_json(cell.folder / CELL)
    return content if content.get("key") == cell.key and content.get("scores") else None


def attempt_cell(cell: Cell) -> dict[str, Any]:
    """`run_cell`, where a bug costs the others nothing: the cell counts as failed, its traceback is in `error.txt`.

    Not so under torchrun: the other processes would wait for one that gave up, so all of them end (see
    `pipeline.ablate` for what is no bug).
    """
    (cell.folder / ERROR).unlink(missing_ok=True)
    try:
        return run_cell(cell)
    except UserError:
        raise
    except Exception as error:
        if distributed.world() > 1:
            raise
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        what = f"{type(error).__name__}: {first_line(error)}"
    # Outside of the handler: inside, this error would keep the other's frames, and all memory they hold, alive.
    raise UserError(what, where=cell.folder / ERROR, todo="when the cause is gone, go on with --resume")


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train one cell, or go on with it at its last checkpoint; leaves `cell.json`.

    Returns:
        Its content: key, modes, seed, scores (split -> name -> value), gate rate, seconds, steps, best epoch, memory,
        and what was wrong with KD terms.
    """
    if (found := finished(cell)) is not None:
        return found
    begun = read_json(cell.folder / CELL).get("key") == cell.key
    identity = {"key": cell.key, "modes": cell.variant, "seed": cell.seed}
    if distributed.is_main() and not begun:
        for other in (ARGS, checkpoints.LAST, ID_FILE):  # of other settings: neither their weights nor their W&B run
            (cell.folder / other).unlink(missing_ok=True)
        cell.config.save(cell.folder / ARGS)
        write_json(cell.folder / CELL, identity)
    distributed.barrier()
    config = replace(cell.config, resume=str(cell.folder))
    name = f"{cell.group}-{cell.folder.parent.name}-{cell.folder.name}"
    result = finetune(
        config, cell.folder, kind="ablation", group=cell.group, name=name, known=cell.known, figures=False
    )
    training = checkpoints.finished(cell.folder)
    assert training is not None
    last = training.history[-1]
    content = {
        **identity,
        "scores": {split: score.as_dict(classes=True) for split, score in result.scores["student"].items()},
        "gate_rate": _mean(
            [
                row["train/gate_rate"]
                for row in training.history
                if "train/gate_rate" in row and row["step"] <= (1 - config.distil.kd_off) * last["step"]
            ]
        ),
        "seconds": last["seconds"],
        "steps": last["step"],
        "best_epoch": max(training.history, key=lambda row: row.get("val/mAP50-95", -1.0))["epoch"],
        "memory_gb": last["memory_gb"],
        "reported": result.reported,
    }
    if distributed.is_main():
        write_json(cell.folder / CELL, content)
    return content


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
