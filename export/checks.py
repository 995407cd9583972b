"""Whether an exported file computes what the network does.

A file may be 1e-4 of the largest output away from PyTorch. Where it is further, float64 is asked: a network whose
logits are large (a random one, or one cut deep and not yet trained) turns the last digit of FP32 into more than that
of a probability, in PyTorch as well. Then a file may be as far from float64 as PyTorch's own FP32 is, with a margin.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data import Dataset
from engine.evaluate import Detector
from engine.postprocess import postprocess
from export.description import Description, describe
from export.runtimes import Runtime
from export.to_onnx import TOLERANCE
from models.network import Network

PICTURES = 8
NEAR = 0.05  # pixels (and confidence), within which two boxes after NMS are the same
MARGIN = 4.0  # a file's rounding, another order of the same sums, may be so many times PyTorch's
MOST_ROUNDING = 0.01  # of the largest output: beyond it no file can be told from a wrong one
LOST = 0.02  # share of boxes that may differ after NMS: whether two overlap by .45 or by .4500001 is rounding


@dataclass(frozen=True)
class Difference:
    """How far a file's outputs are from PyTorch's.

    Attributes:
        absolute: the largest difference, in the outputs' own units: logits; pixels and probabilities where decoded.
        share: the same as a share of the largest absolute value of its output; after NMS the share of boxes that only
            one of the two has.
        limit: the largest share that is rounding.
        what: which outputs.
        where: on which pictures.
    """

    absolute: float
    share: float
    limit: float
    what: str
    where: str

    @property
    def fits(self) -> bool:
        return self.share <= self.limit

    @property
    def problem(self) -> str:
        """Why it does not fit."""
        unit = "of the boxes are others" if self.limit == LOST else "of the largest output"
        return f"{self.what}, {self.where}: {self.share:.2g} {unit}, at most {self.limit:g} is rounding"


@dataclass(frozen=True)
class Pictures:
    """What two networks are compared on: `images` ``(B, 3, H, W)`` in 0..1, and what they are."""

    images: Tensor
    what: str


def pictures_of(dataset: Dataset, count: int = PICTURES) -> Pictures:
    """Pictures evenly spaced over a data set."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
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
    """The boxes that are chosen; which comes first is no difference."""
    near = max(NEAR, limit * ours[..., :4].abs().max().item() if limit > TOLERANCE else 0.0)
    best = about.spec.one_to_one
    pairs = _best(ours, theirs, about, limit) if best else _after_nms(ours, theirs, about)
    worst, lost, count = 0.0, 0, 0
    for boxes, among in pairs:
        nearest = _nearest(boxes, among)
        worst = max([worst, *nearest[nearest <= near].tolist()])
        lost, count = lost + int((nearest > near).sum()), count + len(boxes)
    if count == 0:
        where += ", on which neither finds a box"
    return Difference(worst, lost / max(1, count), LOST, "best boxes" if best else "boxes after NMS", where)


def _after_nms(ours: Tensor, theirs: Tensor, about: Description) -> Iterator[tuple[Tensor, Tensor]]:
    """(boxes of a picture, boxes they have to be among): each network's among the other's."""
    assert about.nms is not None
    conf, iou, most = about.nms["conf"], about.nms["iou"], int(about.nms["max_det"])
    found = [postprocess(each, about.spec, conf, iou, most * about.classes) for each in (ours, theirs)]
    for pair in zip(*found, strict=True):
        # As the graph limits them: by class.
        a, b = (torch.cat([boxes[boxes[:, 5] == label][:most] for label in range(about.classes)]) for boxes in pair)
        yield from ((a, b), (b, a))


def _best(ours: Tensor, theirs: Tensor, about: Description, limit: float) -> Iterator[tuple[Tensor, Tensor]]:
    """As `_after_nms`. Of the boxes that are as confident as the last one, rounding says which are chosen: theirs have
    to be among all of ours, and what of ours is more confident than the last, `limit` being rounding, among theirs."""
    assert about.nms is not None
    every = ours[0].numel()
    found = [postprocess(each, about.spec, 0.0, max_boxes=every, max_candidates=every) for each in (ours, theirs)]
    for mine, other in zip(*found, strict=True):
        best = mine[: int(about.nms["max_det"])]
        sure = best[:, 4] > (best[-1, 4] + limit if 0 < len(best) == len(other) else 0)
        yield from ((other, mine), (best[sure], other))


def _nearest(boxes: Tensor, others: Tensor) -> Tensor:
    """How far each box ``(n, 6)`` is from the nearest of its class and confidence in `others`, in pixels ``(n,)``."""
    found = boxes.new_full((len(boxes),), float("inf"))
    for label in boxes[:, 5].unique():
        mine, theirs = boxes[boxes[:, 5] == label], others[others[:, 5] == label]
        apart = torch.cdist(mine[:, :4], theirs[:, :4], p=float("inf"))
        apart = apart.masked_fill((mine[:, None, 4] - theirs[None, :, 4]).abs() > NEAR, float("inf"))
        if len(theirs):
            found[boxes[:, 5] == label] = apart.amin(1)
    return found
