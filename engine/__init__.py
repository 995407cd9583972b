"""What every training shares: the trainer, evaluation, precision, checkpoints, tracking, plots."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from common.command_line import parse_config
    from common.options import load_config, option
    from common.rundir import find_run, make_run_dir
    from engine.checkpoints import TrainResult, finished
    from engine.config import TrainConfig
    from engine.evaluate import Score, evaluate
    from engine.objective import DetectionObjective
    from engine.postprocess import postprocess
    from engine.seams import Hooks, Objective, Terms
    from engine.tracking import Tracker
    from engine.trainer import Trainer

__all__ = [
    "DetectionObjective",
    "Hooks",
    "Objective",
    "Score",
    "Terms",
    "Tracker",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "evaluate",
    "find_run",
    "finished",
    "load_config",
    "make_run_dir",
    "option",
    "parse_config",
    "postprocess",
]

lazily(__name__)
