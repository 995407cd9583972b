"""Whether an exported file computes what the network does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data import Dataset
from engine.evaluate import Detector
from engine.postprocess import postprocess
from export.runtimes import Runtime
from export.to_onnx import TOLERANCE
from models.heads import HeadSpec
from models.network import Network

PICTURES = 8
NEAR = 0.05  # pixels, within which two boxes after NMS are the same
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
    ours, theirs = net.eval()(pictures.images), file(pictures.images)
    outputs = file.description.outputs if isinstance(file, Runtime) else "heads"
    if outputs == "nms":
        assert isinstance(file, Runtime)
        assert file.description.nms is not None
        return _after_nms(net.decode(ours), file.decode(theirs), net.specs[0], dict(file.description.nms), where)
    if outputs == "decoded":  # boxes in pixels and probabilities are of different sizes
        ours, theirs = ([decoded[..., :4], decoded[..., 4:]] for decoded in (net.decode(ours), file.decode(theirs)))
    pairs = [((a - b).abs().max().item(), a.abs().max().item()) for a, b in zip(ours, theirs, strict=True)]
    share = max(difference / max(largest, 1e-9) for difference, largest in pairs)
    sound = all(difference == difference for difference, _ in pairs)  # no NaN
    return Difference(max(each for each, _ in pairs), share if sound else float("inf"), TOLERANCE, outputs, where)


def _after_nms(ours: Tensor, theirs: Tensor, spec: HeadSpec, nms: dict[str, float], where: str) -> Difference:
    """Boxes are compared with their nearest of the same class: which comes first is no difference."""
    conf, iou, most = nms["conf"], nms["iou"], int(nms["max_det"])
    classes = spec.classes
    worst, lost, count = 0.0, 0, 0
    found = (postprocess(each, spec, conf, iou, most * classes) for each in (ours, theirs))
    for mine, other in zip(*found, strict=True):
        mine = torch.cat([mine[mine[:, 5] == label][:most] for label in range(classes)])  # as the graph limits them
        for a, b in ((mine, other), (other, mine)):
            apart = torch.cdist(a[:, :5], b[:, :5], p=float("inf")) if len(b) else a.new_full((len(a), 1), float("inf"))
            if len(b):
                apart = apart.masked_fill(a[:, 5:6] != b[None, :, 5], float("inf"))
            nearest = apart.amin(1) if len(a) else a.new_zeros(0)
            near = nearest <= NEAR
            worst = max(worst, nearest[near].max().item() if near.any() else 0.0)
            lost, count = lost + int((~near).sum()), count + len(a)
    if count == 0:
        where += ", on which neither finds a box"
    return Difference(worst, lost / max(1, count), LOST, "boxes after NMS", where)
