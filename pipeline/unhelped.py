"""A fine-tune that did not help: the network that it began from is the one to use."""

from __future__ import annotations

from pathlib import Path

import models
from common.errors import UserError
from common.rundir import is_checkpoint
from data import DataSpec
from engine import checkpoints
from models.network import Network
from pipeline.distil_options import DistilConfig
from pipeline.measured import USUAL_FILES, Mark
from reporting.results import Scores, scores
from reporting.verdict import unhelped

BEGAN = "the network it began with"
SOLVED = "solved.pt"
"""The student of a run that was solved before its first step."""


def worse_than_begun(found: dict[str, Scores], began: str) -> str:
    """A sentence where the student was at least as good on val before its first step, when it is called `began`.

    Args:
        found: "start" and "student" -> split -> score.
    """
    start, student = (found.get(name, {}).get("val") for name in ("start", "student"))
    return unhelped(began, start.map50_95, student.map50_95) if start and student else ""


def begun_with(config: DistilConfig, spec: DataSpec, run: Path) -> tuple[Path, Network] | None:
    """The file that holds the student as it was before its first step, and what is in it; None where none does."""
    began = (checkpoints.read_last(run) or {}).get("start")
    for path in (run / SOLVED, Path(config.weights), Path(config.cfg)):
        if not is_checkpoint(path) or not path.is_file():
            continue
        try:
            network = models.load(path, names=spec.names)
        except UserError:  # gone, or replaced, since the training began
            continue
        if models.fingerprint(network) == began:
            return path, network
    return None


def start_mark(path: Path, network: Network, found: Scores, spec: DataSpec, config: DistilConfig, split: str) -> Mark:
    """The student before its first step, for the figure; scored on `split` where `found`, its scores, lacks that."""
    network.with_image_size(config.input_size)
    score = found.get(split) or scores(network, spec, config, splits=(split,))[split]
    return Mark(path.name, "cut", config.input_size, score, network, path=path)


def why_instead(warning: str, network: Path, config: DistilConfig) -> str:
    """What stands beside a network that is to be used in the place of the fine-tuned one."""
    return f"{warning}. Its files: thinyolo export --weights {network} --to {USUAL_FILES} --data {config.data}"
