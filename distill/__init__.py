"""Distillation: the teacher, the KD terms (a file a family), and what joins them to the loss."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from distill.aligned import aligned
    from distill.attention import attention
    from distill.bounded import bounded
    from distill.cwd import cwd
    from distill.fgd import fgd
    from distill.fitnets import fitnets
    from distill.gap import gap
    from distill.hinton import hinton
    from distill.imitation import imitation
    from distill.mgd import mgd
    from distill.modes import MODES, KDConfig, Mode
    from distill.objective import KDObjective
    from distill.pairs import FeaturePair
    from distill.pkd import pkd
    from distill.scaled import scaled
    from distill.teacher import Teacher

__all__ = [
    "MODES",
    "FeaturePair",
    "KDConfig",
    "KDObjective",
    "Mode",
    "Teacher",
    "aligned",
    "attention",
    "bounded",
    "cwd",
    "fgd",
    "fitnets",
    "gap",
    "hinton",
    "imitation",
    "mgd",
    "pkd",
    "scaled",
]

lazily(__name__)
