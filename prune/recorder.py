"""What a walk writes down: steps, convolutions, ties, what is fixed; and the `ChannelGraph` it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor, fx

from prune.identities import ChannelGraph, Conv, EqualSlices, Ids, Step, tied_groups
from prune.symbols import Ref, refs_in


class Recorder:
    """The notes of one walk; `node` is where it stands."""

    node: fx.Node

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.convs: dict[str, Conv] = {}
        self.norms: dict[str, Ids] = {}
        self.constraints: list[EqualSlices] = []
        self.count = 0
        self.left: list[Ids] = []
        self.right: list[Ids] = []
        self.fixed: list[tuple[Ids, str]] = []

    def finished(self) -> ChannelGraph:
        """The channel graph of everything noted."""
        root = tied_groups(self.count, self.left, self.right)
        fixed = np.zeros(self.count, bool)
        reasons: dict[int, str] = {}
        for ids, why in self.fixed:
            groups = np.unique(root[ids])
            fixed[groups] = True
            for group in groups.tolist():
                reasons.setdefault(group, why)
        return ChannelGraph(self.steps, self._with_norms(), self.norms, self.constraints, root, fixed[root], reasons)

    def _with_norms(self) -> dict[str, Conv]:
        """The convolutions, each with the BatchNorm that is its only reader."""
        readers: dict[int, list[int]] = {}
        for number, step in enumerate(self.steps):
            for source in step.reads:
                readers.setdefault(source, []).append(number)
        calls: dict[str, int] = {}
        for step in self.steps:
            if step.module is not None:
                calls[step.module] = calls.get(step.module, 0) + 1
        found = {}
        for number, step in enumerate(self.steps):
            if step.op == "conv" and step.module is not None:
                users = readers.get(number, [])
                alone = len(users) == 1 and self.steps[users[0]].op == "norm"
                conv = self.convs[step.module]
                norm = self.steps[users[0]].module if alone else None
                if norm is not None and calls[norm] != calls[step.module]:  # it also scales another convolution
                    norm = None
                found[step.module] = Conv(conv.name, conv.reads, conv.makes, conv.groups, conv.depthwise, norm)
        return found

    # -- building blocks -----------------------------------------------------------------------------------------------

    def fresh(self, channels: int) -> Ids:
        """New identities."""
        self.count += channels
        return np.arange(self.count - channels, self.count)

    def fix(self, ids: Ids, why: str) -> None:
        """These have to stay; `why` fits after "12 channels:"."""
        self.fixed.append((ids, why))

    def tie(self, a: Ids, b: Ids) -> None:
        """Pair by pair, they stand or fall together."""
        self.left.append(a)
        self.right.append(b)

    def emit(self, op: str, reads: Iterable[Ref] = (), ids: Ids | None = None, **more: Any) -> Ref:
        """Note a step; see `Step` for `more`."""
        number = len(self.steps)
        more.setdefault("origin", number)
        self.steps.append(Step(op, self.node.name, tuple(ref.step for ref in reads), ids, **more))
        return Ref(number)

    def no_rule(self) -> str:
        """Why channels stay that an operation reads of which nothing is known."""
        return f"read by {self.operation}, through which channels cannot be followed"

    @property
    def operation(self) -> str:
        """What is called where the walk stands, as a person would name it: "softmax", "layers.0.model.head"."""
        target = self.node.target
        return target if isinstance(target, str) else getattr(target, "__name__", str(target))

    def step(self, ref: Ref) -> Step:
        return self.steps[ref.step]

    def width(self, ref: Ref) -> int | None:
        """Channels of a tensor, where they are known."""
        ids = self.step(ref).ids
        return None if ids is None else len(ids)

    def opaque(self, args: Any) -> Ref:
        """An operation without a rule: everything that enters stays."""
        refs = refs_in(args)
        for ref in refs:
            ids = self.step(ref).ids
            if ids is not None:
                self.fix(ids, self.no_rule())
        return self.emit("opaque", refs)

    def mixed(self, ref: Ref, channels: int) -> Ref:
        """A known number of channels, each made of many: all that enter and leave stay."""
        why = f"mixed by {self.operation}"
        if (ids := self.step(ref).ids) is not None:
            self.fix(ids, why)
        made = self.fresh(channels)
        self.fix(made, why)
        return self.emit("mixed", [ref], made)

    def pointwise(self, ref: Ref, apply: Callable[..., Tensor]) -> Ref:
        """Acts on each element alone."""
        step = self.step(ref)
        return self.emit("pointwise", [ref], step.ids, apply=apply, origin=step.origin)

    def passed(self, ref: Ref) -> Ref:
        """Acts on each channel alone and maps a constant onto itself."""
        return self.emit("pass", [ref], self.step(ref).ids)

    def take(self, ref: Ref, index: Ids) -> Ref:
        """Output channel k is input channel ``index[k]``."""
        ids = self.step(ref).ids
        return self.opaque([ref]) if ids is None else self.emit("take", [ref], ids[index], index=index)
