"""Blocks of today's detectors, and how each is written as cfg sections.

A block is a description without weights: widths, strides, what is added to what. `Graph.cfg` writes a list of them as
sections that read each other; the convolutions come out in the order in which they were written.

Where a program computes one convolution and splits its output (C2f, C3k2, C2PSA, q-k-v), there are two or three here:
the same sums, and each half can be cut as it deserves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from models.cfg import Cfg, Section


@dataclass
class Writer:
    """Sections as they are written: `layers`, and each `Conv` in the order of its section."""

    layers: list[Section] = field(default_factory=list)
    convolutions: list[Conv] = field(default_factory=list)

    def add(self, kind: str, options: dict[str, object], inputs: Sequence[Section]) -> Section:
        section = Section(kind, inputs=list(inputs), source="blocks")
        if key := section.facts.reference:
            section.options[key] = ""  # written as numbers with the text
        for name, value in options.items():
            section.set(name, value)
        self.layers.append(section)
        return section

    def join(self, parts: Sequence[Section]) -> Section:
        """The parts one after the other along the channels."""
        return self.add("route", {}, parts) if len(parts) > 1 else parts[0]


class Block(ABC):
    """Something that reads one map and gives one."""

    @abstractmethod
    def write(self, to: Writer, x: Section) -> Section:
        """Append the sections of this block, which reads `x`; returns the section that holds its output."""


@dataclass(frozen=True, eq=False)
class Conv(Block):
    """A convolution, BatchNorm or bias, activation.

    Attributes:
        activation: Darknet's name.
        padding: None: half the size.
        weights: whatever the maker wants back with the convolution's layer.
    """

    filters: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = "swish"
    normalised: bool = True
    padding: int | None = None
    weights: Any = None

    def write(self, to: Writer, x: Section) -> Section:
        options: dict[str, object] = {"batch_normalize": 1} if self.normalised else {}
        options |= {"filters": self.filters, "size": self.size, "stride": self.stride}
        half = self.padding is None or self.padding == self.size // 2
        options |= {"pad": 1} if half else {"padding": self.padding}
        options |= {"groups": self.groups} if self.groups > 1 else {}
        to.convolutions.append(self)
        return to.add("convolutional", options | {"activation": self.activation}, [x])


@dataclass(frozen=True)
class Chain(Block):
    """One after the other."""

    blocks: Sequence[Block]

    def write(self, to: Writer, x: Section) -> Section:
        for block in self.blocks:
            x = block.write(to, x)
        return x


@dataclass(frozen=True)
class Residual(Block):
    """What comes in plus what the branch makes of it."""

    branch: Block

    def write(self, to: Writer, x: Section) -> Section:
        return to.add("shortcut", {"activation": "linear"}, [self.branch.write(to, x), x])


@dataclass(frozen=True)
class CrossStage(Block):
    """A part that passes by, a part that goes through `inner`, joined and mixed by `last` (CSP; Wang et al., 2020).

    Attributes:
        dense: is every intermediate map joined, and not only the last one?
        bypass_first: which part comes first where they are joined.
    """

    bypass: Conv
    main: Conv
    inner: Sequence[Block]
    last: Conv
    dense: bool = False
    bypass_first: bool = True

    def write(self, to: Writer, x: Section) -> Section:
        bypass = self.bypass.write(to, x)
        seen = [self.main.write(to, x)]
        for block in self.inner:
            seen.append(block.write(to, seen[-1]))
        kept = seen if self.dense else seen[-1:]
        return self.last.write(to, to.join([bypass, *kept] if self.bypass_first else [*kept, bypass]))


@dataclass(frozen=True)
class Pools(Block):
    """Pools of stride 1 over a narrow map, joined with it (SPP); `chained`: each reads the one before (SPPF)."""

    first: Conv
    sizes: Sequence[int]
    chained: bool
    last: Conv

    def write(self, to: Writer, x: Section) -> Section:
        seen = [self.first.write(to, x)]
        for size in self.sizes:
            seen.append(to.add("maxpool", {"size": size, "stride": 1}, [seen[-1] if self.chained else seen[0]]))
        return self.last.write(to, to.join(seen))


@dataclass(frozen=True)
class SelfAttention(Block):
    """Attention between all places of a map; `position` (depthwise, on the values) is added to it.

    Attributes:
        scale: what products of queries and keys are multiplied by.
    """

    queries: Conv
    keys: Conv
    values: Conv
    position: Conv
    project: Conv
    heads: int
    scale: float

    def write(self, to: Writer, x: Section) -> Section:
        queries, keys, values = (conv.write(to, x) for conv in (self.queries, self.keys, self.values))
        position = self.position.write(to, values)
        seen = to.add("attention", {"heads": self.heads, "scale": self.scale}, [queries, keys, values])
        return self.project.write(to, to.add("shortcut", {"activation": "linear"}, [seen, position]))


@dataclass(frozen=True)
class Upsample(Block):
    """Nearest neighbour by 2."""

    def write(self, to: Writer, x: Section) -> Section:
        return to.add("upsample", {"stride": 2}, [x])


@dataclass(frozen=True)
class Towers:
    """The heads without anchors of one kind: for each map that is read, a tower for the sides and one for classes."""

    sides: Sequence[Block]
    classes: Sequence[Block]
    one_to_one: bool = False


@dataclass
class Graph:
    """A detector: blocks, and the heads that read them.

    Attributes:
        blocks: with the numbers of the blocks each reads; -1 is the picture. Several are joined, before the block
            (None: that is all).
        reads: the numbers of the blocks that the heads read.
    """

    blocks: list[tuple[Sequence[int], Block | None]]
    reads: Sequence[int]
    towers: Sequence[Towers]
    classes: int
    bins: int

    def cfg(self, height: int = 640, width: int = 640) -> tuple[Cfg, list[Conv]]:
        """The sections, and the convolutions in their order."""
        net = Section("net", {"width": str(width), "height": str(height), "channels": "3"}, source="blocks")
        to, made = Writer(), {-1: net}
        for number, (reads, block) in enumerate(self.blocks):
            x = to.join([made[source] for source in reads])
            made[number] = x if block is None else block.write(to, x)
        for towers in self.towers:
            for source, sides, classes in zip(self.reads, towers.sides, towers.classes, strict=True):
                maps = [tower.write(to, made[source]) for tower in (sides, classes)]
                options: dict[str, object] = {"classes": self.classes, "bins": self.bins}
                to.add("detect", options | ({"one_to_one": 1} if towers.one_to_one else {}), maps)
        return Cfg(net, to.layers), to.convolutions
