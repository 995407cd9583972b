"""`thinyolo predict`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import data
import export
import reporting
from common.command_line import Command
from common.errors import UserError
from common.log import log
from common.options import option
from common.rundir import make_run_dir
from export.options import DETECTION, NetworkOptions, network_file
from thinyolo.run_options import RunOptions

if TYPE_CHECKING:
    from export.runtimes import Opened
    from reporting.predict import Found

BOXES = "boxes"


@dataclass
class PredictOptions:
    """Which network detects in what."""

    model: str = network_file(required=False)
    compare: tuple[str, ...] = option(
        (),
        "instead of --model: two or more networks, side by side in one picture",
        group="network",
        nargs=0,
        metavar="FILE",
    )
    network: NetworkOptions = field(default_factory=NetworkOptions)
    source: tuple[str, ...] = option(
        (),
        "pictures, videos, folders of them; a pattern in quotes ('in/*.jpg'); a camera's number (0); an address "
        "(rtsp://, http://, https://); several of these",
        group=BOXES,
        nargs=0,
        metavar="SOURCE",
        required=True,
    )
    frames: int = option(
        0,
        "most frames of a video, a stream or a camera; 0: to its end, or until Ctrl-C",
        group=BOXES,
        low=0,
        high=1_000_000_000,
    )
    data: str = option(
        "",
        "class names where the weights hold none (.weights): a data set's yaml, or a .names file, a name a line",
        group=BOXES,
        metavar="FILE",
    )
    conf: float = option(
        DETECTION["conf"],
        "least confidence: lower shows more boxes, and more wrong ones",
        group=BOXES,
        low=0,
        high=1,
        metavar="P",
    )
    iou: float = option(
        DETECTION["iou"],
        "overlap above which the weaker of two boxes is dropped",
        group=BOXES,
        low=0,
        high=1,
        metavar="P",
    )
    max_det: int = option(int(DETECTION["max_det"]), "most boxes a picture", group=BOXES, low=1, high=100_000)
    agnostic_nms: bool = option(False, "one box an object, even if two classes claim it", group=BOXES)
    pixel_range: tuple[float, ...] = option(
        (),
        "values that become black and white in pictures of more than 8 bits, as in the yaml of the training",
        group=BOXES,
        metavar="LOW,HIGH",
        low=-(2**31),
        high=2**32,
    )
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if bool(self.compare) == bool(self.model) or len(self.compare) == 1:
            raise UserError("name one network by --model, or several by --compare", todo="--compare fat.pt thin.pt")
        if self.pixel_range and not (len(self.pixel_range) == 2 and self.pixel_range[0] < self.pixel_range[1]):
            raise UserError("--pixel-range takes two numbers, the lower first", todo="--pixel-range 0,4095")


def predict(options: PredictOptions) -> int:
    """Detect, draw, write, and print what was found; 1 where a part of the sources could not be read."""
    files = options.compare or (options.model,)
    sources = data.find_sources(options.source)  # a wrong path is told before a network is loaded and a folder made
    names = export.class_names(options.data) if options.data else None
    captions = reporting.short_names(files)
    nets = {caption: export.open_chosen(options.network, file, names) for caption, file in zip(captions, files)}
    if len(nets) < len(files):
        raise UserError(f"--compare names {len(files)} files, but two are the same", todo="name different files")
    settings = {
        caption: reporting.PredictOptions(
            export.input_size(options.network.imgsz, net),
            options.conf,
            options.iou,
            options.max_det,
            options.agnostic_nms,
            (options.pixel_range[0], options.pixel_range[1]) if options.pixel_range else None,
            options.frames,
        )
        for caption, net in nets.items()
    }
    _tell_classes(nets)
    folder = make_run_dir(options.run.project, "predict", options.run.name, exist_ok=options.run.exist_ok)
    try:
        found = reporting.predict(nets, sources, folder, settings, progress=sys.stderr.isatty())
    except UserError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was written into it
        raise
    for caption, predictions in found.predictions.items():
        _tell_predictions(caption if options.compare else "", predictions, found.names)
    _tell_times(found, nets, options)
    if found.unread:
        print(f"{found.unread} of {len(sources)} could not be read and were left out: see above")
    print(f"written to {folder}")
    if found.stopped is not None:
        raise found.stopped
    return 1 if found.unread else 0


def _tell_classes(nets: Mapping[str, Opened]) -> None:
    """Which networks have other classes than the first: a box that only one draws may be of a class of its own."""
    from models.classes import one_numbering

    captions = list(nets)
    for caption in captions[1:]:
        ours, theirs = nets[captions[0]].names, nets[caption].names
        _, (_, order) = one_numbering([ours, theirs])
        both = sum(place < len(ours) for place in order)
        if both < max(len(ours), len(theirs)):
            log.warning(
                "%s and %s have %d of their %d and %d classes in common, by name",
                captions[0],
                caption,
                both,
                len(ours),
                len(theirs),
            )


def _tell_times(found: Found, nets: Mapping[str, Opened], options: PredictOptions) -> None:
    import torch

    from engine.evaluate import device_of

    count = len(next(iter(found.predictions.values())))
    for caption, net in nets.items():
        device = device_of(net)
        threads = options.network.threads or torch.get_num_threads()
        where = f"CPU, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)
        print(
            f"{f'{caption}: ' if options.compare else ''}{found.milliseconds(caption):.1f} ms a picture on {where}, "
            f"the median of {count}: resizing, network and NMS, without reading, drawing and writing"
        )


def _tell_predictions(caption: str, predictions: Sequence[Any], names: Sequence[str], most: int = 20) -> None:
    if caption:
        print(f"{caption}:")
    for each in predictions[:most]:
        frame = "" if each.frame is None else f" frame {each.frame}"
        print(f"{'  ' if caption else ''}{each.source}{frame}: {_found(each.boxes, names)}")
    if len(predictions) > most:
        print(f"... and {len(predictions) - most} more")


def _found(boxes: Any, names: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for label in boxes[:, 5].astype(int):
        counts[names[label]] = counts.get(names[label], 0) + 1
    shown = (f"{count} of class {name}" if name.isdigit() else f"{count} {name}" for name, count in counts.items())
    return ", ".join(shown) or "nothing"


PREDICT = Command(
    "predict",
    "detect in pictures, folders, videos, a camera or a stream",
    PredictOptions,
    lambda: predict,
    description="""\
Detect in pictures, folders of them, videos, a camera or a stream, with a network of any format. Drawn pictures in
the size they have, predictions.json and YOLO txt files (labels/) go to runs/predict/NAME. With --compare the pictures
hold what each network finds, side by side, and each has its own folder of labels. A camera or a stream runs until
Ctrl-C or --frames; what was found until then is written. Name and password in an address are shown nowhere.""",
    epilog="""\
examples:
  %(prog)s --model runs/train_prune/exp --source holiday/ street.mp4
  %(prog)s --model student.pt --source 'in/**/*.jpg' --conf 0.4
  %(prog)s --model student.onnx --source 0 --frames 100
  %(prog)s --model student.pt --source rtsp://NAME:PASSWORD@192.168.0.7/stream1
  %(prog)s --compare fat.pt thin.pt --source holiday/

Exit status: 0; 1 where some of the sources could not be read (each is named, the others are done); 2 where none could,
or something else was wrong.""",
)
