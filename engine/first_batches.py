"""Pictures of the first batches as the network gets them: what augmentation does, and whether boxes lie on objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.batch import Batch
from engine import distributed
from engine.checkpoints import Progress
from engine.pictures import draw_detections, mosaic, save_picture

BATCHES, PICTURES = 3, 16


def draw_first(run: Path, batches: Sequence[Batch], progress: Progress, names: Sequence[str]) -> None:
    """``train_batch0.jpg`` to ``train_batch2.jpg`` of the first epoch: up to 16 augmented pictures with their boxes.

    Args:
        run: the training's folder.
        batches: of one optimiser step, as the loader gave them.
        progress: before that step.
    """
    if progress.epoch or not distributed.is_main():
        return
    for number, batch in enumerate(batches, start=progress.batch):
        if number >= BATCHES:
            return
        save_picture(run / f"train_batch{number}.jpg", _drawn(batch, names))


def _drawn(batch: Batch, names: Sequence[str]) -> np.ndarray:
    targets = batch.targets.cpu().numpy()
    pictures = []
    for place, image in enumerate(batch.images[:PICTURES].cpu().numpy()):
        mine = targets[targets[:, 0] == place]
        half = mine[:, 4:6] / 2
        boxes = np.concatenate((mine[:, 1:2], mine[:, 2:4] - half, mine[:, 2:4] + half), 1)
        pixels = image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)
        pictures.append(draw_detections(pixels.transpose(1, 2, 0), boxes, names, min_side=320))
    return mosaic(pictures, max_side=1920)
