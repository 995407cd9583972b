"""The KD modes by name: what each comes from, what it needs, how much it weighs, and its function.

A new mode is one entry here and one pure function that returns named scalars; those under ``metric/`` are only logged.

*Response* modes look at the heads: ``function(student, teacher, matches, **options)``.

*Feature* modes (`Mode.features`) look at maps inside the networks:
``function(student, teacher, matches, pairs=pairs, adapter=adapter, **options)``, `adapter` only for modes that have
one. Whoever calls them does this, once:

1. ``pairs = config.pairs(name, student, teacher, alignment.heads)``: the `FeaturePair` of layers the mode compares.
   Before the teacher changes its number format: *aligned* recognises an ancestor by its fingerprint.
2. ``adapter = mode.adapter(pairs)`` where the mode has one: an `nn.Module` that maps the student's channels to the
   teacher's. It is trained beside the student (on its device) and is no part of its checkpoint.
3. Both networks are to put out the layers named by all pairs: ``network.forward_features(images, layers)``.

and for every batch, with `Outputs.features` of both filled (keys: each network's own layer numbers; FP32 or wider):
``mode(student, teacher, matches, pairs, adapter, **config.options(name))``, which passes on what the mode takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from common.errors import UserError
from common.options import option
from distill.adapters import projections, projections_where_needed
from distill.aligned import ALIGNED_DISTANCES, aligned
from distill.attention import attention
from distill.bounded import DISTANCES, TARGETS, bounded
from distill.cwd import cwd
from distill.fgd import fgd, focal_global
from distill.fitnets import fitnets
from distill.gap import gap
from distill.hinton import CLASS_FORMS, check_hinton, hinton
from distill.imitation import imitation, wide_projections
from distill.mgd import generators, mgd
from distill.pairs import ALIGNED_LAYERS, FeaturePair, pairs_at_heads, pairs_on_lineage
from distill.pkd import pkd
from distill.scaled import check_scaled, scaled
from models.network import Network
from models.spec import Matches, Outputs

METRIC = "metric/"
"""Prefix of the entries of a term that are only logged."""


@dataclass(frozen=True)
class Mode:
    """One way of learning from the teacher.

    Attributes:
        function: ``(student: Outputs, teacher: Outputs, matches: Matches, **options) -> {name: scalar}``.
        paper: where it comes from.
        needs: what has to hold of student and teacher, for people.
        weight: the default weight.
        relative_to: the detection term ("box", "obj", "cls") whose gain the weight multiplies: a weight of 1
            makes the KD term count like that term.
        same_anchors: compares the two networks cell by cell, anchor by anchor.
        options: keyword of `function` -> field of `KDConfig`.
        joins: name of a returned scalar -> the detection term it joins, where that is not `relative_to`.
        pairs: ``(student, teacher, heads, **pair_options) -> list[FeaturePair]``; None for response modes.
        pair_options: keyword of `pairs` -> field of `KDConfig`.
        check: ``(specs, **options)``, raises `UserError` for options that make no sense for heads of these specs.
        adapter: makes the trained module between the two networks' channels; None where the mode needs none.
    """

    function: Callable[..., dict[str, Tensor]]
    paper: str
    needs: str
    weight: float
    relative_to: str = "box"
    same_anchors: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    joins: Mapping[str, str] = field(default_factory=dict)
    pairs: Callable[..., list[FeaturePair]] | None = None
    pair_options: Mapping[str, str] = field(default_factory=dict)
    adapter: Callable[[Sequence[FeaturePair]], nn.Module] | None = None
    check: Callable[..., None] | None = None

    @property
    def features(self) -> bool:
        """Whether it compares maps inside the networks."""
        return self.pairs is not None

    def gain(self, term: str) -> str:
        """The detection term ("box", "obj", "cls") whose gain multiplies the weight of the scalar `term`."""
        return self.joins.get(term, self.relative_to)

    def __call__(
        self,
        student: Outputs,
        teacher: Outputs,
        matches: Matches,
        pairs: Sequence[FeaturePair] = (),
        adapter: nn.Module | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Call `function` with what it takes: `pairs` for feature modes, `adapter` where it has one."""
        if self.features:
            options["pairs"] = pairs
        if self.adapter is not None:
            options["adapter"] = adapter
        return self.function(student, teacher, matches, **options)


_HEADS = "heads of equal strides and classes"
_NECKS = f"{_HEADS}; trains a 1x1 convolution per head"

# Default weights: the gradient that a term gives a fine-tuned student is 0.1 to 0.35 of the detection loss's (demo
# network and data, adapters trained for 50 steps); a freshly pruned one, whose adapters are untrained, 0.03 to 0.45.
MODES: dict[str, Mode] = {
    "hinton": Mode(
        hinton,
        "Hinton et al. 2015: softened class and objectness scores",
        f"{_HEADS}, equal anchors",
        weight=1.0,
        relative_to="cls",
        same_anchors=True,
        options={"temperature": "kd_temperature", "classes": "kd_classes"},
        check=check_hinton,
    ),
    "bounded": Mode(
        bounded,
        "Chen et al. NeurIPS 2017: box regression where the teacher is nearer to the truth",
        f"{_HEADS}, equally many anchors",
        weight=0.5,
        options={"margin": "kd_margin", "distance": "kd_distance", "target": "kd_target"},
    ),
    "scaled": Mode(
        scaled,
        "Mehta & Ozturk 2018: all outputs, scaled by the teacher's objectness after FM-NMS",
        f"{_HEADS}, equal anchors",
        weight=0.5,
        relative_to="cls",
        same_anchors=True,
        options={"window": "kd_scaled_window"},
        joins={"scaled_box": "box"},
        check=check_scaled,
    ),
    "gap": Mode(
        gap,
        "Yang et al. ICCV 2023 (BCKD): overlap with the teacher's boxes, where the scores differ",
        f"{_HEADS}, equal anchors",
        weight=3.0,
        same_anchors=True,
    ),
    "aligned": Mode(
        aligned,
        "He et al. ICCV 2017, Cao et al. NeurIPS 2022: channel k against the ancestor's channel it was cut from",
        "a student (.pt) whose lineage names the teacher",
        weight=1.0,
        options={"distance": "kd_aligned_distance"},
        pairs=pairs_on_lineage,
        pair_options={"layers": "kd_aligned_layers"},
    ),
    "fitnets": Mode(
        fitnets,
        "Romero et al. ICLR 2015: a linear map of the student's features predicts the teacher's",
        _NECKS,
        weight=1.0,
        pairs=pairs_at_heads,
        adapter=projections,
    ),
    "attention": Mode(
        attention,
        "Zagoruyko & Komodakis ICLR 2017: active at the same places",
        _HEADS,
        weight=0.5,
        pairs=pairs_at_heads,
    ),
    "cwd": Mode(
        cwd,
        "Shu et al. ICCV 2021: each channel active at the same places",
        _NECKS,
        weight=5.0,
        options={"temperature": "kd_cwd_temperature"},
        pairs=pairs_at_heads,
        adapter=projections_where_needed,
    ),
    "pkd": Mode(
        pkd,
        "Cao et al. NeurIPS 2022: each channel correlated with the teacher's",
        _NECKS,
        weight=1.0,
        pairs=pairs_at_heads,
        adapter=projections_where_needed,
    ),
    "mgd": Mode(
        mgd,
        "Yang et al. ECCV 2022: the teacher's map rebuilt from the student's, masked",
        f"{_HEADS}; trains three convolutions per head",
        weight=1.0,
        options={"masked": "kd_masked"},
        pairs=pairs_at_heads,
        adapter=generators,
    ),
    "fgd": Mode(
        fgd,
        "Yang et al. CVPR 2022: features by object and attention, attention, and global relations",
        f"{_HEADS}; trains seven convolutions per head",
        weight=0.3,
        options={"temperature": "kd_fgd_temperature", "background": "kd_fgd_background"},
        pairs=pairs_at_heads,
        adapter=focal_global,
    ),
    "imitation": Mode(
        imitation,
        "Wang et al. CVPR 2019: the teacher's features near objects",
        f"{_HEADS}; trains a 3x3 convolution per head",
        weight=0.5,
        options={"near": "kd_near"},
        pairs=pairs_at_heads,
        adapter=wide_projections,
    ),
}


@dataclass
class KDConfig:
    """What the student takes from the teacher."""

    kd: str = option(
        "scaled,bounded",
        "KD terms, name:weight,... (a weight is relative to the gain of the detection term it joins); none is "
        "plain fine-tuning; --list-modes shows all",
        metavar="NAME[:W],...",
    )
    kd_temperature: float = option(
        1.0,
        "hinton: 1 asks for the probabilities themselves; higher T looks more at scores that both are sure of",
        low=0.01,
    )
    kd_classes: str = option(
        "auto",
        "hinton: class scores one by one (binary) or against each other (softmax); auto: as decoded",
        choices=CLASS_FORMS,
    )
    kd_margin: float = option(0.0, "bounded: how far the student has to beat the teacher before the term lets go")
    kd_distance: str = option(
        "l2",
        "bounded: l2 of the encoded boxes, or iou (1 - GIoU), which weighs all sizes alike",
        choices=DISTANCES,
    )
    kd_target: str = option("truth", "bounded: pull gated boxes to the truth or to the teacher's box", choices=TARGETS)
    kd_scaled_window: int = option(
        5,
        "scaled: the teacher's detections of a class compete within so many cells (odd)",
        low=1,
    )
    kd_aligned_layers: str = option(
        "stages",
        "aligned: the last convolution of each stage and head, or all (slower, more memory)",
        choices=ALIGNED_LAYERS,
    )
    kd_aligned_distance: str = option(
        "pearson",
        "aligned: pearson ignores how loud a channel is, l2 does not",
        choices=ALIGNED_DISTANCES,
    )
    kd_cwd_temperature: float = option(4.0, "cwd: higher looks at all places, lower at the most active ones", low=0.01)
    kd_masked: float = option(0.65, "mgd: share of the student's cells that are hidden", low=0, high=0.99)
    kd_fgd_temperature: float = option(0.5, "fgd: higher spreads the attention over more cells and channels", low=0.01)
    kd_fgd_background: float = option(0.5, "fgd: what the background counts against the objects", low=0)
    kd_near: float = option(
        0.5,
        "imitation: higher imitates nearer to the objects only (psi of the paper)",
        low=0,
        high=0.99,
    )
    kd_ramp: float = option(
        0.0,
        "share of the training over which KD weights rise from 0: the truth first",
        low=0,
        high=1,
    )
    kd_off: float = option(
        0.0,
        "share of the training at its end without KD terms, and without the teacher's time: the last steps "
        "belong to the truth",
        low=0,
        high=1,
    )
    kd_limit: float = option(
        0.5,
        "the most that a mode's gradient may be, as a share of the detection loss's (norms, measured every 100 steps); "
        "0 is no limit. A student far from its teacher would learn little else",
        low=0,
    )
    kd_balance: float = option(
        0.0,
        "instead of a limit: keep each mode's gradient norm at this share of the detection loss's (bare flag: 0.3; a "
        "mode with twice its default weight gets twice that); 0 leaves the weights as they are",
        low=0,
        const=0.3,
    )

    def modes(self) -> dict[str, float]:
        """Name -> weight, as `kd` says.

        Raises:
            UserError: an unknown name, a name given twice, or a weight that is not a number >= 0.
        """
        if self.kd.strip().lower() in ("", "none", "off"):
            return {}
        chosen: dict[str, float] = {}
        for part in self.kd.split(","):
            name, colon, weight = (piece.strip() for piece in part.partition(":"))
            if name not in MODES:
                raise UserError(f"--kd {self.kd}: there is no term '{name}'", todo=f"use {', '.join(MODES)} or none")
            if name in chosen:
                raise UserError(f"--kd {self.kd}: '{name}' is given twice", todo="name each term once")
            chosen[name] = _weight(weight, f"--kd {self.kd}") if colon else MODES[name].weight
        return chosen

    def options(self, name: str) -> dict[str, Any]:
        """The keywords of a mode's function."""
        return {keyword: getattr(self, setting) for keyword, setting in MODES[name].options.items()}

    def pairs(self, name: str, student: Network, teacher: Network, heads: Sequence[int]) -> list[FeaturePair]:
        """The layers a mode compares; empty for response modes. The mode's options are checked on the way.

        Args:
            heads: per head of the student, the number of the teacher's (`Alignment.heads`).

        Raises:
            UserError: the mode needs what this pair of networks lacks (a lineage, for *aligned*), or its options make
                no sense for them.
        """
        mode = MODES[name]
        if mode.check is not None:
            mode.check(student.specs, **self.options(name))
        if mode.pairs is None:
            return []
        options = {keyword: getattr(self, setting) for keyword, setting in mode.pair_options.items()}
        return mode.pairs(student, teacher, heads, **options)


def _weight(text: str, shown: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise UserError(f"{shown}: the weight '{text}' is not a number of at least 0", todo="--kd hinton:1,bounded:0.5")
    return weight


def describe_modes() -> str:
    """A table of all modes, for ``--list-modes``: two lines each."""
    lines = [
        "A KD term weighs its weight times the gain of the detection term it joins.",
        "",
        f"{'name':<10} {'weight':>6}  {'joins':<8} what it is",
    ]
    for name, mode in MODES.items():
        joined = ",".join(dict.fromkeys((mode.relative_to, *mode.joins.values())))
        lines.append(f"{name:<10} {mode.weight:>6g}  {joined:<8} {mode.paper}")
        lines.append(f"{'':<27}needs {mode.needs}")
    return "\n".join(lines)
