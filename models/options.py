"""What the detection loss rewards, as options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.options import option

BOX_LOSSES = ("ciou", "giou")
ANCHOR_REACH = 4.0
"""A box is within reach of an anchor when neither side differs by this factor or more."""

GAINS = {
    "anchored": {"box": 10.0, "obj": 100.0, "cls": 1.0},
    "free": {"box": 7.5, "cls": 0.5, "dfl": 1.5},
}
"""The terms of each family of heads (`models.heads.FAMILIES`) and their usual gains."""


def _gain(term: str, help: str) -> Any:
    words = {"anchored": "with anchors", "free": "without"}
    usual = [f"{gains[term]:g} {words[family]}" for family, gains in GAINS.items() if term in gains]
    return option(None, f"gain of the {help} (none: {' and '.join(usual)})", low=0, high=1e6)


@dataclass
class LossConfig:
    """What the detection loss rewards."""

    box: float | None = _gain("box", "box loss: tighter boxes against better scores")
    obj: float | None = _gain("obj", "objectness loss of heads with anchors: fewer misses and false alarms")
    cls: float | None = _gain(
        "cls",
        "class loss: fewer confusions between classes; without anchors, fewer misses and false alarms too",
    )
    dfl: float | None = _gain("dfl", "loss of the distances to the four sides of heads without anchors: tighter boxes")
    box_loss: str = option(
        "ciou",
        "ciou (overlap, centre distance, aspect ratio) or giou (overlap and enclosing box)",
        choices=BOX_LOSSES,
    )
    obj_target: float = option(
        1.0,
        "with anchors: the objectness a matched cell learns: 0 = always 1, 1 = its box's overlap with the truth, so "
        "that scores rank boxes by quality; between = a blend",
        low=0,
        high=1,
    )
    obj_balance: float = option(
        1.5,
        "with anchors: how much more the objectness of fine heads counts: weight ~ stride ^ -value, mean 1 over "
        "heads; their objects are a smaller share of their many cells",
        low=-10,
        high=10,
    )
    label_smoothing: float = option(
        0.0,
        "with anchors: class targets e/2 and 1 - e/2 instead of 0 and 1: less sure, for noisy labels",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        if self.box_loss not in BOX_LOSSES:
            known = ", ".join(BOX_LOSSES)
            raise UserError(f"box_loss '{self.box_loss}' is not known", todo=f"use one of {known}")
        for name in ("box", "obj", "cls", "dfl"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"the {name} gain {getattr(self, name)} is negative", todo="use 0 to switch a term off")
        for name in ("obj_target", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)} is outside 0..1", todo="use a number from 0 to 1")

    def gains(self, family: str) -> dict[str, float]:
        """Name of a term of a family's loss -> its gain: what was asked for, or else the usual one."""
        asked = {name: getattr(self, name) for name in GAINS[family]}
        return {name: GAINS[family][name] if gain is None else gain for name, gain in asked.items()}
