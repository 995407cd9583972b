"""What a fine-tune that is resumed said of itself when it began: its teacher, or why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.rundir import LAST
from distill import Teacher
from engine import checkpoints
from models.network import Network
from pipeline.distil_options import DistilConfig
from reporting.results import Scores


def said_before(config: DistilConfig, run: Path) -> dict[str, Any]:
    """What the checkpoint of a fine-tune that is resumed says of itself; {} where nothing was begun."""
    if not config.resume or not (run / LAST).exists():
        return {}
    return dict(checkpoints.read_own(run / LAST, checkpoints.anew(run))["meta"])


def check_teacher(before: Mapping[str, Any], guide: Teacher | None, student: Network, run: Path) -> None:
    """Refuse to go on under another teacher than the one that has taught so far.

    Raises:
        UserError: the networks differ.
    """
    taught = before.get("teacher")
    if not taught or guide is None:
        return
    # What its lineage calls the teacher; and the digest by which earlier versions knew one that is no ancestor.
    if taught.get("sha256") not in (guide.known_as(student.lineage), guide.full_digest):
        raise UserError(
            f"was taught by another network than {guide.source} now holds",
            where=run / LAST,
            todo=f"put the teacher back as it was ({taught.get('source')}); or {checkpoints.anew(run)}",
        )


def kd_off(config: DistilConfig, before: Mapping[str, Any], found: Mapping[str, Scores]) -> str:
    """Why a fine-tune goes without its teacher, in a sentence; "" where it does not.

    Where nobody chose the modes (``--kd auto``), a teacher below its student before the first step is not listened to.
    A resumed fine-tune keeps what was decided when it began.

    Args:
        before: what its checkpoint says of it.
    """
    if before:
        return str(before.get("kd_off", ""))
    if not config.distil.is_auto or "teacher" not in found:
        return ""
    theirs, ours = (found[name]["val"].map50_95 for name in ("teacher", "start"))
    if theirs >= ours:
        return ""
    return (
        f"KD off: the teacher (val mAP50-95 {theirs:.4f}) was below the student ({ours:.4f}) before its first step"
        + ("; so --unlabelled is not used" if config.unlabelled else "")
    )
