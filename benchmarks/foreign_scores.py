"""Why our score of a foreign checkpoint is not the score its own program gives: one row for each thing that differs.

    python benchmarks/foreign_scores.py --weights best.pt --data mine.yaml --split test

The first row is `thinyolo val`; each further row does one more thing as that program's `val` does it (rect=False):

- *bilinear*: pictures are shrunk by bilinear interpolation of four neighbours; ours averages all that is dropped.
- *IoU .7*: of non-maximum suppression; ours is .6.
- *uncut*: boxes are compared as they are, in pixels of the network input; ours end where the picture does.
- *its mean*: precision between two recalls is interpolated, and the area below it is taken by trapezoids, of 300 boxes
  a picture; a box can find only the object it overlaps most. Ours is COCO's: the mean of a step function at 101
  recalls, 100 boxes, and a box whose object is taken takes the next.
"""

from __future__ import annotations

import argparse
import sys

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import data
import models
from common.errors import run_cleanly
from data.augment import fitted_size
from data.pictures import read_picture
from engine.evaluate import CONFIDENCE, KEPT, NMS_IOU, score_pictures
from engine.metrics import PictureBoxes
from engine.postprocess import postprocess, to_original
from reporting.tables import table

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
Pair = tuple[float, float]


class Bilinear(data.Dataset):
    """Pictures shrunk by bilinear interpolation."""

    def _fetch(self, index: int) -> np.ndarray:
        image = read_picture(self.pictures[index])
        height, width = fitted_size((image.shape[0], image.shape[1]), self.size)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def rows(net: models.Network, spec: data.DataSpec, split: str) -> dict[str, Pair]:
    """Row -> (mAP50, mAP50-95)."""
    averaged, bilinear = (kind(spec, split, size=net.image_size) for kind in (data.Dataset, Bilinear))
    names, uncut = list(spec.names), detections(net, bilinear, 0.7, cut=False)
    return {
        "ours": coco(detections(net, averaged, NMS_IOU), names),
        "bilinear": coco(detections(net, bilinear, NMS_IOU), names),
        "IoU .7": coco(detections(net, bilinear, 0.7), names),
        "uncut": coco(uncut, names),
        "its mean": trapezoids(uncut, len(names)),
    }


@torch.no_grad()
def detections(net: models.Network, dataset: data.Dataset, iou: float, cut: bool = True) -> list[PictureBoxes]:
    """All pictures' boxes, in original pixels and ending where the picture does; with `cut` False as they come out."""
    found = []
    for sample in dataset:
        decoded = net.decode(net(sample.image[None].float() / 255))
        boxes = postprocess(decoded, net.specs[0], CONFIDENCE, iou, KEPT)[0]
        centre, half = sample.boxes[:, 1:3], sample.boxes[:, 3:5] / 2
        truth = torch.cat((centre - half, centre + half, sample.boxes[:, :1]), 1)
        if cut:
            boxes, truth = (to_original(each, sample.letterbox) for each in (boxes, truth))
        told = np.roll(truth.double().numpy(), 1, axis=1)
        found.append(PictureBoxes(boxes.double().numpy(), told, sample.letterbox.original))
    return found


def coco(pictures: list[PictureBoxes], names: list[str]) -> Pair:
    score = score_pictures(pictures, names)
    return score.map50, score.map50_95


def trapezoids(pictures: list[PictureBoxes], classes: int) -> Pair:
    """(mAP50, mAP50-95) by the area below the interpolated precision-recall curve."""
    right = np.concatenate([_right(picture) for picture in pictures])
    said = np.concatenate([picture.detections[:, 4:6] for picture in pictures])
    true = np.concatenate([picture.truth[:, 0] for picture in pictures])
    order = np.argsort(-said[:, 0], kind="stable")
    right, labels = right[order], said[order, 1]
    seen = [number for number in range(classes) if (true == number).any()]
    areas = np.array([[_area(right[labels == n, i], int((true == n).sum())) for i in range(len(IOUS))] for n in seen])
    return float(areas[:, 0].mean()), float(areas.mean())


def _right(picture: PictureBoxes) -> NDArray[np.bool_]:
    """Which detections are right at each IoU, ``(n, 10)``; they come with the most confident first."""
    said, true = picture.detections, picture.truth
    right = np.zeros((len(said), len(IOUS)), bool)
    if not right.size or not len(true):
        return right
    overlap = np.where(said[:, 5][:, None] == true[:, 0][None], picture.overlaps, 0.0)
    favourite = overlap.argmax(1)
    for place, least in enumerate(IOUS):
        able = np.flatnonzero(overlap.max(1) >= least)
        _, first = np.unique(favourite[able], return_index=True)
        right[able[first], place] = True
    return right


def _area(right: NDArray[np.bool_], objects: int) -> float:
    """Below the curve of one class at one IoU; `right` is sorted by confidence."""
    if not len(right):
        return 0.0
    hits = right.cumsum()
    recall = np.concatenate(([0.0], hits / objects, [1.0]))
    precision = np.concatenate(([1.0], hits / np.arange(1, len(right) + 1), [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    heights = np.interp(RECALLS, recall, envelope)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(RECALLS)).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a checkpoint of YOLOv8, 11 or 26")
    parser.add_argument("--data", required=True, help="a data set's yaml")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    options = parser.parse_args()
    found = rows(models.load(options.weights), data.load_spec(options.data), options.split)
    lines = [[name, *(f"{value:.4f}" for value in pair)] for name, pair in found.items()]
    print(table(["", "mAP50", "mAP50-95"], lines))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
