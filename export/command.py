"""``python -m export``: one trained network in the formats it will run in, checked, scored, timed."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import UserError
from export.formats import FORMATS, OUTPUTS
from export.quantise import CALIBRATION
from export.two_ways import Command

DESCRIPTION = """\
Write a trained network in the formats it will run in.

Each file is checked against PyTorch on pictures, scored with the same evaluation as in training (with --data), and
timed beside the others; a table at the end shows all of them. Beside every file lies a model card (NAME.card.md for
people, NAME.card.json for programs): data set, classes, ancestors, teacher, sizes, mAP, latency, sha256.

formats (--to, several with commas):
"""
DESCRIPTION += "\n".join(f"  {each.name:<14} " + each.about.replace("\n", "\n" + " " * 17) for each in FORMATS.values())

EPILOG = """\
examples:
  python -m export --weights runs/train_prune/exp/student/weights/best.pt --to onnx
  python -m export --weights runs/train_prune/exp/student/weights/best.pt --to onnx,int8,openvino --data mine.yaml
  python -m export --weights student.pt --to int8 --data mine.yaml --max-drop 0.01
  python -m export --weights student.pt --to onnx --imgsz 1280x800 --outputs nms --conf 0.3
  python -m export --weights student.pt --to onnx --dynamic both
  python -m export --cfg yolov3-tiny --weights yolov3-tiny.weights --to onnx,darknet --data coco.yaml

Then:
  thinyolo predict --model student/export/student-int8.onnx --source pictures/
  thinyolo latency student/weights/best.pt student/export/student.onnx student/export/student-int8.onnx

Exit status: 0, or 2 if a format could not be made; the others are there all the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = parser.add_argument_group("network")
    what.add_argument(
        "--weights",
        "--model",
        required=True,
        metavar="FILE",
        help="a .pt of ThinYOLO or YOLOv5, or Darknet .weights (with --cfg)",
    )
    what.add_argument("--cfg", default="", metavar="FILE", help="the cfg of a .weights file, or its name: yolov3-tiny")
    what.add_argument("--to", default="onnx", metavar="F,...", help=f"formats: {', '.join(FORMATS)} (default: onnx)")
    _graph_arguments(parser.add_argument_group("what the file takes and gives"))
    _judging_arguments(parser.add_argument_group("INT8, checks and numbers"))
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--out", default="", metavar="DIR", help="folder (default: export/ in the weights' run, or beside them)"
    )
    where.add_argument("--name", default="", metavar="NAME", help="of the files (default: the run's, or the weights')")


def _graph_arguments(graph: argparse._ArgumentGroup) -> None:
    graph.add_argument(
        "--imgsz",
        default="",
        metavar="SIZE",
        help="input, 416 or WIDTHxHEIGHT such as 1280x800 (default: the size it was trained for)",
    )
    graph.add_argument("--batch", type=int, default=1, metavar="N", help="pictures at a time (default: 1)")
    graph.add_argument(
        "--dynamic",
        nargs="?",
        const="both",
        default="none",
        choices=("none", "batch", "size", "both"),
        help="what is left open until the file runs; OpenCV takes no open size (default: none)",
    )
    graph.add_argument(
        "--outputs",
        default="heads",
        choices=tuple(OUTPUTS),
        help="; ".join(f"{name} is {meaning}" for name, meaning in OUTPUTS.items())
        + ". All are decoded in FP32 (default: heads)",
    )
    graph.add_argument("--conf", type=float, default=0.25, metavar="P", help="least confidence of NMS (default: 0.25)")
    graph.add_argument("--iou", type=float, default=0.45, metavar="P", help="overlap NMS allows (default: 0.45)")
    graph.add_argument(
        "--max-det", type=int, default=300, metavar="N", help="most boxes NMS keeps, a picture and class (default: 300)"
    )
    graph.add_argument(
        "--half", action="store_true", help="openvino and tensorrt: weights in FP16, half the size (not int8)"
    )


def _judging_arguments(judge: argparse._ArgumentGroup) -> None:
    judge.add_argument(
        "--data",
        default="",
        metavar="FILE",
        help="the data set's yaml: mAP of every file, real pictures for the checks; int8 needs it",
    )
    judge.add_argument(
        "--split",
        default="val",
        choices=("train", "val", "test"),
        help="which pictures the table's mAP is of; INT8 always chooses on val (default: val)",
    )
    judge.add_argument("--single-cls", action="store_true", help="all classes count as one")
    judge.add_argument(
        "--calibrate",
        type=int,
        default=CALIBRATION,
        metavar="N",
        help=f"training pictures that set the ranges of INT8: more catch rarer values (default: {CALIBRATION})",
    )
    judge.add_argument(
        "--max-drop",
        type=float,
        default=None,
        metavar="X",
        help="most mAP50-95 that INT8 may cost on val: no more stays in FP32 than that takes, and where nothing keeps "
        "to it there is no file (default: what costs least)",
    )
    judge.add_argument(
        "--reduce-range",
        action="store_true",
        help="INT8 weights in 7 bits: for x86 CPUs without VNNI, whose 8-bit sums overflow",
    )
    judge.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: one a core)")
    judge.add_argument("--no-latency", action="store_true", help="do not time the files")


def run(options: argparse.Namespace) -> int:
    """The command."""
    from pipeline.exporting import Exporter

    check(options)
    return Exporter(options).run()


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        UserError: by the option's name.
    """
    options.formats = formats(options.to)
    if options.batch < 1:
        raise UserError(f"--batch {options.batch} is below 1", todo="--batch 1, or --dynamic batch for any number")
    for name in ("conf", "iou"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"--{name} {getattr(options, name)} is not between 0 and 1", todo=f"--{name} 0.4")
    if options.max_det < 1 or options.calibrate < 1 or options.threads < 0:
        raise UserError("--max-det and --calibrate have to be at least 1, --threads at least 0", todo="leave them out")
    if options.max_drop is not None and options.max_drop < 0:
        raise UserError(f"--max-drop {options.max_drop:g} is below 0", todo="--max-drop 0.01")
    if "/" in options.name or "\\" in options.name:
        raise UserError(f"--name {options.name} is not the name of a file", todo="name the folder by --out")
    chosen = [FORMATS[name] for name in options.formats]
    int8 = [each.name for each in chosen if each.integer]
    if options.max_drop is not None and not int8:
        raise UserError("--max-drop bounds what INT8 may cost, and --to names no INT8", todo="add int8 to --to")
    if options.half and not any(each.half for each in chosen):
        able = " and ".join(each.name for each in FORMATS.values() if each.half)
        raise UserError(f"--half is for {able}, and --to names neither", todo="leave it out")
    if int8 and not options.data:
        raise UserError(f"--to {int8[0]} needs pictures to calibrate on and to judge by", todo="add --data mine.yaml")
    if options.outputs == "nms" and (unable := [each.name for each in chosen if not each.nms]):
        raise UserError(
            f"--outputs nms is not for {unable[0]}: its engines are run here with outputs of known size only",
            todo=f"--outputs decoded, and NMS outside; or leave {unable[0]} out of --to",
        )
    if not Path(options.weights).is_file():
        raise UserError(f"--weights {options.weights} does not exist", todo="give a trained network's .pt or .weights")
    if Path(options.weights).suffix not in (".pt", ".pth", ".weights", ".cfg"):
        raise UserError(
            f"--weights {options.weights}: only a network of PyTorch or Darknet can be exported",
            todo="give the .pt this file was made of",
        )


def formats(text: str) -> list[str]:
    """The formats ``--to`` names, each once.

    Raises:
        UserError: there is no such format.
    """
    import difflib

    chosen = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in chosen:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"--to {text}: there is no format '{name}'", todo=f"{hint}formats: {', '.join(FORMATS)}")
    if not chosen:
        raise UserError("--to names no format", todo=f"formats: {', '.join(FORMATS)}")
    return list(dict.fromkeys(chosen))


COMMAND = Command(
    "export",
    "export",
    "write a network as ONNX, INT8, OpenVINO, Darknet, TensorRT, each checked and with a model card",
    DESCRIPTION,
    EPILOG,
    add_arguments,
    run,
)
