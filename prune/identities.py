"""Channel identities: which channels of a network are one and the same thing, and what may not be dropped.

Every output channel of every convolution is given a number, its *identity*. A tensor is then described by the list of
identities of its channels. Two identities that an add sums are *tied*: they stand or fall together. Everything here is
numpy integer arrays over identities; nothing loops over channels.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

EXCLUDED = "by include and exclude"  # why a channel is fixed that nothing in the network holds


@dataclass
class Step:
    """One operation of the traced network, in the order of execution.

    Attributes:
        op: conv | norm | pointwise | pass | cat | take | add | gate | mixed | opaque. *pass* acts on each channel
            alone and maps a constant onto itself (pools, upsampling); *pointwise* acts on each element alone.
        name: the node's name in the traced graph, for messages.
        reads: the steps whose tensors it reads.
        ids: ``(C,)`` identities of the output's channels; None where channels are lost (a reshape).
        module: qualified name of the module, for conv, norm and module calls.
        apply: *pointwise* only: the function itself, on a ``(1, C, 1, 1)`` tensor.
        index: *take* only: output channel -> input channel.
        origin: tensors of one origin are elementwise functions of one tensor.
    """

    op: str
    name: str
    reads: tuple[int, ...] = ()
    ids: Ids | None = None
    module: str | None = None
    apply: Callable[..., Tensor] | None = None
    index: Ids | None = None
    origin: int = -1


@dataclass(frozen=True)
class Conv:
    """The channels of one convolution.

    Attributes:
        name: qualified module name.
        reads, makes: ``(C_in,)``, ``(C_out,)`` identities. A depthwise convolution makes what it reads.
        groups: 1, 1 < g < C (equal survivors per group), or C (depthwise).
        depthwise: each output channel reads one input channel alone.
        norm: the BatchNorm that alone reads it, if there is one.
    """

    name: str
    reads: Ids
    makes: Ids
    groups: int = 1
    depthwise: bool = False
    norm: str | None = None


@dataclass(frozen=True)
class EqualSlices:
    """A cardinality constraint: all slices keep equally many channels.

    Attributes:
        by: what asks for it, as "by a grouped convolution or route".
    """

    name: str
    slices: tuple[Ids, ...]
    by: str = "by a grouped convolution or route"


@dataclass
class ChannelGraph:
    """What `trace` found out about a network's channels.

    Attributes:
        steps: the operations in order.
        convs, norms: by qualified module name; a norm's entry is the identities its gammas scale.
        constraints: the cardinality constraints.
        root: ``(N,)`` identity -> the number of its tied group (the smallest identity in it).
        fixed: ``(N,)`` whether the identity's group has to stay.
        reasons: number of a fixed group -> why it is fixed, as "the network's output".
    """

    steps: list[Step]
    convs: dict[str, Conv]
    norms: dict[str, Ids]
    constraints: list[EqualSlices]
    root: Ids
    fixed: Mask
    reasons: dict[int, str] = field(default_factory=dict)

    def prunable(self, ids: Ids) -> Mask:
        """Per channel: may it be dropped at all?"""
        return ~self.fixed[ids]

    @property
    def tied(self) -> Mask:
        """``(N,)``: does the identity share its group with another one?"""
        return np.bincount(self.root, minlength=len(self.root))[self.root] > 1

    def fixed_by(self, ids: Ids) -> dict[str, int]:
        """Why how many of these ``(C,)`` channels are fixed."""
        groups, counts = np.unique(self.root[ids[self.fixed[ids]]], return_counts=True)
        found: dict[str, int] = {}
        for group, count in zip(groups.tolist(), counts.tolist()):
            why = self.reasons.get(group, EXCLUDED)
            found[why] = found.get(why, 0) + count
        return found

    def sliced_by(self, groups: Ids) -> dict[str, int]:
        """What asks for equal slices among the tied groups of these numbers -> how many of them it is about."""
        found: dict[str, int] = {}
        for each in self.constraints:
            mine = np.isin(groups, self.root[np.concatenate(each.slices)])
            if mine.any():
                found[each.by] = found.get(each.by, 0) + int(mine.sum())
            groups = groups[~mine]
        return found

    def participating(self) -> dict[str, Mask]:
        """Norm -> mask of its prunable gammas; norms without any are left out. Sparsity acts on these."""
        masks = {name: self.prunable(ids) for name, ids in self.norms.items()}
        return {name: mask for name, mask in masks.items() if mask.any()}

    def gone(self, kept: Mapping[str, Iterable[int]]) -> Mask:
        """``(N,)``: the identities that are no longer made where of each convolution these channels are kept.

        Args:
            kept: by module name; of a convolution that is not in it none.
        """
        gone = np.zeros(len(self.root), bool)
        for name, conv in self.convs.items():
            mask = np.ones(len(conv.makes), bool)
            mask[list(kept.get(name, ()))] = False
            gone[conv.makes[mask]] = True
        return gone

    def lacking(self, modules: Collection[str]) -> ChannelGraph:
        """The graph once these convolutions, BatchNorms and joins are gone; identities keep their numbers."""
        return replace(
            self,
            convs={name: conv for name, conv in self.convs.items() if name not in modules},
            norms={name: ids for name, ids in self.norms.items() if name not in modules},
            constraints=[item for item in self.constraints if item.name not in modules],
        )

    def fixing(self, more: Iterable[Ids]) -> ChannelGraph:
        """A graph in which these channels, and what is tied to them, are fixed too."""
        fixed = self.fixed.copy()
        for ids in more:
            fixed[self.root[ids]] = True  # at the groups' own numbers
        return replace(self, fixed=fixed[self.root])


def matches(name: str, pattern: str) -> bool:
    """Does the glob match the dotted name or one of its leading parts?"""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def said_by_count(counts: Mapping[str, int]) -> str:
    """ "72 head outputs, 64 by include and exclude": the most first."""
    most_first = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {what}" for what, count in most_first)


def tied_groups(count: int, left: list[Ids], right: list[Ids]) -> Ids:
    """Connected components of `count` identities under the ties ``left[i] - right[i]``: ``(N,)`` smallest member."""
    label = np.arange(count)
    if not left:
        return label
    a, b = np.concatenate(left), np.concatenate(right)
    while True:
        low = np.minimum(label[a], label[b])
        before = label.copy()
        # Hook the roots of both ends onto the smaller one, then shorten the paths.
        np.minimum.at(label, before[a], low)
        np.minimum.at(label, before[b], low)
        while not np.array_equal(label, label[label]):
            label = label[label]
        if np.array_equal(label, before):
            return label
