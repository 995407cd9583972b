"""The options of a command that writes into a run's folder, as trainings have them too."""

from __future__ import annotations

from dataclasses import dataclass

from common.options import like
from engine.config import TrainConfig


@dataclass
class RunOptions:
    """Where the run's folder is."""

    project: str = like(TrainConfig, "project", main=False)
    name: str = like(TrainConfig, "name", main=False)
    exist_ok: bool = like(TrainConfig, "exist_ok", main=False)
