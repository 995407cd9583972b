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
from distill.bounded import DISTANCES, TARGETS, bounded
from distill.hinton import CLASS_FORMS, hinton
from distill.pairs import FeaturePair
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
        adapter: makes the trained module between the two networks' channels; None where the mode needs none.
    """

    function: Callable[..., dict[str, Tensor]]
    paper: str
    needs: str
    weight: float
    relative_to: str
    same_anchors: bool
    options: dict[str, str]
    joins: Mapping[str, str] = field(default_factory=dict)
    pairs: Callable[..., list[FeaturePair]] | None = None
    pair_options: Mapping[str, str] = field(default_factory=dict)
    adapter: Callable[[Sequence[FeaturePair]], nn.Module] | None = None

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


MODES: dict[str, Mode] = {
    "hinton": Mode(
        hinton,
        "Hinton et al. 2015: softened class and objectness scores",
        "heads of equal strides, classes and anchors",
        weight=1.0,
        relative_to="cls",
        same_anchors=True,
        options={"temperature": "kd_temperature", "classes": "kd_classes"},
    ),
    "bounded": Mode(
        bounded,
        "Chen et al. NeurIPS 2017: box regression where the teacher is nearer to the truth",
        "heads of equal strides and numbers of anchors",
        weight=0.5,
        relative_to="box",
        same_anchors=False,
        options={"margin": "kd_margin", "distance": "kd_distance", "target": "kd_target"},
    ),
}


@dataclass
class KDConfig:
    """What the student takes from the teacher."""

    kd: str = field(
        default="hinton,bounded",
        metadata={
            "help": "KD terms, name:weight,... (a weight is relative to the gain of the detection term it joins); "
            "none is plain fine-tuning; --list-modes shows all",
            "metavar": "NAME[:W],...",
        },
    )
    kd_temperature: float = field(
        default=2.0, metadata={"help": "hinton: higher T looks at all scores, 1 mostly at the wrong ones", "low": 0.01}
    )
    kd_classes: str = field(
        default="auto",
        metadata={
            "help": "hinton: class scores one by one (binary) or against each other (softmax); auto: as decoded",
            "choices": CLASS_FORMS,
        },
    )
    kd_margin: float = field(
        default=0.0, metadata={"help": "bounded: how far the student has to beat the teacher before the term lets go"}
    )
    kd_distance: str = field(
        default="l2",
        metadata={
            "help": "bounded: l2 of the encoded boxes, or iou (1 - GIoU), which weighs all sizes alike",
            "choices": DISTANCES,
        },
    )
    kd_target: str = field(
        default="truth",
        metadata={"help": "bounded: pull gated boxes to the truth or to the teacher's box", "choices": TARGETS},
    )
    kd_ramp: float = field(
        default=0.0,
        metadata={
            "help": "share of the training over which KD weights rise from 0: the truth first",
            "low": 0,
            "high": 1,
        },
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
        """The layers a mode compares; empty for response modes.

        Args:
            heads: per head of the student, the number of the teacher's (`Alignment.heads`).

        Raises:
            UserError: the mode needs what this pair of networks lacks (a lineage, for *aligned*).
        """
        mode = MODES[name]
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
    """A table of all modes, for ``--list-modes``."""
    lines = [f"{'name':<10} {'weight':>6}  of    what, and what it needs"]
    for name, mode in MODES.items():
        lines.append(f"{name:<10} {mode.weight:>6g}  {mode.relative_to:<4}  {mode.paper}; needs {mode.needs}")
    return "\n".join(lines)
