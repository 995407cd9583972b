"""`thinyolo predict`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import export
import reporting
from common.command_line import Command
from common.errors import UserError
from common.options import option
from common.rundir import make_run_dir
from export.options import DETECTION, NetworkOptions, network_file
from thinyolo.run_options import RunOptions

BOXES = "boxes"


@dataclass
class PredictOptions:
    """Which network detects in what."""

    model: str = network_file(required=False)
    compare: tuple[str, ...] = option(
        (),
        "instead of --model: two or more networks with the same classes, side by side in one picture",
        group="network",
        nargs=0,
        metavar="FILE",
    )
    network: NetworkOptions = field(default_factory=NetworkOptions)
    source: str = option("", "a picture, a video or a folder", group=BOXES, metavar="PATH", required=True)
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


def predict(options: PredictOptions) -> None:
    """Detect, draw, write, and print what was found."""
    files = options.compare or (options.model,)
    reporting.find_sources(options.source)  # a wrong path is told before a network is loaded and a folder made
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
        )
        for caption, net in nets.items()
    }
    first = next(iter(nets.values()))
    for caption, net in nets.items():
        if net.names != first.names:
            raise UserError(
                f"{caption} has other classes than {captions[0]}: {net.names[:10]}, {first.names[:10]}",
                todo="compare networks of one data set, or give its names by --data",
            )
    folder = make_run_dir(options.run.project, "predict", options.run.name, exist_ok=options.run.exist_ok)
    shown = sys.stderr.isatty()
    if options.model:
        found = {"": reporting.predict(first, options.source, folder, settings[captions[0]], progress=shown)}
    else:
        found = reporting.predict_side_by_side(nets, options.source, folder, settings, progress=shown)
    for caption, predictions in found.items():
        _tell_predictions(caption, predictions, first.names)
    print(f"written to {folder}")


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
    "detect in pictures, a folder or a video",
    PredictOptions,
    lambda: predict,
    description="""\
Detect in pictures, a folder of them or a video, with a network of any format. Drawn pictures,
predictions.json and YOLO txt files (labels/) go to runs/predict/NAME. With --compare the pictures hold what
each network finds, side by side, and each has its own folder of labels.""",
)
