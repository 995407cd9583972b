"""A cut as an object: what is to go, by what it is judged, and what holds it back.

Whatever cuts takes a `CutPlan` whole. Its fields are the options too: their defaults, limits and help stand here, for
flags, YAML keys and Python keywords alike. Nothing heavy is imported.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from common.errors import UserError, closest
from common.options import option
from prune.budgets import Budget, parse_budget
from prune.criteria import CRITERIA

Auto = Literal["auto"]

STRATEGIES = ("union", "shared", "conservative")

# How deep channels are cut is said by at most one of these.
_DEPTHS = ("max_drop", "budget", "ratio", "threshold")

_NUMBER, _COUNT = (numbers.Real,), (numbers.Integral,)
# Field -> what it may be, in words, and an example. None is for those that may be absent.
_TYPES: dict[str, tuple[tuple[type, ...], str, str]] = {
    "strategy": ((str,), "a word", "'union'"),
    "criterion": ((str,), "a word", "'gamma'"),
    "budget": ((str,), "a text that says of what", "'params=0.5'"),
    "ratio": (_NUMBER, "a number", "0.6"),
    "threshold": (_NUMBER, "a number", "0.01"),
    "max_drop": (_NUMBER, "a number", "0.02"),
    "layer_keep": (_NUMBER, "a number", "0.05"),
    "round_to": (_COUNT, "a whole number", "8"),
    "rounds": (_COUNT, "a whole number", "2"),
    "seed": (_COUNT, "a whole number", "0"),
    "shortcuts": ((*_COUNT, str), "a whole number of blocks or 'auto'", "8"),
    "size": ((tuple, list), "(height, width)", "(416, 416)"),
    "include": ((str, tuple, list), "a list of layers", "('0-12',)"),
    "exclude": ((str, tuple, list), "a list of layers", "('0-12',)"),
}


@dataclass(frozen=True)
class CutPlan:
    """What is asked of a cut. Without budget, ratio, threshold and max_drop only shortcut blocks go.

    Attributes:
        strategy: who decides about channels that an add ties. "union": they go only if every member of the tie lets
            them go; "shared": the first layer of the tie decides for all; "conservative": they stay.
        criterion: what a channel is worth; see `prune.criteria`.
        budget: kept share of the whole network, as "channels=0.4", "params=0.1", "flops=0.3" or "latency=0.5"; met
            after rounding, never above.
        ratio: share of the deciding scores that want to go; ties and floors then hold some back.
        threshold: scores up to it want to go.
        layer_keep: floor per convolution: a share of its channels (float) or a count (int); never below 1.
        round_to: survivors are a multiple of it, rounded up; 16 suits CPUs with AVX512, 8 others.
        fold: move what dropped channels leave behind into their readers.
        include: the layers whose channels may go, all if empty; patterns as in `prune.layers.chosen_layers`.
        exclude: layers whose channels stay; patterns too, and stronger than `include`.
        size: (H, W) at which MACs are counted; the cfg's own if None.
        seed: of a criterion that needs one.
        shortcuts: how many shortcut blocks go, the lowest first; "auto": blocks and channels compete for the one
            budget, and a block goes once the threshold has passed the mean |gamma| of its last BatchNorm.
        max_drop: instead of a budget, how much the score may fall (`prune.max_drop`).
        rounds: cuts in which budget and blocks are reached; each is the plan that `round` gives.
    """

    strategy: str = option(
        "union",
        "who decides about channels tied by an add. union: they go only if every layer of the tie lets them go; "
        "shared: the first layer of the tie decides for all; conservative: they stay",
        choices=STRATEGIES,
    )
    criterion: str = option(
        "gamma",
        "what a channel is worth: " + ", ".join(f"{name} ({each.help})" for name, each in CRITERIA.items()),
        choices=tuple(CRITERIA),
    )
    budget: str | None = None
    ratio: float | None = None
    threshold: float | None = None
    layer_keep: float = option(
        0.05, "share of its channels every layer keeps, whatever the threshold says", low=0, high=1
    )
    round_to: int = option(
        1,
        "keep multiples of so many channels, rounded up, the budget still met; 16 suits CPUs with AVX512, 8 others",
        low=1,
        high=4096,
    )
    fold: bool = option(
        True,
        "lose what pruned channels still put out (the constant act(beta)) instead of folding it into their readers: "
        "only to compare with",
    )
    include: tuple[str, ...] = option(
        (), "only these layers lose channels: layer numbers (12, 12-20) or globs (layers.1?)", metavar="LAYERS"
    )
    exclude: tuple[str, ...] = option((), "these layers keep all their channels", metavar="LAYERS")
    size: tuple[int, int] | None = None
    seed: int = 0
    shortcuts: int | Auto = 0
    max_drop: float | None = None
    rounds: int = option(
        1, "reach the budget in so many cuts, with a short training between two: for deep cuts", low=1, high=100
    )

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "include", _patterns(self.include))
        object.__setattr__(self, "exclude", _patterns(self.exclude))
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy={self.strategy!r} is not known", todo=f"choose from {', '.join(STRATEGIES)}")
        if self.criterion not in CRITERIA:
            raise UserError(f"criterion={self.criterion!r} is not known", todo=f"choose from {', '.join(CRITERIA)}")
        if self.round_to < 1:
            raise UserError(f"round_to={self.round_to} has to be at least 1")
        if self.layer_keep < 0 or (isinstance(self.layer_keep, float) and self.layer_keep > 1):
            raise UserError(f"layer_keep={self.layer_keep} is neither a share in 0..1 nor a count")
        if isinstance(self.shortcuts, str) and self.shortcuts != "auto":
            raise UserError(f"shortcuts={self.shortcuts!r} is neither a number of blocks nor 'auto'")
        self._check_depth()

    def _check_types(self) -> None:
        """A program hands over whatever it has: budget=0.5, shortcuts=1.5."""
        for name, (kinds, words, example) in _TYPES.items():
            value = getattr(self, name)
            if value is None and name in (*_DEPTHS, "size"):
                continue
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise UserError(f"{name}={value!r} is not {words}", todo=f"write for example {name}={example}")

    def _check_depth(self) -> None:
        given = [name for name in _DEPTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(
                f"{' and '.join(given)} given for channel pruning",
                todo="give exactly one, as budget='channels=0.4' or ratio=0.6",
            )
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise UserError(f"ratio={self.ratio} is not a share", todo="give a number in 0..1")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise UserError(f"max_drop={self.max_drop} has to be a drop of 0 or more")
        if self.budget is not None:
            parse_budget(self.budget)
        if self.rounds > 1 and self.budget is None and self.cuts_channels:
            raise UserError(
                f"rounds={self.rounds} needs a budget to share out", todo="give one, as budget='params=0.1'"
            )

    @classmethod
    def of(cls, plan: CutPlan | None, given: Mapping[str, Any]) -> CutPlan:
        """A plan with some of its options changed, or the plan of these options alone: the form for notebooks.

        Raises:
            UserError: an option that there is not, or options that contradict each other.
        """
        if not (plan is None or isinstance(plan, cls)):
            raise UserError(f"{plan!r} is no CutPlan", todo="give options by name, as strategy='union' or shortcuts=2")
        known = [each.name for each in fields(cls)]
        for name, value in given.items():
            if name not in known:
                near = closest(name, known)
                raise UserError(
                    f"{name}={value!r}: a cut has no such option",
                    todo=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
                )
        return replace(plan or cls(), **given)

    @property
    def cuts_channels(self) -> bool:
        return any(getattr(self, name) is not None for name in _DEPTHS)

    @property
    def kept(self) -> tuple[Budget, float] | None:
        """The budget: its kind, and the share that is kept; None if the depth is said in another way."""
        return None if self.budget is None else parse_budget(self.budget)

    @property
    def measured(self) -> bool:
        """The cut is found by measuring candidates: their latency, or their score."""
        kept = self.kept
        return self.max_drop is not None or (kept is not None and kept[0].measured)

    @property
    def asked(self) -> dict[str, Any]:
        """As the report tells it."""
        if not self.cuts_channels:
            return {"shortcuts": self.shortcuts}
        return {name: value for name, value in vars(self).items() if name not in ("max_drop", "rounds")}

    def rehearsal(self, ratio: float = 0.5, criterion: str = "") -> CutPlan:
        """The plan as far as it can be tried at once, without pictures and without a clock.

        Args:
            ratio: stands for a depth that is found by measuring: the share of the scores that go.
            criterion: stands for one that needs losses; "": the one its record names.
        """
        own = CRITERIA[self.criterion]
        known = replace(self, budget=None, max_drop=None, ratio=ratio, rounds=1) if self.measured else self
        instead = (criterion or own.rehearsal) if own.needs == "losses" else self.criterion
        return replace(known, criterion=instead, rounds=1)

    def round(self, number: int, left: float = 1.0) -> CutPlan:
        """The cut of one round: equal factors lead to the budget, and each takes an equal part of the blocks.

        Args:
            number: from 1; the last one reaches the budget.
            left: the share of the uncut network's cost that earlier rounds have left.
        """
        if self.rounds == 1:
            return self
        budget, shortcuts = self.budget, self.shortcuts
        if kept := self.kept:
            budget = f"{kept[0].name}={min(1.0, kept[1] ** (number / self.rounds) / left)!r}"
        if not isinstance(shortcuts, str):
            shortcuts = shortcuts * number // self.rounds - shortcuts * (number - 1) // self.rounds
        return replace(self, budget=budget, shortcuts=shortcuts, rounds=1)


PLANNED = tuple(each.name for each in fields(CutPlan) if each.metadata)
"""The options that are declared above, each with its help."""


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Patterns one by one; a text may hold several, with commas."""
    texts = [given] if isinstance(given, str) else given
    return tuple(part.strip() for text in texts for part in str(text).split(",") if part.strip())
