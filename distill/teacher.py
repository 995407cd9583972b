"""The teacher: a network that is only ever asked, and whether a student can learn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import models
from common.errors import UserError
from common.log import log
from models.network import Network
from models.spec import HeadSpec, Outputs

# Anchors count as equal within this factor: cfg files round to whole pixels.
_ANCHOR_TOLERANCE = 1.05


@dataclass(frozen=True)
class Alignment:
    """Which of the teacher's heads and anchors answers to which of the student's.

    Attributes:
        heads: per head of the student, the number of the teacher's.
        anchors: per head of the student and anchor, the number of the teacher's anchor.
        same_anchors: whether paired anchors are equal; if not, paired cells stand for boxes of different size.
    """

    heads: tuple[int, ...]
    anchors: tuple[tuple[int, ...], ...]
    same_anchors: bool


def align(student: Sequence[HeadSpec], teacher: Sequence[HeadSpec]) -> Alignment:
    """Pair the heads by stride (cfgs list them coarse to fine or fine to coarse) and their anchors by size.

    Raises:
        UserError: naming both sides, where number, strides, anchors per head or classes differ.
    """
    ours, theirs = _by_stride(student), _by_stride(teacher)
    if [(s.stride, len(s.anchors), s.classes) for s in (student[n] for n in ours)] != [
        (t.stride, len(t.anchors), t.classes) for t in (teacher[n] for n in theirs)
    ]:
        raise UserError(
            f"the student has {describe(student)}; the teacher has {describe(teacher)}",
            todo="both need equal strides, anchors per head and classes; train the teacher on this data set",
        )
    pairs = dict(zip(ours, theirs))
    heads = tuple(pairs[n] for n in range(len(student)))
    anchors, same = zip(*(_pair_anchors(spec, teacher[n]) for spec, n in zip(student, heads)))
    return Alignment(heads, anchors, all(same))


def describe(specs: Sequence[HeadSpec]) -> str:
    """A set of heads in words."""
    strides = ", ".join(str(spec.stride) for spec in specs)
    counts = ", ".join(str(len(spec.anchors)) for spec in specs)
    return f"{len(specs)} heads of strides {strides} with {counts} anchors and {specs[0].classes} classes"


def _by_stride(specs: Sequence[HeadSpec]) -> list[int]:
    return sorted(range(len(specs)), key=lambda n: specs[n].stride)


def _pair_anchors(student: HeadSpec, teacher: HeadSpec) -> tuple[tuple[int, ...], bool]:
    """Per anchor of the student the teacher's nearest in size, one to one, and whether all of them are equal."""
    ratio = torch.tensor(student.anchors)[:, None] / torch.tensor(teacher.anchors)  # (A, A, 2)
    factor = torch.maximum(ratio, 1 / ratio).amax(dim=-1)
    nearest = tuple(factor.argmin(dim=1).tolist())
    if len(set(nearest)) < len(nearest):
        nearest = tuple(range(len(nearest)))
    return nearest, all(factor[a, n].item() < _ANCHOR_TOLERANCE for a, n in enumerate(nearest))


class Teacher:
    """A trained network whose heads are read in the order of a student's.

    It is not a `torch.nn.Module`, so that whatever holds it registers nothing: no optimiser, DDP wrapper, EMA or
    checkpoint ever sees its tensors. It runs in eval mode without gradients.

    Args:
        network: the teacher; taken over (eval mode, no gradients).
        student: the network that is to learn from it.
        source: the file it came from, for messages and lineage.

    Raises:
        UserError: where the heads of the two networks do not agree; both sides are named.
    """

    def __init__(self, network: Network, student: Network, source: str | Path = ""):
        self.alignment = align(student.specs, network.specs)
        _compare_names(student, network)
        self.network = network.requires_grad_(False).eval()
        self.source = str(source)
        self.specs = tuple(
            replace(network.specs[head], anchors=tuple(network.specs[head].anchors[a] for a in anchors))
            for head, anchors in zip(self.alignment.heads, self.alignment.anchors)
        )

    @classmethod
    def load(cls, cfg: str | Path, weights: str | Path | None, student: Network) -> Teacher:
        """The teacher from ``--t_cfg`` and ``--t_weights``; a `.pt` brings its own structure and may stand for both.

        Raises:
            UserError: a part of the network is not in the weights, or student and teacher do not fit.
        """
        if not cfg and not weights:
            raise UserError(
                "there is no teacher", todo="--t_weights FAT.pt, or --t_cfg FAT.cfg --t_weights FAT.weights"
            )
        if not weights and Path(cfg).suffix not in (".pt", ".pth"):
            raise UserError("a teacher needs trained weights", where=cfg, todo="add --t_weights FILE")
        network = models.load(cfg, weights=weights) if cfg and weights else models.load(cfg or weights or "")
        report = network.load_report
        if report is not None and (report.missing or report.unfit):
            gaps = [*report.missing, *report.unfit]
            raise UserError(
                f"does not fill the teacher {cfg}: {len(gaps)} tensors lack or do not fit, the first is {gaps[0]}",
                where=weights,
                todo="give the weights that were trained with this cfg; a .pt brings its own and needs no --t_cfg",
            )
        return cls(network, student, weights or cfg)

    def to(self, device: torch.device | str) -> Teacher:
        """Move the network; returns self."""
        self.network.to(device)
        return self

    # Not inference_mode: its tensors cannot be saved for the student's backward pass.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> Outputs:
        """Pictures ``(B, 3, H, W)`` to raw heads in the student's order of heads and anchors."""
        self.network.eval()
        # Whoever moves the student to a device does not see the teacher.
        if next(self.network.parameters()).device != images.device:
            self.network.to(images.device)
        heads = self.network(images)
        ordered = [heads[h][:, list(a)] for h, a in zip(self.alignment.heads, self.alignment.anchors)]
        return Outputs(ordered, self.specs)

    @property
    def fingerprint(self) -> str:
        """sha256 of all weights and BatchNorm statistics; the same after any number of steps."""
        return models.fingerprint(self.network)


def _compare_names(student: Network, teacher: Network) -> None:
    ours, theirs = list(student.names), list(teacher.names)
    numbers = [str(n) for n in range(len(ours))]
    if ours == theirs or numbers in (ours, theirs):
        return
    if sorted(ours) == sorted(theirs):
        raise UserError(
            f"student and teacher order the classes differently: {', '.join(ours)} and {', '.join(theirs)}",
            todo="train both on data sets with the same order of names",
        )
    log.warning("student and teacher name their classes differently: %s and %s", ", ".join(ours), ", ".join(theirs))
