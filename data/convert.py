"""Annotations of other programs become the usual layout; `thinyolo convert` is the same from the command line.

One function a format: `voc_to_yolo`, `coco_to_yolo`, `hand_to_yolo`; `yolo_to_yolo` divides what has YOLO labels.
"""

from __future__ import annotations

from data.convert_coco import coco_to_yolo
from data.convert_hand import hand_to_yolo
from data.convert_voc import voc_to_yolo
from data.convert_writer import Converted, read_names
from data.convert_yolo import yolo_to_yolo

__all__ = ["Converted", "coco_to_yolo", "hand_to_yolo", "read_names", "voc_to_yolo", "yolo_to_yolo"]


if __name__ == "__main__":
    raise SystemExit("error: this command is called thinyolo convert voc|coco|hand|yolo now, with the same options")
