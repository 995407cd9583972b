"""Whether an exported file computes what the network does.

A file may be 1e-4 of the largest output away from PyTorch. Where it is further, float64 is asked: a network whose
logits are large (a random one, or one cut deep and not yet trained) turns the last digit of FP32 into more than that
of a probability, in PyTorch as well. Then a file may be as far from float64 as PyTorch's own FP32 is, with a margin.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from data import Dataset
from engine.evaluate import Detector
from export.description import Description, describe
from export.runtimes import Runtime
from export.to_onnx import TOLERANCE
from models.heads import HeadSpec
from models.network import Network

PICTURES = 8
NEAR = 0.05  # pixels, and confidence, within which two boxes are the same
MARGIN = 4.0  # a file's rounding, another order of the same sums, may be so many times PyTorch's
MOST_ROUNDING = 0.05  # of the largest output: beyond it no file can be told from a wrong one
LOST = 0.02  # share of chosen boxes that may be wrong


@dataclass(frozen=True)
class Difference:
    """How far a file's outputs are from PyTorch's.

    Attributes:
        absolute: what `measure` says, in the outputs' own units: logits; pixels and probabilities where decoded.
        share: the same as a share of the largest absolute value of its output; after NMS the share of boxes that only
            one of the two has.
        limit: the largest share that is rounding.
        what: which outputs.
        where: on which pictures.
        measure: what `absolute` is. Of boxes that INT8 or FP16 chose hardly one is the same to a twentieth of a pixel:
            of them it is the median distance.
    """

    absolute: float
    share: float
    limit: float
    what: str
    where: str
    measure: str = "the largest"

    @property
    def fits(self) -> bool:
        return self.share <= self.limit

    @property
    def problem(self) -> str:
        """Why it does not fit."""
        unit = "of the boxes are wrong" if self.limit == LOST else "of the largest output"
        return f"{self.what}, {self.where}: {self.share:.2g} {unit}, at most {self.limit:g} is rounding"


@dataclass(frozen=True)
class Pictures:
    """What two networks are compared on: `images` ``(B, 3, H, W)`` in 0..1, and what they are."""

    images: Tensor
    what: str


def pictures_of(dataset: Dataset) -> Pictures:
    """Pictures evenly spaced over a data set."""
    chosen = np.linspace(0, len(dataset) - 1, min(PICTURES, len(dataset))).round().astype(int)
    images = torch.stack([dataset[int(number)].image for number in chosen]).float() / 255
    return Pictures(images, f"{len(images)} pictures")


def noise(size: tuple[int, int]) -> Pictures:
    """Two pictures of noise, of `size` (H, W)."""
    return Pictures(torch.from_numpy(np.random.default_rng(0).random((2, 3, *size), np.float32)), "noise")


@torch.no_grad()
def compare_outputs(net: Network, file: Detector, pictures: Pictures) -> Difference:
    """The largest difference between what a file puts out and what the network does."""
    where = f"on {pictures.what}"
    about = file.description if isinstance(file, Runtime) else describe(net)
    ours, theirs = (_said(each, pictures.images, about.outputs) for each in (net.eval(), file))
    found = _difference(ours, theirs, about, where)
    if found.fits or about.precision != "fp32":
        return found
    exact = _said(copy.deepcopy(net).double(), pictures.images.double(), about.outputs)
    rounding = _largest(exact, ours)[1]
    allowed = min(MARGIN * rounding, MOST_ROUNDING)
    if not allowed > TOLERANCE:  # also where PyTorch's own outputs are not finite
        return found
    where += f" (FP32 rounds PyTorch's own to {rounding:.1g} of float64's)"
    return replace(_difference(exact, theirs, about, where, allowed), absolute=found.absolute)


def _said(net: Detector, images: Tensor, outputs: str) -> list[Tensor]:
    """The heads; or what is decoded of them: boxes in pixels and probabilities apart, they are of different sizes."""
    heads = net(images)
    if outputs == "heads":
        return heads
    decoded = net.decode(heads)
    return [decoded[..., :4], decoded[..., 4:]]


def _difference(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], about: Description, where: str, limit: float = TOLERANCE
) -> Difference:
    if about.outputs == "boxes":
        return _boxes(torch.cat(list(ours), -1), torch.cat(list(theirs), -1), about, limit, where)
    return Difference(*_largest(ours, theirs), limit, about.outputs, where)


def _largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference of any output, and the largest share of its output's largest value."""
    pairs = [((a - b).abs().max().item(), a.abs().max().item()) for a, b in zip(ours, theirs, strict=True)]
    sound = all(math.isfinite(difference) for difference, _ in pairs)
    share = max(difference / max(largest, 1e-9) for difference, largest in pairs)
    return max(difference for difference, _ in pairs), share if sound else float("inf")


def _boxes(ours: Tensor, theirs: Tensor, about: Description, limit: float, where: str) -> Difference:
    """Whether the boxes that a file chose are a right choice of our decoded rows, up to rounding.

    The network's own choice would be no measure: a different last digit puts another of two equally confident boxes
    first, and NMS then goes another way. Right is what is among ours, does not overlap, and leaves nothing out that it
    does not suppress. The share is of wrong boxes, those left out included, to chosen ones.
    """
    assert about.nms is not None
    near = max(NEAR, limit * ours[..., :4].abs().max().item() if limit > TOLERANCE else 0.0)
    worst, lost, count = 0.0, 0, 0
    rule = _Rule(near, limit, int(about.nms["max_det"]), about.nms.get("conf", 0.0), about.nms.get("iou"))
    for rows in zip(ours.float(), theirs.float(), strict=True):
        mine, chosen = (_candidates(each, about.spec) for each in rows)
        found, wrong = rule.judge(mine, chosen)
        worst, lost, count = max(worst, found), lost + wrong, count + len(chosen)
    if count + lost == 0:
        where += ", on which neither finds a box"
    what = "best boxes" if about.spec.one_to_one else "boxes after NMS"
    if about.precision != "fp32":
        median = _median_distance(ours.float(), theirs.float(), about)
        return Difference(median, lost / max(1, count), LOST, what, where, "the median distance in pixels")
    return Difference(worst, lost / max(1, count), LOST, what, where)


def _median_distance(ours: Tensor, theirs: Tensor, about: Description) -> float:
    """How far a chosen box is from the nearest of PyTorch's that are of its class and half as sure, in pixels."""
    apart: list[float] = []
    for rows in zip(ours, theirs, strict=True):
        mine, chosen = (_candidates(each, about.spec) for each in rows)
        for label in chosen[:, 5].unique():
            got = chosen[chosen[:, 5] == label]
            own = mine[(mine[:, 5] == label) & (mine[:, 4] >= got[:, 4].min() / 2)]
            if len(own):
                apart += torch.cdist(got[:, :4], own[:, :4], p=float("inf")).amin(1).tolist()
    return float(np.median(apart)) if apart else 0.0


def _candidates(rows: Tensor, spec: HeadSpec) -> Tensor:
    """Every pair of place and class of decoded rows: ``(n, 6)`` x1, y1, x2, y2, confidence, class."""
    boxes, scores = spec.candidates(rows, 0.0)
    row, label = (scores > 0).nonzero(as_tuple=True)
    half = boxes[row, 2:] / 2
    return torch.cat((boxes[row, :2] - half, boxes[row, :2] + half, scores[row, label, None], label[:, None]), 1)


@dataclass(frozen=True)
class _Rule:
    """How boxes are chosen. Of boxes ``(n, 6)``: x1, y1, x2, y2, confidence, class.

    Attributes:
        near: pixels that are rounding.
        even: difference of confidence that is rounding.
        most: boxes that are chosen at most; by class where there is an `iou`.
        conf: least confidence.
        iou: overlap that suppresses; None: nothing does.
    """

    near: float
    even: float
    most: int
    conf: float
    iou: float | None

    def judge(self, mine: Tensor, chosen: Tensor) -> tuple[float, int]:
        """(the largest distance of a chosen box to its own of `mine` in pixels, the number of wrong boxes)."""
        worst, whole = 0.0, self._least(chosen)
        wrong = int((chosen[:, 4] < self.conf - self.even).sum())
        for label in torch.cat((mine, chosen))[:, 5].unique():
            own, got = mine[mine[:, 5] == label], chosen[chosen[:, 5] == label]
            apart = self._nearest(got, own)
            worst = max([worst, *apart[apart <= self.near].tolist()])
            due = own[own[:, 4] > (whole if self.iou is None else self._least(got)) + self.even]
            wrong += int((apart > self.near).sum()) + max(0, len(got) - self.most)
            wrong += int(self._overlaps(got, got, -1).fill_diagonal_(False).any(1).sum())
            wrong += int(((self._nearest(due, got) > self.near) & ~self._suppressed(due, got)).sum())
        return worst, wrong

    def _least(self, chosen: Tensor) -> float:
        """Whatever is more confident has to be chosen."""
        return chosen[:, 4].min().item() if len(chosen) >= self.most else self.conf

    def _nearest(self, boxes: Tensor, others: Tensor) -> Tensor:
        """How far each box is from the nearest that is as confident, in pixels ``(n,)``."""
        apart = torch.cdist(boxes[:, :4], others[:, :4], p=float("inf"))
        apart = apart.masked_fill((boxes[:, None, 4] - others[None, :, 4]).abs() > NEAR, float("inf"))
        return torch.cat((apart, apart.new_full((len(boxes), 1), float("inf"))), 1).amin(1)

    def _suppressed(self, boxes: Tensor, chosen: Tensor) -> Tensor:
        """Which boxes overlap a chosen one that is at least as confident."""
        sure = chosen[None, :, 4] >= boxes[:, None, 4] - self.even
        return (self._overlaps(boxes, chosen, 1) & sure).any(1)

    def _overlaps(self, boxes: Tensor, others: Tensor, doubt: int) -> Tensor:
        """Which boxes overlap which too much; rounding decides for it (`doubt` 1) or against it (-1)."""
        if self.iou is None:
            return torch.zeros(len(boxes), len(others), dtype=torch.bool)
        sides = [(each[:, 2:4] - each[:, :2]).amin(1).clamp(min=1e-3) for each in (boxes, others)]
        slack = 4 * self.near / torch.minimum(sides[0][:, None], sides[1][None])
        return box_iou(boxes[:, :4], others[:, :4]) + doubt * slack > self.iou
