"""Run a network on pictures, a folder or a video: drawn pictures, JSON and YOLO txt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from common.errors import UserError
from common.files import whole_file
from common.log import log
from data.augment import letterbox
from data.dataset import Dataset
from data.loader import collate
from data.pictures import read_picture
from data.spec import PICTURE_SUFFIXES
from engine.evaluate import detect
from engine.pictures import draw_detections, save_picture, side_by_side
from engine.postprocess import postprocess, to_original
from models.network import Network

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, or in one frame of a video.

    Attributes:
        source: the file.
        size: height and width of the picture.
        boxes: ``(n, 6)`` x1, y1, x2, y2 in pixels of the picture, confidence, class; most confident first.
        frame: the frame's number in a video, from 0.
    """

    source: str
    size: tuple[int, int]
    boxes: np.ndarray
    frame: int | None = None

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The JSON form."""
        found = [
            {
                "class": int(label),
                "name": names[int(label)],
                "confidence": round(score, 5),
                "box_xyxy": [round(value, 2) for value in corners],
            }
            for *corners, score, label in self.boxes.tolist()
        ]
        record: dict[str, Any] = {"source": self.source, "height": self.size[0], "width": self.size[1]}
        if self.frame is not None:
            record["frame"] = self.frame
        return {**record, "detections": found}

    def yolo_lines(self) -> list[str]:
        """A line a box: class, cx, cy, w, h as shares of the picture, confidence."""
        height, width = self.size
        return [
            f"{int(label)} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f} {score:.5f}"
            for x1, y1, x2, y2, score, label in self.boxes.tolist()
        ]


@dataclass(frozen=True)
class PredictOptions:
    """How boxes are chosen.

    Attributes:
        size: (H, W) of the network input; larger finds smaller objects and takes longer. None: the cfg's.
        conf: least confidence shown: lower shows more objects, and more that are none.
        iou: overlap above which the less confident of two boxes of a class is dropped.
        max_boxes: most boxes a picture.
        class_agnostic: one box an object, even if two classes claim it.
    """

    size: tuple[int, int] | None = None
    conf: float = 0.25
    iou: float = 0.45
    max_boxes: int = 300
    class_agnostic: bool = False


@torch.no_grad()
def detect_picture(net: Network, image: np.ndarray, options: PredictOptions | None = None) -> np.ndarray:
    """The boxes in one picture.

    Args:
        net: in eval mode.
        image: ``(H, W, 3)`` uint8 RGB, of any size.
        options: thresholds and input size.

    Returns:
        ``(n, 6)``: x1, y1, x2, y2 in pixels of `image`, confidence, class; most confident first.
    """
    options = options or PredictOptions()
    fitted, record = letterbox(image, options.size or net.image_size)
    device = next(net.parameters()).device
    batch = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))[None].to(device).float() / 255
    decoded = net.decode(net(batch))
    boxes = postprocess(
        decoded, options.conf, options.iou, options.max_boxes, multi_label=False, class_agnostic=options.class_agnostic
    )[0]
    return to_original(boxes, record).cpu().numpy()


def compare(
    networks: Mapping[str, Network], dataset: Dataset, count: int = 6, conf: float = 0.25
) -> list[tuple[str, np.ndarray]]:
    """Pictures with the ground truth and what each network finds, side by side: ``[(file name, image), ...]``.

    Args:
        networks: by the caption their column gets, e.g. teacher and student.
        dataset: without augmentation.
        count: pictures shown, evenly spaced over those that have boxes.
        conf: least confidence shown.
    """
    filled = [number for number, labels in enumerate(dataset.labels) if len(labels)] or list(range(len(dataset)))
    chosen = [filled[place] for place in np.linspace(0, len(filled) - 1, min(count, len(filled))).round().astype(int)]
    batch = collate([dataset[number] for number in chosen])
    found = {name: detect(net, [batch], keep=len(chosen))[1] for name, net in networks.items()}
    pictures = []
    for place, sample in enumerate(next(iter(found.values()))):
        columns = [("ground truth", sample.truth), *((name, kept[place].detections) for name, kept in found.items())]
        image = side_by_side(sample.image, columns, next(iter(networks.values())).names, conf)
        pictures.append((Path(sample.path).name, image))
    return pictures


def find_sources(source: str | Path) -> list[Path]:
    """The pictures and videos `source` names: a file, or a folder with everything below it.

    Raises:
        UserError: it does not exist, or there is nothing to look at in it.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"--source {source} does not exist", todo="name a picture, a video or a folder of them")
    if path.is_file():
        if path.suffix.lower() not in PICTURE_SUFFIXES | VIDEOS:
            known = ", ".join(sorted(PICTURE_SUFFIXES | VIDEOS))
            raise UserError(f"--source {source} is neither a picture nor a video", todo=f"known endings: {known}")
        return [path]
    endings = PICTURE_SUFFIXES | VIDEOS
    found = sorted(item for item in path.rglob("*") if item.suffix.lower() in endings and item.is_file())
    if not found:
        raise UserError(f"no picture or video in the folder {source}", todo="give another --source")
    return found


def predict(
    net: Network,
    source: str | Path,
    out: str | Path,
    options: PredictOptions | None = None,
    progress: bool = False,
) -> list[Prediction]:
    """Detect in everything `source` names and write to `out`.

    Written are the drawn pictures and videos under their own names (sub-folders included), ``labels/NAME.txt`` in YOLO
    form for pictures, and ``predictions.json`` for all.

    Raises:
        UserError: `source` cannot be read.
    """
    options, out = options or PredictOptions(), Path(out)
    training = net.training
    net.eval()
    root = Path(source) if Path(source).is_dir() else Path(source).parent
    predictions: list[Prediction] = []
    try:
        for path in tqdm(find_sources(source), desc="predict", unit="file", disable=not progress):
            target = out / path.relative_to(root)
            if path.suffix.lower() in VIDEOS:
                predictions += _video(net, path, target.with_suffix(".mp4"), options, progress)
            else:
                predictions.append(_picture(net, path, target, out / "labels" / path.relative_to(root), options))
    finally:
        net.train(training)
    with whole_file(out / "predictions.json") as temporary:
        temporary.write_text(json.dumps([each.as_dict(net.names) for each in predictions], indent=1), encoding="utf-8")
    return predictions


def _picture(net: Network, path: Path, target: Path, label: Path, options: PredictOptions) -> Prediction:
    image = read_picture(path)
    boxes = detect_picture(net, image, options)
    prediction = Prediction(str(path), (image.shape[0], image.shape[1]), boxes)
    suffix = target.suffix if target.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
    save_picture(target.with_suffix(suffix), draw_detections(image, boxes, net.names, conf=0))
    with whole_file(label.with_suffix(".txt")) as temporary:
        temporary.write_text("".join(line + "\n" for line in prediction.yolo_lines()), encoding="utf-8")
    return prediction


def _video(net: Network, path: Path, target: Path, options: PredictOptions, progress: bool) -> list[Prediction]:
    """A video is drawn frame by frame; it keeps its size and frame rate, sound is lost."""
    reader = cv2.VideoCapture(str(path))
    rate = reader.get(cv2.CAP_PROP_FPS) or 25.0
    predictions: list[Prediction] = []
    writer: cv2.VideoWriter | None = None
    try:
        frames = tqdm(_frames(reader), desc=path.name, unit="frame", leave=False, disable=not progress)
        for number, image in enumerate(frames):
            boxes = detect_picture(net, image, options)
            predictions.append(Prediction(str(path), (image.shape[0], image.shape[1]), boxes, frame=number))
            drawn = draw_detections(image, boxes, net.names, conf=0, min_side=1)
            if writer is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(target), codec, rate, (image.shape[1], image.shape[0]))
                if not writer.isOpened():
                    log.warning("%s: this OpenCV cannot write mp4 videos; only the JSON is written", target)
            writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    finally:
        reader.release()
        if writer is not None:
            writer.release()
    if not predictions:
        raise UserError("no frame of this video can be read", where=path, todo="convert it: ffmpeg -i IN out.mp4")
    return predictions


def _frames(reader: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        good, frame = reader.read()
        if not good:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
