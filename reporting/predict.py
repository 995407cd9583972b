"""Run a network on pictures, videos, cameras and streams: drawn pictures, JSON and YOLO txt."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
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
from data.sources import LIVE, PICTURE, Film, PictureReader, Source
from engine.evaluate import Detector, detect, device_of
from engine.pictures import draw_detections, save_picture, side_by_side
from engine.postprocess import postprocess, to_original
from export.options import DETECTION
from models.classes import one_numbering
from models.heads import spec_read


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture, or in one frame of a video.

    Attributes:
        source: the file, or the address without what lets somebody in.
        size: height and width of the picture.
        boxes: ``(n, 6)`` x1, y1, x2, y2 in pixels of the picture, confidence, class; most confident first.
        frame: the frame's number in a video, from 0.
        milliseconds: by the clock, from the picture in memory to its boxes: resizing, network, decoding and NMS.
    """

    source: str
    size: tuple[int, int]
    boxes: np.ndarray
    frame: int | None = None
    milliseconds: float = 0.0

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
        pixel_range: see `data.pictures.read_picture`.
        frames: most frames of a video, a stream or a camera; 0: all.
    """

    size: tuple[int, int] | None = None
    conf: float = DETECTION["conf"]
    iou: float = DETECTION["iou"]
    max_boxes: int = int(DETECTION["max_det"])
    class_agnostic: bool = False
    pixel_range: tuple[float, float] | None = None
    frames: int = 0


@dataclass(frozen=True)
class Found:
    """What `predict` has found.

    Attributes:
        predictions: by the caption of a network (of one alone ""), a prediction a picture or frame.
        names: of the classes that their boxes are of.
        unread: how many of the sources could not be read, or were left before their end; each was named.
        stopped: by what, where Ctrl-C or a SIGTERM came; what was found until then is written.
    """

    predictions: dict[str, list[Prediction]]
    names: list[str]
    unread: int = 0
    stopped: KeyboardInterrupt | None = None

    def milliseconds(self, caption: str) -> float:
        """The median over pictures, without the first of several, in which much happens for the first time."""
        times = [each.milliseconds for each in self.predictions[caption]]
        return statistics.median(times[1:] or times) if times else 0.0


@torch.no_grad()
def detect_picture(net: Detector, image: np.ndarray, options: PredictOptions | None = None) -> np.ndarray:
    """The boxes in one picture.

    Args:
        net: in eval mode.
        image: ``(H, W, 3)`` uint8 RGB, of any size.
        options: thresholds and input size.

    Returns:
        ``(n, 6)``: x1, y1, x2, y2 in pixels of `image`, confidence, class; most confident first.
    """
    options = options or PredictOptions()
    fitted, record = letterbox(image, options.size or net.image_size, resize=net.resize)
    device = device_of(net)
    batch = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))[None].to(device).float() / 255
    decoded = net.decode_above(net(batch), options.conf)
    boxes = postprocess(
        decoded,
        spec_read(net.specs),
        options.conf,
        options.iou,
        options.max_boxes,
        multi_label=False,
        class_agnostic=options.class_agnostic,
    )[0]
    return to_original(boxes, record).cpu().numpy()


def compare(
    networks: Mapping[str, Detector], dataset: Dataset, count: int = 6, conf: float = 0.25
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


def predict(
    nets: Mapping[str, Detector],
    sources: Sequence[Source],
    out: str | Path,
    options: Mapping[str, PredictOptions],
    progress: bool = False,
) -> Found:
    """Detect in all `sources` and write to `out`.

    Written are the drawn pictures and videos under their own names (sub-folders included), in the size they have;
    ``labels/NAME.txt`` in YOLO form for pictures; and ``predictions.json`` for all. With several networks a picture
    shows what each of them finds, side by side; there is ``labels/CAPTION/NAME.txt``, and the JSON is by caption; their
    classes are numbered as the first network's, those that it does not have behind them.

    Args:
        nets: by caption; their modes are the same afterwards.
        sources: from `data.sources.find_sources`.
        options: by caption too: a file may be made for a size of its own.

    Raises:
        UserError: nothing of `sources` can be read; of several those that cannot are left out with a warning.
    """
    work = _Work(nets, options, Path(out), progress)
    training = [net.training for net in nets.values()]
    try:
        for net in nets.values():
            net.eval()
        found = work.through(sources)
    finally:
        for net, before in zip(nets.values(), training):
            net.train(before)
    _write_json(Path(out), found)
    return found


def _write_json(out: Path, found: Found) -> None:
    by_caption = {caption: [each.as_dict(found.names) for each in rows] for caption, rows in found.predictions.items()}
    content = by_caption if len(by_caption) > 1 else next(iter(by_caption.values()))
    with whole_file(out / "predictions.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


class _Work:
    """One call of `predict`: what is seen in a picture, drawn and written."""

    def __init__(self, nets: Mapping[str, Detector], options: Mapping[str, PredictOptions], out: Path, progress: bool):
        self.nets, self.options, self.out, self.progress = nets, options, out, progress
        self.names, orders = one_numbering([net.names for net in nets.values()])
        self.numbers = {caption: np.array(order) for caption, order in zip(nets, orders)}
        first = options[next(iter(nets))]
        self.reader, self.most = PictureReader(first.pixel_range), first.frames
        self.predictions: dict[str, list[Prediction]] = {caption: [] for caption in nets}

    def through(self, sources: Sequence[Source]) -> Found:
        """Everything but the JSON is written."""
        unread = 0
        try:
            for source in tqdm(sources, desc="predict", unit="file", disable=not self.progress):
                try:
                    self._one(source)
                except UserError as error:
                    unread += 1
                    if unread == len(sources):
                        raise
                    log.warning("left out: %s", error)
        except KeyboardInterrupt as stopped:
            if not any(self.predictions.values()):
                raise
            return Found(self.predictions, self.names, unread, stopped)
        return Found(self.predictions, self.names, unread)

    def _one(self, source: Source) -> None:
        if source.refusal:
            raise source.refusal
        if source.kind != PICTURE:
            self._film(source)
            return
        image = self.reader.read(source)
        try:
            self._picture(source, image)
        except (cv2.error, MemoryError) as error:  # one bad picture never ends a folder
            problem = f"nothing can be detected in the picture: {str(error)[:200]}"
            raise UserError(problem, where=source.shown) from error

    def _look(self, source: Source, image: np.ndarray, frame: int | None = None) -> list[Prediction]:
        found = []
        for caption, net in self.nets.items():
            began = time.perf_counter()
            boxes = detect_picture(net, image, self.options[caption])
            took = 1000 * (time.perf_counter() - began)
            boxes[:, 5] = self.numbers[caption][boxes[:, 5].astype(int)]
            found.append(Prediction(source.shown, (image.shape[0], image.shape[1]), boxes, frame, took))
        return found

    def _keep(self, found: Sequence[Prediction]) -> None:
        for rows, prediction in zip(self.predictions.values(), found):
            rows.append(prediction)

    def _drawn(self, image: np.ndarray, found: Sequence[Prediction]) -> np.ndarray:
        if len(found) == 1:
            return draw_detections(image, found[0].boxes, self.names, conf=0, min_side=1)
        columns = [(caption, each.boxes) for caption, each in zip(self.nets, found)]
        return side_by_side(image, columns, self.names, conf=0)

    def _picture(self, source: Source, image: np.ndarray) -> None:
        found = self._look(source, image)
        written = source.name.suffix.lower() in (".jpg", ".jpeg", ".png")
        target = self.out / (source.name if written else source.name.with_suffix(".jpg"))
        save_picture(target, self._drawn(image, found))
        for caption, prediction in zip(self.nets, found):
            folder = caption.replace("/", "_") if len(self.nets) > 1 else ""
            with whole_file((self.out / "labels" / folder / source.name).with_suffix(".txt")) as temporary:
                temporary.write_text("".join(line + "\n" for line in prediction.yolo_lines()), encoding="utf-8")
        self._keep(found)

    def _film(self, source: Source) -> None:
        """Drawn frame by frame; it keeps its frame rate, and of one network its size; sound is lost."""
        film = Film(source)
        target = (self.out / source.name).with_suffix(".mp4")
        writer: cv2.VideoWriter | None = None
        size: tuple[int, int] | None = None
        number = -1
        try:
            frames = film.frames(self.most)
            shown = tqdm(frames, desc=source.shown, unit="frame", leave=False, disable=not self.progress)
            for number, image in enumerate(shown):
                found = self._look(source, image, number)
                drawn = self._drawn(image, found)
                writer = writer or _video_writer(target, film.rate, drawn)
                size = size or (drawn.shape[1], drawn.shape[0])
                if size != (drawn.shape[1], drawn.shape[0]):  # a stream may change its size, a video cannot
                    drawn = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
                writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                self._keep(found)
        finally:
            film.close()
            if writer is not None:
                writer.release()
        if number < 0:
            raise film.unreadable()
        if source.kind == LIVE and number + 1 != self.most:
            log.warning("%s ended after %d frames", source.shown, number + 1)


def _video_writer(target: Path, rate: float, drawn: np.ndarray) -> cv2.VideoWriter:
    target.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(target), codec, rate, (drawn.shape[1], drawn.shape[0]))
    if not writer.isOpened():
        log.warning("%s: this OpenCV cannot write mp4 videos; only the JSON is written", target)
    return writer
