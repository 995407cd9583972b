"""The KD modes: what each comes from, what it needs, how much it weighs, its options and its loss.

A new mode is a file in `distill/losses` with a pure function, and here a class and its line in `KDModes`. Nothing here
imports torch (see `distill.mode`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from common.options import option
from distill.mode import COSTLY, FeatureMode, Mode

if TYPE_CHECKING:
    from torch import nn

    from distill.mode import Loss
    from distill.pairs import FeaturePair
    from models.heads import HeadSpec
    from models.network import Network

_HEADS = "heads of equal strides and classes"
_FAMILY = f"{_HEADS}, of one family"
_NECKS = f"{_HEADS}; trains a 1x1 convolution per head"

# Default weights: the gradient that a term gives a fine-tuned student is 0.1 to 0.35 of the detection loss's (demo
# network and data, adapters trained for 50 steps); a freshly pruned one, whose adapters are untrained, 0.03 to 0.45.


@dataclass(frozen=True)
class Hinton(Mode):
    paper = "Hinton et al. 2015: softened class and objectness scores"
    needs = f"{_FAMILY}, equal anchors"
    weight = 1.0
    relative_to = "cls"
    same_places = True

    temperature: float = option(
        1.0,
        "hinton: 1 asks for the probabilities themselves; higher T looks more at scores that both are sure of",
        key="kd_temperature",
        low=0.01,
        high=1000,
    )
    classes: str = option(
        "auto",
        "hinton: class scores one by one (binary) or against each other (softmax); auto: as decoded",
        key="kd_classes",
        choices=("auto", "binary", "softmax"),
    )

    def load(self) -> Loss:
        from distill.losses.hinton import hinton

        return hinton

    def check(self, specs: Sequence[HeadSpec]) -> None:
        from distill.losses.hinton import check_hinton

        check_hinton(specs, temperature=self.temperature, classes=self.classes)


@dataclass(frozen=True)
class Bounded(Mode):
    paper = "Chen et al. NeurIPS 2017: box regression where the teacher is nearer to the truth"
    needs = f"{_HEADS}; in one family equally many anchors"
    weight = 0.5
    across = True
    needs_truth = True

    margin: float = option(
        0.0,
        "bounded: how far the student has to beat the teacher before the term lets go",
        key="kd_margin",
        low=-1000,
        high=1000,
    )
    distance: str = option(
        "l2",
        "bounded: l2 of the encoded boxes, or iou (1 - GIoU), which weighs all sizes alike",
        key="kd_distance",
        choices=("l2", "iou"),
    )
    target: str = option(
        "truth",
        "bounded: pull gated boxes to the truth or to the teacher's box",
        key="kd_target",
        choices=("truth", "teacher"),
    )

    def load(self) -> Loss:
        from distill.losses.bounded import bounded

        return bounded


@dataclass(frozen=True)
class Scaled(Mode):
    paper = "Mehta & Ozturk 2018: all outputs, scaled by the teacher's objectness after FM-NMS"
    needs = f"{_HEADS}; in one family equal anchors"
    weight = 0.5
    relative_to = "cls"
    joins = {"scaled_box": "box"}
    same_places = True
    across = True

    window: int = option(
        5,
        "scaled: the teacher's detections of a class compete within so many cells (odd)",
        key="kd_scaled_window",
        low=1,
        high=1001,
    )

    def load(self) -> Loss:
        from distill.losses.scaled import scaled

        return scaled

    def check(self, specs: Sequence[HeadSpec]) -> None:
        from distill.losses.scaled import check_window

        check_window(self.window)


@dataclass(frozen=True)
class Gap(Mode):
    paper = "Yang et al. ICCV 2023 (BCKD): overlap with the teacher's boxes, where the scores differ"
    needs = f"{_FAMILY}, equal anchors"
    weight = 3.0
    same_places = True

    def load(self) -> Loss:
        from distill.losses.gap import gap

        return gap


@dataclass(frozen=True)
class LD(Mode):
    paper = "Zheng et al. CVPR 2022: the distribution of each side of a box"
    needs = f"{_HEADS}, without anchors, with equally many bins"
    weight = 0.05
    same_places = True
    distributions = True

    temperature: float = option(
        10.0,
        "ld: higher T looks more at distances that the teacher holds for unlikely",
        key="kd_ld_temperature",
        low=0.01,
        high=1000,
    )

    def load(self) -> Loss:
        from distill.losses.ld import ld

        return ld

    def check(self, specs: Sequence[HeadSpec]) -> None:
        from distill.losses.ld import check_temperature

        check_temperature(self.temperature)


@dataclass(frozen=True)
class Aligned(FeatureMode):
    paper = "He et al. ICCV 2017, Cao et al. NeurIPS 2022: channel k against the ancestor's channel it was cut from"
    needs = "a student (.pt) whose lineage names the teacher"
    weight = 1.0

    layers: str = option(
        "stages",
        "aligned: the last convolution of each stage and head, or all (slower, more memory)",
        key="kd_aligned_layers",
        choices=("stages", "all"),
    )
    distance: str = option(
        "pearson",
        "aligned: pearson ignores how loud a channel is, l2 does not",
        key="kd_aligned_distance",
        choices=("pearson", "l2"),
    )

    def load(self) -> Loss:
        from distill.losses.aligned import aligned

        return aligned

    def options(self) -> dict[str, Any]:
        return {"distance": self.distance}  # `layers` is of the pairs

    def pairs(self, student: Network, teacher: Network, heads: Sequence[int]) -> list[FeaturePair]:
        from distill.pairs import pairs_on_lineage

        return pairs_on_lineage(student, teacher, layers=self.layers)


@dataclass(frozen=True)
class FitNets(FeatureMode):
    paper = "Romero et al. ICLR 2015: a linear map of the student's features predicts the teacher's"
    needs = _NECKS
    weight = 1.0

    def load(self) -> Loss:
        from distill.losses.fitnets import fitnets

        return fitnets

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.adapters import projections

        return projections(pairs)


@dataclass(frozen=True)
class Attention(FeatureMode):
    paper = "Zagoruyko & Komodakis ICLR 2017: active at the same places"
    needs = _HEADS
    weight = 0.5

    def load(self) -> Loss:
        from distill.losses.attention import attention

        return attention


@dataclass(frozen=True)
class CWD(FeatureMode):
    paper = "Shu et al. ICCV 2021: each channel active at the same places"
    needs = _NECKS
    weight = 5.0

    temperature: float = option(
        4.0,
        "cwd: higher looks at all places, lower at the most active ones",
        key="kd_cwd_temperature",
        low=0.01,
        high=1000,
    )

    def load(self) -> Loss:
        from distill.losses.cwd import cwd

        return cwd

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.adapters import projections_where_needed

        return projections_where_needed(pairs)


@dataclass(frozen=True)
class PKD(FeatureMode):
    paper = "Cao et al. NeurIPS 2022: each channel correlated with the teacher's"
    needs = _NECKS
    weight = 1.0

    def load(self) -> Loss:
        from distill.losses.pkd import pkd

        return pkd

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.adapters import projections_where_needed

        return projections_where_needed(pairs)


@dataclass(frozen=True)
class MGD(FeatureMode):
    paper = "Yang et al. ECCV 2022: the teacher's map rebuilt from the student's, masked"
    needs = f"{_HEADS}; trains three convolutions per head"
    weight = 1.0
    cost = 1.37

    masked: float = option(0.65, "mgd: share of the student's cells that are hidden", key="kd_masked", low=0, high=0.99)

    def load(self) -> Loss:
        from distill.losses.mgd import mgd

        return mgd

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.losses.mgd import generators

        return generators(pairs)


@dataclass(frozen=True)
class FGD(FeatureMode):
    paper = "Yang et al. CVPR 2022: features by object and attention, attention, and global relations"
    needs = f"{_HEADS}; trains seven convolutions per head"
    weight = 0.3
    cost = 1.24

    temperature: float = option(
        0.5,
        "fgd: higher spreads the attention over more cells and channels",
        key="kd_fgd_temperature",
        low=0.01,
        high=1000,
    )
    background: float = option(
        0.5, "fgd: what the background counts against the objects", key="kd_fgd_background", low=0, high=1000
    )

    def load(self) -> Loss:
        from distill.losses.fgd import fgd

        return fgd

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.losses.fgd import focal_global

        return focal_global(pairs)


@dataclass(frozen=True)
class Imitation(FeatureMode):
    paper = "Wang et al. CVPR 2019: the teacher's features near objects"
    needs = f"{_HEADS}; trains a 3x3 convolution per head"
    weight = 0.5
    needs_truth = True

    near: float = option(
        0.5, "imitation: higher imitates nearer to the objects only (psi of the paper)", key="kd_near", low=0, high=0.99
    )

    def load(self) -> Loss:
        from distill.losses.imitation import imitation

        return imitation

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.losses.imitation import wide_projections

        return wide_projections(pairs)


@dataclass(frozen=True)
class Projected(FeatureMode):
    paper = "what the most used trainer does: features behind two 1x1 convolutions, where the teacher is sure"
    needs = f"{_HEADS}; trains two 1x1 convolutions per head"
    weight = 0.5

    def load(self) -> Loss:
        from distill.losses.projected import projected

        return projected

    def adapter(self, pairs: Sequence[FeaturePair]) -> nn.Module:
        from distill.losses.projected import projectors

        return projectors(pairs)


AUTO = "auto"
USUAL_MODES = "scaled,bounded"
"""What ``--kd auto`` means, under a teacher that is no worse than its student."""


@dataclass
class KDModes:
    """Which modes are used, and every mode by its name, with its options; in the order of the help."""

    kd: str = option(
        AUTO,
        "KD terms, name:weight,... (a weight is relative to the gain of the detection term it joins); none is "
        f"plain fine-tuning; auto is {USUAL_MODES}, and none under a teacher below its student; --list-modes shows all",
        metavar="NAME[:W],...",
        main=True,
    )
    hinton: Hinton = Hinton()
    bounded: Bounded = Bounded()
    scaled: Scaled = Scaled()
    gap: Gap = Gap()
    ld: LD = LD()
    aligned: Aligned = Aligned()
    fitnets: FitNets = FitNets()
    attention: Attention = Attention()
    cwd: CWD = CWD()
    pkd: PKD = PKD()
    mgd: MGD = MGD()
    fgd: FGD = FGD()
    imitation: Imitation = Imitation()
    projected: Projected = Projected()


MODES: dict[str, Mode] = {each.name: each.default for each in fields(KDModes) if isinstance(each.default, Mode)}
"""Name -> the mode with its default options."""


def describe_modes() -> str:
    """A table of all modes, for ``--list-modes``: two lines each, and one more of a slow one."""
    lines = [
        "A KD term weighs its weight times the gain of the detection term it joins.",
        "",
        f"{'name':<10} {'weight':>6}  {'joins':<8} what it is",
    ]
    for name, mode in MODES.items():
        joined = ",".join(dict.fromkeys((mode.relative_to, *mode.joins.values())))
        lines.append(f"{name:<10} {mode.weight:>6g}  {joined:<8} {mode.paper}")
        lines.append(f"{'':<27}needs {mode.needs}")
        if mode.cost > COSTLY:
            lines.append(f"{'':<27}slow: a step takes {mode.cost:g} x the teacher's forward pass and a plain step")
    return "\n".join(lines)
