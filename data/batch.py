"""What the data room hands to everybody else: a batch of pictures with their boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Letterbox:
    """How a picture was fitted into the network input, so that boxes can be put back.

    Attributes:
        original: (height, width) of the picture in pixels.
        scale: (x, y) network-input pixels per original pixel.
        pad: (x, y) network-input pixels left of and above the picture.
        path: the picture's file.
    """

    original: tuple[int, int]
    scale: tuple[float, float]
    pad: tuple[float, float]
    path: str = ""


@dataclass(frozen=True)
class Batch:
    """B pictures and their T boxes.

    Attributes:
        images: ``(B, 3, H, W)`` RGB; uint8 from the loader, float in 0..1 once `prepared`.
        targets: ``(T, 6)`` float: picture's place in the batch, class, cx, cy, w, h in pixels of the network input.
        indices: ``(B,)`` long, each picture's number in the data set; -1 for companions, which are not of it.
        letterboxes: B records of how each picture was fitted in.
        unlabelled: so many pictures at the end have no labels: that they have no boxes says nothing of what they show.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    letterboxes: tuple[Letterbox, ...] = ()
    unlabelled: int = 0

    @property
    def labelled(self) -> int:
        """How many pictures have labels: the first ones."""
        return len(self.images) - self.unlabelled

    def prepared(self, device: torch.device | str) -> Batch:
        """The batch on `device` with float images in 0..1, channels last in memory as training keeps its networks."""
        images = self.images.to(device, non_blocking=True, memory_format=torch.channels_last)
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        return replace(self, images=images, targets=self.targets.to(device, non_blocking=True))
