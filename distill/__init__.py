"""Distillation: the teacher, the KD modes (their losses a file each), and what joins them to the detection loss."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from distill.config import KDConfig
    from distill.losses.aligned import aligned
    from distill.losses.attention import attention
    from distill.losses.bounded import bounded
    from distill.losses.cwd import cwd
    from distill.losses.fgd import fgd
    from distill.losses.fitnets import fitnets
    from distill.losses.gap import gap
    from distill.losses.hinton import hinton
    from distill.losses.imitation import imitation
    from distill.losses.ld import ld
    from distill.losses.mgd import mgd
    from distill.losses.pkd import pkd
    from distill.losses.projected import projected
    from distill.losses.scaled import scaled
    from distill.mode import Mode
    from distill.modes import MODES
    from distill.objective import KDObjective
    from distill.pairs import FeaturePair
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
    "ld",
    "mgd",
    "pkd",
    "projected",
    "scaled",
]

lazily(__name__)
