"""What the detection loss rewards, as options."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from common.options import option

BOX_LOSSES = ("ciou", "giou")


@dataclass
class LossConfig:
    """What the detection loss rewards."""

    box: float = option(10.0, "gain of the box loss: tighter boxes against better scores")
    obj: float = option(100.0, "gain of the objectness loss: fewer misses and false alarms")
    cls: float = option(1.0, "gain of the class loss: fewer confusions between classes")
    box_loss: str = option(
        "ciou",
        "ciou (overlap, centre distance, aspect ratio) or giou (overlap and enclosing box)",
        choices=BOX_LOSSES,
    )
    obj_target: float = option(
        1.0,
        "objectness a matched cell learns: 0 = always 1, 1 = its box's overlap with the truth, so that "
        "scores rank boxes by quality; between = a blend",
    )
    obj_balance: float = option(
        1.5,
        "how much more the objectness of fine heads counts: weight ~ stride ^ -value, mean 1 over heads; "
        "their objects are a smaller share of their many cells",
    )
    label_smoothing: float = option(
        0.0, "class targets e/2 and 1 - e/2 instead of 0 and 1: less sure, for noisy labels"
    )

    def __post_init__(self) -> None:
        if self.box_loss not in BOX_LOSSES:
            known = ", ".join(BOX_LOSSES)
            raise UserError(f"box_loss '{self.box_loss}' is not known", todo=f"use one of {known}")
        for name in ("box", "obj", "cls"):
            if getattr(self, name) < 0:
                raise UserError(f"the {name} gain {getattr(self, name)} is negative", todo="use 0 to switch a term off")
        for name in ("obj_target", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)} is outside 0..1", todo="use a number from 0 to 1")
