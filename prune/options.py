"""What can be asked of a cut: the options, budgets and layer patterns, each checked where it is given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.errors import UserError
from prune.identities import ChannelGraph, matches
from prune.importance import CRITERIA
from prune.select import STRATEGIES

BUDGETS = ("channels", "params", "flops", "latency")

_RANGE = re.compile(r"^(\d+)(?:-(\d+))?$")


@dataclass(frozen=True)
class ChannelOptions:
    """How channels are chosen; exactly one of budget, ratio and threshold is given.

    Attributes:
        strategy: who decides about channels that an add ties. "union": they go only if every member of the tie lets
            them go; "shared": the first layer of the tie decides for all; "conservative": they stay.
        criterion: what a channel is worth; see `prune.importance`.
        budget: kept share of the whole network, as "channels=0.4", "params=0.1", "flops=0.3" or "latency=0.5"; met
            after rounding, never above.
        ratio: share of the deciding scores that want to go; ties and floors then hold some back.
        threshold: scores up to it want to go.
        layer_keep: floor per convolution: a share of its channels (float) or a count (int); never below 1.
        round_to: survivors are a multiple of it, rounded up; 16 suits CPUs with AVX512, 8 others.
        fold: move what dropped channels leave behind into their readers.
        include: the layers whose channels may go, all if empty; patterns as in `chosen_layers`.
        exclude: layers whose channels stay; patterns too, and stronger than `include`.
        size: (H, W) at which MACs are counted; the cfg's own if None.
        seed: of the criterion "random".
    """

    strategy: str = "union"
    criterion: str = "gamma"
    budget: str | None = None
    ratio: float | None = None
    threshold: float | None = None
    layer_keep: float = 0.01
    round_to: int = 1
    fold: bool = True
    include: tuple[str, ...] = field(default=())
    exclude: tuple[str, ...] = field(default=())
    size: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "include", _patterns(self.include))
        object.__setattr__(self, "exclude", _patterns(self.exclude))
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy={self.strategy!r} is not known", todo=f"choose from {', '.join(STRATEGIES)}")
        if self.criterion not in CRITERIA:
            raise UserError(f"criterion={self.criterion!r} is not known", todo=f"choose from {', '.join(CRITERIA)}")
        given = [name for name in ("budget", "ratio", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(
                f"{' and '.join(given) or 'none of budget, ratio and threshold'} given for channel pruning",
                todo="give exactly one, as budget='channels=0.4' or ratio=0.6",
            )
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise UserError(f"ratio={self.ratio} is not a share", todo="give a number in 0..1")
        if self.round_to < 1:
            raise UserError(f"round_to={self.round_to} has to be at least 1")
        if self.layer_keep < 0 or (isinstance(self.layer_keep, float) and self.layer_keep > 1):
            raise UserError(f"layer_keep={self.layer_keep} is neither a share in 0..1 nor a count")
        if self.budget is not None:
            parse_budget(self.budget)


def parse_budget(text: str) -> tuple[str, float]:
    """ "params=0.1" -> ("params", 0.1). Raises `UserError` on anything else."""
    what, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if what.strip() not in BUDGETS or not 0 < share <= 1:
        raise UserError(
            f"budget={text!r} is not a kept share",
            todo=f"write one of {', '.join(BUDGETS)} and a number in 0..1, as params=0.1",
        )
    return what.strip(), share


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Patterns one by one; a text may hold several, with commas."""
    texts = [given] if isinstance(given, str) else given
    return tuple(part.strip() for text in texts for part in str(text).split(",") if part.strip())


def held_layers(graph: ChannelGraph, include: Iterable[str], exclude: Iterable[str]) -> set[str]:
    """The convolutions whose channels have to stay: all that `include` does not name, and all that `exclude` does."""
    include = tuple(include)
    wanted = chosen_layers(graph, include, "include") if include else set(graph.convs)
    return set(graph.convs) - wanted | chosen_layers(graph, exclude, "exclude")


def chosen_layers(graph: ChannelGraph, patterns: Iterable[str], what: str) -> set[str]:
    """The convolutions that any of the patterns names.

    Args:
        patterns: "12" (Darknet's layer 12), "12-20" (layers 12 to 20, both included), or a glob over module names
            or their leading parts: "layers.3", "layers.1?", "layers.4.*".
        what: the option's name, for the message.

    Raises:
        UserError: a pattern that names no convolution.
    """
    chosen = set()
    for pattern in patterns:
        if number := _RANGE.match(pattern):
            first, last = int(number[1]), int(number[2] or number[1])
            found = {name for name in graph.convs if first <= _number(name) <= last}
        else:
            found = {name for name in graph.convs if matches(name, pattern)}
        if not found:
            some = ", ".join(list(graph.convs)[:3])
            raise UserError(
                f"{what}={pattern!r} matches no convolution",
                todo=f"names look like {some}; write a layer as 12, several as 12-20, or a glob",
            )
        chosen |= found
    return chosen


def _number(name: str) -> int:
    """The Darknet layer a module belongs to; -1 if it belongs to none."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" and len(parts) > 1 and parts[1].isdigit() else -1
