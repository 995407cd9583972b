"""Distillation: the teacher, the KD terms (a file a family), and what joins them to the loss."""

from distill.bounded import bounded
from distill.hinton import hinton
from distill.modes import MODES, KDConfig, Mode
from distill.objective import KDObjective
from distill.teacher import Teacher

__all__ = ["MODES", "KDConfig", "KDObjective", "Mode", "Teacher", "bounded", "hinton"]
