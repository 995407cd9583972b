"""Whether an exported file computes what the network does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data import Dataset
from engine.evaluate import Detector
from export.runtimes import Runtime
from export.to_onnx import TOLERANCE
from models.network import Network

PICTURES = 8


@dataclass(frozen=True)
class Difference:
    """How far a file's outputs are from PyTorch's.

    Attributes:
        absolute: the largest difference, in the outputs' own units (logits; pixels and probabilities where decoded).
        share: the same as a share of the largest absolute value of its output.
        where: on which pictures.
    """

    absolute: float
    share: float
    where: str

    @property
    def fits(self) -> bool:
        return self.share <= TOLERANCE


def check_pictures(dataset: Dataset | None, size: tuple[int, int], count: int = PICTURES) -> Tensor:
    """``(B, 3, H, W)`` in 0..1: pictures evenly spaced over a data set, or noise where there is none."""
    if dataset is None:
        return torch.from_numpy(np.random.default_rng(0).random((2, 3, *size), np.float32))
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    return torch.stack([dataset[int(number)].image for number in chosen]).float() / 255


@torch.no_grad()
def compare_outputs(net: Network, file: Detector, pictures: Tensor) -> Difference:
    """The largest difference between what a file puts out and what the network does, on `pictures`."""
    ours = net.eval()(pictures)
    theirs = file(pictures)
    decoded = isinstance(file, Runtime) and file.description.outputs != "heads"
    if decoded:
        ours, theirs = [net.decode(ours)], [file.decode(theirs)]
    pairs = [((a - b).abs().max().item(), a.abs().max().item()) for a, b in zip(ours, theirs, strict=True)]
    worst = max(difference for difference, _ in pairs)
    share = max(difference / max(largest, 1e-9) for difference, largest in pairs)
    what = f"on {len(pictures)} pictures" if len(pictures) > 2 else "on noise"
    return Difference(worst, share if worst == worst else float("inf"), what)
