"""Which layer of the student is compared with which of the teacher, where a KD term looks at feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from models.cfg import Section
from models.lineage import kept_channels, known_as
from models.network import Network, head_feeders


@dataclass(frozen=True)
class FeaturePair:
    """One layer of the student and the layer of the teacher it learns from; both maps have the same height and width.

    Attributes:
        student_layer, teacher_layer: keys of `Outputs.features`: each network's own layer numbers.
        student_channels, teacher_channels: channels of the two maps.
        stride: pixels of the network input a cell of the map covers.
        head: the student's head the map feeds; None for a layer inside the network.
        kept: student channel k is the teacher's channel ``kept[k]``; None where no lineage says so, or where the
            student has all of the teacher's channels in their order.
    """

    student_layer: int
    teacher_layer: int
    student_channels: int
    teacher_channels: int
    stride: float
    head: int | None = None
    kept: tuple[int, ...] | None = None


def pairs_at_heads(student: Network, teacher: Network, heads: Sequence[int]) -> list[FeaturePair]:
    """What the two necks put out: a pair per head, in the student's order; none for a head that gives each object one
    place and reads the maps of one that has a pair.

    Args:
        heads: per head of the student, the number of the teacher's (`Alignment.heads`).
    """
    pairs: list[FeaturePair] = []
    for ours, theirs in enumerate(heads):
        mine, other = neck_output(student, ours), neck_output(teacher, theirs)
        known = any((pair.student_layer, pair.teacher_layer) == (mine, other) for pair in pairs)
        if known and student.specs[ours].one_to_one:
            continue
        pairs.append(
            FeaturePair(
                mine,
                other,
                student.output_channels(mine),
                teacher.output_channels(other),
                student.specs[ours].stride,
                head=ours,
            )
        )
    return pairs


def neck_output(net: Network, head: int) -> int:
    """The layer whose map the neck hands to a head: what the head's last 3x3 convolution reads, or, in networks whose
    head is a single 1x1 convolution (YOLOv5), what that reads; of a head of several towers, what all of them read."""
    number = net.cfg.index()
    feeder, *others = head_feeders(net.cfg.heads[head])
    if others:
        return number[_fork([feeder, *others])]
    source = feeder.inputs[0]
    conv = net.convolutions.get(number[source])
    if conv is not None and conv.conv.kernel_size[0] > 1 and net.cfg.readers()[source] == [feeder]:
        before = number[source.inputs[0]]
        if before >= 0 and net.strides[before] == net.specs[head].stride:
            return before
    return number[source]


def _fork(feeders: Sequence[Section]) -> Section:
    """The nearest section before all of `feeders`, along first inputs."""
    before: list[list[Section]] = []
    for section in feeders:
        before.append([])
        while section.inputs:
            section = section.inputs[0]
            before[-1].append(section)
    return next(section for section in before[0] if all(section in others for others in before))


def pairs_on_lineage(student: Network, teacher: Network, *, layers: str = "stages") -> list[FeaturePair]:
    """Convolutions of a student and the ancestor's they were cut from: the same channels, so nothing adapts them.

    Head convolutions are left to the terms on responses.

    Args:
        teacher: an ancestor, in the number format its fingerprint was taken in (FP32).
        layers: "all" convolutions; or "stages": the last one before the map's size changes, and what the heads' own
            convolutions read, from the finest head's stride on. Finer maps are the dearest to compare and say the least
            about objects.

    Raises:
        UserError: the teacher is no ancestor of the student (its ancestors are named), or no layer is left.
    """
    ancestor, fed = known_as(student.lineage, teacher), set(student.head_convolutions)
    rows: dict[int, tuple[int, list[int]]] = {}
    for number in student.convolutions:
        if number in fed:
            continue
        try:
            origin, kept = kept_channels(student.lineage, ancestor, number)
        except KeyError:  # a layer that this ancestor did not have
            continue
        if isinstance(origin, int):
            rows[number] = (origin, kept)
    chosen = _stage_ends(student, list(rows)) if layers == "stages" else list(rows)
    if not chosen:
        raise UserError(
            f"no convolution of the student comes from the teacher {ancestor[:12]}",
            todo="take a nearer ancestor as the teacher, or a term with adapters: --kd pkd",
        )
    return [_descended(student, teacher, number, *rows[number]) for number in chosen]


def _stage_ends(net: Network, layers: list[int]) -> list[int]:
    """Of `layers` in order, the last of each run of equal stride, and those that the head convolutions read."""
    number = net.cfg.index()
    fed = {number[feeder.inputs[0]] for head in net.cfg.heads for feeder in head_feeders(head)}
    finest = min(spec.stride for spec in net.specs)
    strides = [net.strides[layer] for layer in layers]
    return [
        layer
        for layer, stride, following in zip(layers, strides, [*strides[1:], None])
        if stride is not None and stride >= finest and (stride != following or layer in fed)
    ]


def _descended(student: Network, teacher: Network, layer: int, origin: int, kept: list[int]) -> FeaturePair:
    theirs, stride = teacher.output_channels(origin), student.strides[layer]
    whole = kept == list(range(theirs))
    return FeaturePair(
        layer,
        origin,
        student.output_channels(layer),
        theirs,
        float(stride) if stride is not None else 0.0,
        kept=None if whole else tuple(kept),
    )
