"""The options that name a network, and those of `thinyolo export`; nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, closest
from common.options import option
from common.rundir import chosen_network
from data.spec import SPLITS
from export.formats import EARLIER_OUTPUTS, FORMATS, OUTPUTS, RUNTIMES, Format
from models.heads import ONE_TO_MANY, ONE_TO_ONE
from models.resize import AUTO, RESIZE

NETWORK, GRAPH, JUDGING, PLACE = "network", "what the file takes and gives", "INT8, checks and numbers", "where to"
FILES = (
    "a .pt of ThinYOLO or YOLOv5, 8, 11, 26, .onnx, OpenVINO's .xml, TensorRT's .engine, ncnn's .param, "
    "LiteRT's .tflite, Darknet .cfg or .weights with --cfg"
)


LEAST_OPSET, LEAST_DECODED, MOST_OPSET = 15, 18, 23
"""What torch can write of these graphs: older ones, and those with decoding below the second, it leaves at 18."""
DETECTION = {"conf": 0.25, "iou": 0.45, "max_det": 300}
"""With which thresholds boxes are chosen where nobody names others."""


def network_file(required: bool) -> Any:
    """The option that names a network's file."""
    return option("", FILES, group=NETWORK, flags=("--weights",), metavar="FILE", required=required)


def heads_read() -> Any:
    """The option that says which of a network's heads detect."""
    return option(
        "auto",
        f"which heads detect, where there are two kinds (YOLO26): {ONE_TO_MANY} (auto) take NMS, {ONE_TO_ONE} give an "
        "object one box and need none; the others are left out",
        group=NETWORK,
        choices=("auto", ONE_TO_MANY, ONE_TO_ONE),
    )


def resized() -> Any:
    """The option that says how a network's pictures are resized."""
    return option(
        AUTO,
        "letterbox keeps the aspect of pictures; stretch does not, as Darknet unless its cfg says letter_box=1; auto: "
        "as the file says, else letterbox",
        group=NETWORK,
        choices=(AUTO, *RESIZE),
    )


@dataclass
class NetworkOptions:
    """A network in a file, and who runs it; `model`, the file, is declared where it is known if it has to be given."""

    cfg: str = option(
        "", "the cfg, where the file holds none (.weights), or a name: yolov3-tiny", group=NETWORK, metavar="FILE"
    )
    runtime: str = option(
        "auto",
        "who runs it; auto is PyTorch for .pt and Darknet, ONNX Runtime for .onnx, OpenVINO for .xml; openvino "
        "runs .onnx too, opencv .onnx and Darknet",
        group=NETWORK,
        choices=("auto", *RUNTIMES),
    )
    heads: str = heads_read()
    imgsz: str = option(
        "",
        "network input, 416 or WIDTHxHEIGHT such as 1280x800; without: the size it was trained for",
        group=NETWORK,
        metavar="SIZE",
    )
    resize: str = resized()
    device: str = option("", "cpu, cuda, cuda:1; without: a GPU if there is one", group=NETWORK, metavar="D")
    threads: int = option(0, "CPU threads; 0 leaves torch's choice", group=NETWORK, low=0, high=1024)


@dataclass
class ExportOptions:
    """What `thinyolo export` writes, and how that is judged."""

    weights: str = option(
        "",
        "a .pt of ThinYOLO or of YOLOv5, 8, 11 or 26, or Darknet .weights (with --cfg)",
        group=NETWORK,
        flags=("--weights", "--model"),
        metavar="FILE",
        required=True,
    )
    cfg: str = option("", "the cfg of a .weights file, or its name: yolov3-tiny", group=NETWORK, metavar="FILE")
    heads: str = heads_read()
    resize: str = resized()
    to: str = option("onnx", f"formats: {', '.join(FORMATS)}", group=NETWORK, metavar="F,...")

    imgsz: str = option(
        "",
        "input, 416 or WIDTHxHEIGHT such as 1280x800; without: the size it was trained for",
        group=GRAPH,
        metavar="SIZE",
    )
    batch: int = option(1, "pictures at a time (--dynamic batch takes any number)", group=GRAPH, low=1, high=65_536)
    dynamic: str = option(
        "none",
        "what is left open until the file runs; OpenCV takes no open size",
        group=GRAPH,
        choices=("none", "batch", "size", "both"),
        const="both",
    )
    opset: int = option(
        0,
        f"opset of .onnx files, {LEAST_OPSET} to {MOST_OPSET}, for programs that take no newer one; 0: torch's choice",
        group=GRAPH,
        low=0,
        high=MOST_OPSET,
        metavar="N",
    )
    outputs: str = option(
        "heads",
        "; ".join(f"{name} is {meaning}" for name, meaning in OUTPUTS.items())
        + ". All are decoded in FP32; nms is the earlier name of boxes",
        group=GRAPH,
        choices=(*OUTPUTS, *EARLIER_OUTPUTS),
    )
    conf: float = option(DETECTION["conf"], "least confidence of NMS", group=GRAPH, low=0, high=1, metavar="P")
    iou: float = option(DETECTION["iou"], "overlap NMS allows", group=GRAPH, low=0, high=1, metavar="P")
    max_det: int = option(
        int(DETECTION["max_det"]),
        "most boxes: NMS keeps them a picture and class, one-to-one heads a picture",
        group=GRAPH,
        low=1,
        high=100_000,
    )
    half: bool = option(False, "openvino, tensorrt and ncnn: weights in FP16, half the size (not int8)", group=GRAPH)

    data: str = option(
        "",
        "the data set's yaml: mAP of every file, real pictures for the checks; int8 needs it",
        group=JUDGING,
        metavar="FILE",
    )
    split: str = option(
        "val",
        "which pictures the table's mAP is of; INT8 always chooses on val",
        group=JUDGING,
        choices=SPLITS,
    )
    single_cls: bool = option(False, "all classes count as one", group=JUDGING)
    calibrate: int = option(
        128,
        "training pictures that set the ranges of INT8: more catch rarer values",
        group=JUDGING,
        low=1,
        high=1_000_000,
    )
    max_drop: float | None = option(
        None,
        "most mAP50-95 that INT8 may cost on val: no more stays in FP32 than that takes, and where nothing keeps "
        "to it there is no file; without: what costs least",
        group=JUDGING,
        low=0,
        high=1,
    )
    reduce_range: bool = option(
        False, "INT8 weights in 7 bits: for x86 CPUs without VNNI, whose 8-bit sums overflow", group=JUDGING
    )
    threads: int = option(0, "CPU threads; 0: one a core", group=JUDGING, low=0, high=1024)
    latency: bool = option(True, "do not time the files", group=JUDGING)

    out: str = option("", "folder; without: export/ in the weights' run, or beside them", group=PLACE, metavar="DIR")
    name: str = option("", "of the files; without: the run's, or the weights'", group=PLACE, metavar="NAME")

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is loaded.

        Raises:
            UserError: by the option's name.
        """
        formats = self.formats
        self.outputs = EARLIER_OUTPUTS.get(self.outputs, self.outputs)
        if "/" in self.name or "\\" in self.name:
            raise UserError(f"--name {self.name} is not the name of a file", todo="name the folder by --out")
        int8 = [each.name for each in formats if each.integer]
        if self.max_drop is not None and not int8:
            raise UserError("--max-drop bounds what INT8 may cost, and --to names no INT8", todo="add int8 to --to")
        if self.opset and not any(end.endswith(".onnx") for each in formats for end in each.endings):
            raise UserError(f"--opset {self.opset} is for .onnx files, and --to names none", todo="leave it out")
        if 0 < self.opset < LEAST_OPSET:
            todo = f"--opset {LEAST_OPSET}, the oldest that torch writes"
            raise UserError(f"--opset {self.opset} cannot be written", todo=todo)
        if 0 < self.opset < LEAST_DECODED and self.outputs != "heads":
            problem = f"--opset {self.opset} cannot be written with --outputs {self.outputs}"
            raise UserError(problem, todo=f"--opset {LEAST_DECODED}, or --outputs heads")
        if self.half and not any(each.half for each in formats):
            able = " and ".join(each.name for each in FORMATS.values() if each.half)
            raise UserError(f"--half is for {able}, and --to names neither", todo="leave it out")
        if int8 and not self.data:
            problem = f"--to {int8[0]} needs pictures to calibrate on and to judge by"
            raise UserError(problem, todo="add --data mine.yaml")
        heads_only = [each.name for each in formats if each.heads_only]
        if self.outputs != "heads" and heads_only:
            raise UserError(
                f"--outputs {self.outputs} is not for {heads_only[0]}: its graph ends with the heads",
                todo=f"leave it out, or leave {heads_only[0]} out of --to",
            )
        unable = [each.name for each in formats if not each.nms]
        if self.outputs == "boxes" and unable and self.heads != ONE_TO_ONE:
            raise UserError(
                f"--outputs boxes is not for {unable[0]}: its engines are run here with outputs of known size only, "
                "and NMS gives what it finds",
                todo=f"--outputs decoded, and NMS outside; or leave {unable[0]} out of --to; or --heads {ONE_TO_ONE}, "
                "where the network has such heads",
            )
        if os.path.isdir(self.weights):
            self.weights = str(chosen_network(self.weights))
        if Path(self.weights).suffix not in (".pt", ".pth", ".weights", ".cfg"):
            raise UserError(
                f"--weights {self.weights}: only a network of PyTorch or Darknet can be exported",
                todo="give the .pt this file was made of",
            )

    @property
    def formats(self) -> list[Format]:
        """The formats ``--to`` names, each once.

        Raises:
            UserError: there is no such format.
        """
        chosen = [part.strip().lower() for part in self.to.split(",") if part.strip()]
        for name in chosen:
            if name not in FORMATS:
                near = closest(name, FORMATS)
                hint = f"did you mean {near[0]}? " if near else ""
                problem = f"--to {self.to}: there is no format '{name}'"
                raise UserError(problem, todo=f"{hint}formats: {', '.join(FORMATS)}")
        if not chosen:
            raise UserError("--to names no format", todo=f"formats: {', '.join(FORMATS)}")
        return [FORMATS[name] for name in dict.fromkeys(chosen)]
