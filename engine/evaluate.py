"""How well a network detects: one function, with one set of settings, during training, after it, and for the teacher.

Confidence .001, NMS IoU .6, several labels a box, 300 boxes kept, 100 scored, areas in pixels of the original picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.errors import UserError
from common.memory import keep_freed_memory
from data.batch import Batch
from data.options import BATCH
from data.spec import SCORED
from engine.bootstrap import Matches, match
from engine.metrics import AREAS, CONFIDENCES, Curves, PictureBoxes, coco_scores, confusion_matrix, curves
from engine.pictures import SHOWN
from engine.postprocess import postprocess, to_original
from models.heads import HeadSpec, spec_read
from models.inference import for_inference
from models.network import Network

CONFIDENCE, NMS_IOU, KEPT = 0.001, 0.6, 300
SAMPLES = 16  # pictures kept for the prediction mosaic


class Detector(Protocol):
    """What can be scored and can detect: a `Network`, or an exported file (`export.runtimes.Runtime`)."""

    names: list[str]
    classes: int
    image_size: tuple[int, int]
    max_stride: int
    specs: tuple[HeadSpec, ...]
    training: bool

    @property
    def resize(self) -> str: ...
    def __call__(self, images: Tensor, /) -> list[Tensor]: ...
    def decode(self, heads: Sequence[Tensor], /) -> Tensor: ...
    def decode_above(self, heads: Sequence[Tensor], least: float, /) -> list[Tensor]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def to(self, device: torch.device, /) -> Any: ...
    def eval(self) -> Any: ...
    def train(self, mode: bool, /) -> Any: ...


def device_of(net: Detector) -> torch.device:
    """Where `net` takes its pictures; an exported file, which has no parameters of torch's, takes them on the CPU."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


@dataclass(frozen=True)
class Sample:
    """A picture as the network saw it, for drawing.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB, in the size of the network input.
        detections: ``(n, 6)`` x1, y1, x2, y2, confidence, class in pixels of the network input.
        truth: ``(t, 5)`` class, x1, y1, x2, y2 in pixels of the network input.
        path: the picture's file.
    """

    image: np.ndarray
    detections: np.ndarray
    truth: np.ndarray
    path: str = ""


@dataclass(frozen=True)
class Score:
    """What a network reached on one split.

    Attributes:
        map50_95, map50, map75: COCO mean average precision over the classes that have ground truth.
        by_size: mAP50-95 of small (< 32^2 px), medium and large (> 96^2 px) objects; None where there are none.
        per_class: name -> {"ap50_95", "ap50", "boxes"}; the precisions are None for a class without ground truth.
        precision, recall, f1: means over classes at `confidence`, IoU .50.
        confidence: where the mean F1 is highest.
        images, boxes: how many pictures and true boxes were scored.
        curves: precision, recall and F1 curves.
        confusion: ``(C + 1, C + 1)`` counts, detected as x truly, at confidence .25 and IoU .45.
        samples: a few pictures with their boxes, where pictures were asked for.
        matches: what is right in each picture, where it was asked for: two of them say how sure a difference is.
        sure: with `matches`, each picture's boxes of confidence `engine.pictures.SHOWN` or more, as people see them.
        scored: how many boxes of a class in a picture counted; `crowded` of the pictures have more true ones.
    """

    map50_95: float
    map50: float
    map75: float
    by_size: dict[str, float | None]
    per_class: dict[str, dict[str, Any]]
    precision: float
    recall: float
    f1: float
    confidence: float
    images: int
    boxes: int
    curves: Curves = field(repr=False)
    confusion: np.ndarray = field(repr=False)
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    matches: Matches | None = field(default=None, repr=False)
    sure: tuple[PictureBoxes, ...] = field(default=(), repr=False)
    scored: int = SCORED
    crowded: int = 0

    def as_dict(self, classes: bool = False) -> dict[str, float]:
        """Flat, in the names `results.csv` and W&B use; with `classes` also ``AP50-95/NAME`` and ``AP50/NAME``.

        What has no ground truth is left out.
        """
        flat: dict[str, float | None] = {
            "mAP50-95": self.map50_95,
            "mAP50": self.map50,
            "mAP75": self.map75,
            **{f"mAP50-95-{size}": value for size, value in self.by_size.items()},
            "precision": self.precision,
            "recall": self.recall,
            "F1": self.f1,
        }
        if classes:
            flat |= {f"AP50-95/{name}": row["ap50_95"] for name, row in self.per_class.items()}
            flat |= {f"AP50/{name}": row["ap50"] for name, row in self.per_class.items()}
        return {name: value for name, value in flat.items() if value is not None}


@torch.no_grad()
def evaluate(
    net: Detector,
    data: Any,
    split: str = "val",
    size: tuple[int, int] | None = None,
    batch_size: int = BATCH,
    device: torch.device | str | None = None,
    workers: int = 0,
    plots_dir: str | Path | None = None,
    progress: bool = False,
    dataset: Any = None,
    matched: bool = False,
    rect: bool = False,
) -> Score:
    """Score `net` on one split of a data set.

    Args:
        net: its train or eval mode is the same afterwards; it stays on `device`.
        data: a data set's yaml (or Darknet `.data`) or its `DataSpec`.
        split: "train", "val" or "test".
        size: height and width of the network input; by default the cfg's.
        batch_size: pictures at a time; does not change the result.
        device: by default where the network is.
        workers: processes that read pictures.
        plots_dir: where curves, confusion matrix and prediction pictures are written, if anywhere.
        progress: show a progress bar.
        dataset: a ready `data.Dataset` (without augmentation) instead of `split` and `size`: during training
            the same one serves every epoch.
        matched: keep what is right in each picture (`Score.matches`, `Score.sure`).
        rect: batches of pictures of like shape, with as little grey around them as their stride allows: sooner, and
            another score, of networks that are used so.

    Raises:
        UserError: the split has no true boxes at all, or the classes do not fit the network.
    """
    import data as data_room

    spec = data_room.load_spec(data) if isinstance(data, (str, Path)) else data
    if len(spec.names) != net.classes:
        raise UserError(
            f"the network has {net.classes} classes, the data set {len(spec.names)}: {', '.join(spec.names[:10])}",
            todo="evaluate on the data set it was trained on, or load it with classes= that number and train it",
        )
    if dataset is None:
        dataset = data_room.Dataset(
            spec,
            split,
            size=size or net.image_size,
            resize=net.resize,
            rectangles=(batch_size, net.max_stride) if rect else None,
        )
    loader = data_room.make_loader(dataset, batch_size, workers=workers, shuffle=False)
    keep, scored = SAMPLES if plots_dir else 0, spec.max_det
    pictures, samples = detect(net, loader, device, keep, progress, scored)
    score = score_pictures(pictures, list(spec.names), f"the split '{split}'", samples, scored, matched)
    if plots_dir is not None:
        from engine.plots import plot_score

        plot_score(score, Path(plots_dir))
    return score


@torch.no_grad()
def detect(
    net: Detector,
    batches: Iterable[Batch],
    device: torch.device | str | None = None,
    keep: int = 0,
    progress: bool = False,
    scored: int = SCORED,
) -> tuple[list[PictureBoxes], list[Sample]]:
    """Run `net` over batches: every picture's boxes in original pixels, and the first `keep` pictures for drawing.

    A `Network` is copied, and the copy made faster (`models.for_inference`).
    Where more than COCO's 100 boxes of a class are `scored`, so many more are kept.
    """
    keep_freed_memory()
    most = max(KEPT, KEPT * scored // SCORED)
    device = torch.device(device) if device is not None else device_of(net)
    training = net.training
    net.to(device).eval()
    fast = for_inference(net) if isinstance(net, Network) else net
    pictures: list[PictureBoxes] = []
    samples: list[Sample] = []
    try:
        for batch in tqdm(batches, desc="evaluate", unit="batch", leave=False, disable=not progress):
            ready = batch.prepared(device)
            decoded = fast.decode_above(fast(ready.images), CONFIDENCE)
            found = [boxes.cpu() for boxes in postprocess(decoded, spec_read(net.specs), CONFIDENCE, NMS_IOU, most)]
            _collect(batch, found, pictures, samples, keep)
    finally:
        net.train(training)
    return pictures, samples


def _collect(
    batch: Batch, found: list[torch.Tensor], pictures: list[PictureBoxes], samples: list[Sample], keep: int
) -> None:
    """Append a batch's pictures; the ground truth takes the same way back to original pixels as the detections."""
    targets = batch.targets.cpu().float()
    half = targets[:, 4:6] / 2
    truth_all = torch.cat((targets[:, 2:4] - half, targets[:, 2:4] + half, targets[:, 1:2]), 1)  # x1, y1, x2, y2, class
    for place, (boxes, letterbox) in enumerate(zip(found, batch.letterboxes, strict=True)):
        truth = truth_all[targets[:, 0] == place]
        found_here, true_here = to_original(boxes, letterbox), to_original(truth, letterbox)
        pictures.append(PictureBoxes(_array(found_here), _truth(true_here), letterbox.original))
        if len(samples) < keep:
            image = batch.images[place]
            image = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
            samples.append(Sample(image.permute(1, 2, 0).cpu().numpy(), _array(boxes), _truth(truth), letterbox.path))


def _array(boxes: torch.Tensor) -> np.ndarray:
    return boxes.double().numpy()


def _truth(boxes: torch.Tensor) -> np.ndarray:
    """x1, y1, x2, y2, class -> class, x1, y1, x2, y2."""
    return np.roll(_array(boxes), 1, axis=1)


def score_pictures(
    pictures: list[PictureBoxes],
    names: list[str],
    where: str = "the data",
    samples: Iterable[Sample] = (),
    scored: int = SCORED,
    matched: bool = False,
) -> Score:
    """The score of detections that are already there.

    Raises:
        UserError: there is no true box in any picture.
    """
    labels = np.concatenate([picture.truth[:, 0] for picture in pictures]) if pictures else np.zeros(0)
    if not len(labels):
        raise UserError(
            f"{where} has {len(pictures)} pictures and not one true box: there is nothing to score against",
            todo="check that labels lie beside the pictures (images/ -> labels/, one .txt per picture)",
        )
    scores = coco_scores(pictures, len(names), scored)
    lines = curves(pictures, scores)
    best = lines.best
    counts = np.bincount(labels.astype(int), minlength=len(names))
    per_class = {
        name: {
            "ap50_95": _number(scores.ap[:, number, 0].mean()),
            "ap50": _number(scores.ap[0, number, 0]),
            "boxes": int(counts[number]),
        }
        for number, name in enumerate(names)
    }
    return Score(
        map50_95=scores.mean(),
        map50=scores.mean(iou=0),
        map75=scores.mean(iou=5),
        by_size={size: _number(scores.mean(area=number)) for number, size in enumerate(AREAS) if number},
        per_class=per_class,
        precision=float(np.nanmean(lines.precision[:, best])),
        recall=float(np.nanmean(lines.recall[:, best])),
        f1=float(np.nanmean(lines.f1[:, best])),
        confidence=float(CONFIDENCES[best]),
        images=len(pictures),
        boxes=len(labels),
        curves=lines,
        confusion=confusion_matrix(pictures, len(names)),
        samples=tuple(samples),
        matches=match(pictures, len(names), scored) if matched else None,
        sure=tuple(_sure(each) for each in pictures) if matched else (),
        scored=scored,
        crowded=sum(np.bincount(each.truth[:, 0].astype(int), minlength=1).max() > scored for each in pictures),
    )


def _sure(picture: PictureBoxes) -> PictureBoxes:
    return replace(picture, detections=picture.detections[picture.detections[:, 4] >= SHOWN])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
