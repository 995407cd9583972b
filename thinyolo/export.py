"""`thinyolo export`."""

from __future__ import annotations

import os

from common.command_line import Command
from common.errors import UserError
from common.reading import shown_path
from export.formats import FORMATS
from export.options import ExportOptions
from models.official import where_to_get

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
  %(prog)s --weights runs/train_prune/exp/student/weights/best.pt --to onnx
  %(prog)s --weights runs/train_prune/exp/student/weights/best.pt --to onnx,int8,openvino --data mine.yaml
  %(prog)s --weights student.pt --to int8 --data mine.yaml --max-drop 0.01
  %(prog)s --weights student.pt --to onnx --imgsz 1280x800 --outputs boxes --conf 0.3
  %(prog)s --weights student.pt --to onnx --dynamic both
  %(prog)s --weights yolo26n.pt --to onnx --heads one-to-one --outputs boxes
  %(prog)s --cfg yolov3-tiny --weights yolov3-tiny.weights --to onnx,darknet --data coco.yaml

Then:
  thinyolo predict --model student/export/student-int8.onnx --source pictures/
  thinyolo latency student/weights/best.pt student/export/student.onnx student/export/student-int8.onnx

Exit status: 0, or 2 if a format could not be made; the others are there all the same."""


def _export(options: ExportOptions) -> int:
    if not os.path.isfile(options.weights):
        raise UserError(
            f"--weights {shown_path(options.weights)} does not exist",
            todo=where_to_get(options.weights) or "give a trained network's .pt or .weights, or a run's folder",
        )
    from pipeline.exporting import export

    return export(options)


EXPORT = Command(
    "export",
    "write a network as ONNX, INT8, OpenVINO, Darknet, TensorRT, each checked and with a model card",
    ExportOptions,
    lambda: _export,
    description=DESCRIPTION,
    epilog=EPILOG,
)
