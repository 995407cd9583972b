"""Run a network on pictures, a folder or a video: drawn pictures, JSON and YOLO txt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from common.reading import exists, is_file, is_folder, user_path, why_no_file
from data.augment import letterbox
from data.dataset import Dataset
from data.loader import collate
from data.pictures import deep_range, read_picture
from data.spec import PICTURE_SUFFIXES
from data.video import VIDEOS
from engine.evaluate import Detector, detect, device_of
from engine.pictures import draw_detections, save_picture, side_by_side
from engine.postprocess import postprocess, to_original
from export.options import DETECTION
from models.heads import spec_read

LABELLED = 480  # smaller pictures are enlarged until their shorter side reaches it: labels need room


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
        pixel_range: see `data.pictures.read_picture`.
    """

    size: tuple[int, int] | None = None
    conf: float = DETECTION["conf"]
    iou: float = DETECTION["iou"]
    max_boxes: int = int(DETECTION["max_det"])
    class_agnostic: bool = False
    pixel_range: tuple[float, float] | None = None


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


def find_sources(source: str | Path) -> list[Path]:
    """The pictures and videos `source` names: a file, or a folder with everything below it.

    Raises:
        UserError: it does not exist, or there is nothing to look at in it.
    """
    if not str(source).strip():
        raise UserError("--source is empty", todo="name a picture, a video or a folder of them; . is the current one")
    path = user_path(source)
    if not exists(path):
        raise UserError(f"--source {source} does not exist", todo="name a picture, a video or a folder of them")
    if not is_folder(path):
        if reason := why_no_file(path):
            raise UserError(f"--source {source} {reason}", todo="name a picture, a video or a folder of them")
        if path.suffix.lower() not in PICTURE_SUFFIXES | VIDEOS:
            known = ", ".join(sorted(PICTURE_SUFFIXES | VIDEOS))
            raise UserError(f"--source {source} is neither a picture nor a video", todo=f"known endings: {known}")
        return [path]
    endings = PICTURE_SUFFIXES | VIDEOS
    found = sorted(item for item in path.rglob("*") if item.suffix.lower() in endings and is_file(item))
    if not found:
        raise UserError(f"no picture or video in the folder {source}", todo="give another --source")
    return found


def predict(
    net: Detector,
    source: str | Path,
    out: str | Path,
    options: PredictOptions | None = None,
    progress: bool = False,
) -> list[Prediction]:
    """Detect in everything `source` names and write to `out`.

    Written are the drawn pictures and videos under their own names (sub-folders included), ``labels/NAME.txt`` in YOLO
    form for pictures, and ``predictions.json`` for all.

    Raises:
        UserError: nothing of `source` can be read; of several files those that cannot are left out with a warning.
    """

    def draw(image: np.ndarray, found: Sequence[np.ndarray], min_side: int) -> np.ndarray:
        return draw_detections(image, found[0], net.names, conf=0, min_side=min_side)

    (predictions,) = _everywhere([net], source, out, [options or PredictOptions()], draw, [""], progress)
    _write_json(Path(out), [each.as_dict(net.names) for each in predictions])
    return predictions


def predict_side_by_side(
    nets: Mapping[str, Detector],
    source: str | Path,
    out: str | Path,
    options: Mapping[str, PredictOptions],
    progress: bool = False,
) -> dict[str, list[Prediction]]:
    """As `predict`, with several networks of the same classes: each picture shows what each of them finds.

    Written are the pictures, ``labels/CAPTION/NAME.txt`` and one ``predictions.json`` by caption.

    Args:
        nets: by the caption of their column.
        options: by caption too: a file may be made for a size of its own.
    """
    names, captions = next(iter(nets.values())).names, list(nets)

    def draw(image: np.ndarray, found: Sequence[np.ndarray], min_side: int) -> np.ndarray:
        return side_by_side(image, list(zip(captions, found)), names, conf=0)

    folders = [caption.replace("/", "_") for caption in captions]
    chosen = [options[caption] for caption in captions]
    found = dict(zip(captions, _everywhere(list(nets.values()), source, out, chosen, draw, folders, progress)))
    _write_json(Path(out), {caption: [each.as_dict(names) for each in rows] for caption, rows in found.items()})
    return found


# (picture, boxes of each network, least side of what is drawn) -> the drawn picture
_Draw = Callable[[np.ndarray, Sequence[np.ndarray], int], np.ndarray]


def _everywhere(
    nets: Sequence[Detector],
    source: str | Path,
    out: str | Path,
    options: Sequence[PredictOptions],
    draw: _Draw,
    folders: Sequence[str],
    progress: bool,
) -> list[list[Prediction]]:
    """Per network its predictions, everything but the JSON written; their modes are the same afterwards."""
    out = Path(out)
    training = [net.training for net in nets]
    root = Path(source) if Path(source).is_dir() else Path(source).parent

    def look(image: np.ndarray) -> list[np.ndarray]:
        return [detect_picture(net, image, chosen) for net, chosen in zip(nets, options)]

    predictions: list[list[Prediction]] = [[] for _ in nets]
    sources = find_sources(source)
    alike = Counter(path.with_suffix("") for path in sources)
    unread = 0
    reader = _Reader(options[0].pixel_range)
    try:
        for net in nets:
            net.eval()
        for path in tqdm(sources, desc="predict", unit="file", disable=not progress):
            relative = path.relative_to(root)
            if alike[path.with_suffix("")] > 1:  # a.jpg and a.png: what is written is told apart by the whole name
                relative = relative.with_name(f"{relative.name}{relative.suffix}")
            try:
                if path.suffix.lower() in VIDEOS:
                    found = _video(look, path, (out / relative).with_suffix(".mp4"), draw, progress)
                else:
                    labels = [out / "labels" / folder / relative for folder in folders]
                    image = reader.read(path)
                    found = [[each] for each in _picture_or_reason(look, path, image, out / relative, labels, draw)]
            except UserError as error:
                unread += 1
                if unread == len(sources):
                    raise
                log.warning("left out: %s", error)
                continue
            for rows, more in zip(predictions, found):
                rows += more
    finally:
        for net, before in zip(nets, training):
            net.train(before)
    return predictions


def _write_json(out: Path, content: Any) -> None:
    with whole_file(out / "predictions.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


_Look = Callable[[np.ndarray], list[np.ndarray]]


class _Reader:
    """Reads pictures, and says once where more than 8 bits of them are hardly used."""

    def __init__(self, pixel_range: tuple[float, float] | None):
        self.pixel_range, self.said = pixel_range, False

    def read(self, path: Path) -> np.ndarray:
        if self.pixel_range is None and not self.said and (values := deep_range(path)) and values[1] < 2**15:
            self.said = True
            log.warning(
                "%s: its values lie in %d to %d, and read as 8 bits %d of 256 grey levels are left\n"
                "  -> --pixel-range %d,%d, or what the data set it was trained on has",
                path,
                *values,
                (values[1] >> 8) - (values[0] >> 8) + 1,
                *values,
            )
        return read_picture(path, self.pixel_range)


def _picture_or_reason(
    look: _Look, path: Path, image: np.ndarray, target: Path, labels: Sequence[Path], draw: _Draw
) -> list[Prediction]:
    try:
        return _picture(look, path, image, target, labels, draw)
    except (cv2.error, MemoryError) as error:  # one bad picture never ends a folder
        problem = f"nothing can be detected in the picture: {str(error)[:200]}"
        raise UserError(problem, where=path, todo="cut it into tiles, shrink it, or give a smaller --imgsz") from error


def _picture(
    look: _Look, path: Path, image: np.ndarray, target: Path, labels: Sequence[Path], draw: _Draw
) -> list[Prediction]:
    found = look(image)
    predictions = [Prediction(str(path), (image.shape[0], image.shape[1]), boxes) for boxes in found]
    suffix = target.suffix if target.suffix.lower() in (".jpg", ".jpeg", ".png") else ".jpg"
    save_picture(target.with_suffix(suffix), draw(image, found, LABELLED))
    for prediction, label in zip(predictions, labels):
        with whole_file(label.with_suffix(".txt")) as temporary:
            temporary.write_text("".join(line + "\n" for line in prediction.yolo_lines()), encoding="utf-8")
    return predictions


def _video(look: _Look, path: Path, target: Path, draw: _Draw, progress: bool) -> list[list[Prediction]]:
    """A video is drawn frame by frame; it keeps its frame rate, and alone its size; sound is lost."""
    reader = cv2.VideoCapture(str(path))
    rate = reader.get(cv2.CAP_PROP_FPS) or 25.0
    predictions: list[list[Prediction]] = []
    writer: cv2.VideoWriter | None = None
    try:
        frames = tqdm(_frames(reader), desc=path.name, unit="frame", leave=False, disable=not progress)
        for number, image in enumerate(frames):
            found = look(image)
            predictions.append([Prediction(str(path), image.shape[:2], boxes, frame=number) for boxes in found])
            drawn = draw(image, found, 1)
            if writer is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(target), codec, rate, (drawn.shape[1], drawn.shape[0]))
                if not writer.isOpened():
                    log.warning("%s: this OpenCV cannot write mp4 videos; only the JSON is written", target)
            writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    finally:
        reader.release()
        if writer is not None:
            writer.release()
    if not predictions:
        raise UserError("no frame of this video can be read", where=path, todo="convert it: ffmpeg -i IN out.mp4")
    return [list(rows) for rows in zip(*predictions)]


def _frames(reader: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        good, frame = reader.read()
        if not good:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
