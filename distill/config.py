"""What the student takes from the teacher: the options behind ``--kd`` and all that begins with ``kd_``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import UserError
from common.options import option
from distill.mode import Mode
from distill.modes import AUTO, MODES, USUAL_MODES, KDModes

if TYPE_CHECKING:
    from distill.pairs import FeaturePair
    from models.network import Network


@dataclass
class KDConfig(KDModes):
    """The modes with their options, and how their weights run."""

    kd_ramp: float = option(
        0.0, "share of the training over which KD weights rise from 0: the truth first", low=0, high=1
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
        high=1000,
    )
    kd_balance: float = option(
        0.0,
        "instead of a limit: keep each mode's gradient norm at this share of the detection loss's (bare flag: 0.3; a "
        "mode with twice its default weight gets twice that); 0 leaves the weights as they are",
        low=0,
        const=0.3,
        high=100,
    )

    @property
    def is_auto(self) -> bool:
        """Whether nobody chose the modes."""
        return self.kd.strip().lower() == AUTO

    def modes(self) -> dict[str, float]:
        """Name -> weight, as `kd` says.

        Raises:
            UserError: an unknown name, a name given twice, or a weight that is not a number >= 0.
        """
        if self.kd.strip().lower() in ("", "none", "off"):
            return {}
        chosen: dict[str, float] = {}
        for part in (USUAL_MODES if self.is_auto else self.kd).split(","):
            name, colon, weight = (piece.strip() for piece in part.partition(":"))
            if name not in MODES:
                raise UserError(f"--kd {self.kd}: there is no term '{name}'", todo=f"use {', '.join(MODES)} or none")
            if name in chosen:
                raise UserError(f"--kd {self.kd}: '{name}' is given twice", todo="name each term once")
            chosen[name] = _weight(weight, f"--kd {self.kd}") if colon else MODES[name].weight
        return chosen

    def mode(self, name: str) -> Mode:
        """The mode `name` with the options that were chosen."""
        mode = getattr(self, name)
        assert isinstance(mode, Mode), name
        return mode

    def pairs(self, name: str, student: Network, teacher: Network, heads: Sequence[int]) -> list[FeaturePair]:
        """The layers a mode compares; empty for response modes. The mode's options are checked on the way.

        Args:
            heads: per head of the student, the number of the teacher's (`Alignment.heads`).

        Raises:
            UserError: the mode needs what this pair of networks lacks (a lineage, for *aligned*), or its options make
                no sense for them.
        """
        mode = self.mode(name)
        mode.check(student.specs)
        return mode.pairs(student, teacher, heads)


def _weight(text: str, shown: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise UserError(f"{shown}: the weight '{text}' is not a number of at least 0", todo="--kd hinton:1,bounded:0.5")
    return weight
