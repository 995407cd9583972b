"""What every training shares: the trainer, evaluation, precision, checkpoints, tracking, plots."""

from engine.evaluate import Score, evaluate
from engine.postprocess import postprocess
from engine.tracking import Tracker

__all__ = ["Score", "Tracker", "evaluate", "postprocess"]
