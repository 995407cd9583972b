"""Which project publishes a file of trained weights, by its name: what to say where it is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_YOLOV5 = "the project ultralytics/yolov5 (https://github.com/ultralytics/yolov5/releases, 6.0 to 7.0)"
_ULTRALYTICS = "the project ultralytics/ultralytics (https://github.com/ultralytics/assets/releases)"
_DARKNET = "the project pjreddie/darknet (https://pjreddie.com/darknet/yolo/)"
_ALEXEY = "the project AlexeyAB/darknet (https://github.com/AlexeyAB/darknet/releases)"

SIZES: Mapping[str, tuple[str, int]] = {
    "yolov3.weights": (_DARKNET, 248_007_048),
    "yolov3-spp.weights": (_DARKNET, 252_209_544),
    "yolov3-tiny.weights": (_DARKNET, 35_434_956),
    "darknet53.conv.74": (_DARKNET, 162_482_580),
    "yolov3-tiny.conv.15": (_DARKNET, 30_973_396),
    "yolov4.weights": (_ALEXEY, 257_717_640),
    "yolov4-tiny.weights": (_ALEXEY, 24_251_276),
    "yolov4.conv.137": (_ALEXEY, 170_038_676),
    "yolov4-tiny.conv.29": (_ALEXEY, 19_789_716),
    "yolov3-tiny.conv.11": (_ALEXEY, 6_303_188),
}
"""Name -> who publishes it, and its bytes (weights/README.md has the same table)."""
_PT = (
    (re.compile(r"yolov5[nsmlx]6?\.pt"), _YOLOV5),
    (re.compile(r"yolov8[nsmlx]\.pt|yolo(11|26)[nsmlx]\.pt"), _ULTRALYTICS),
)
# What people type -> what the projects call it.
_SLIPS = ((re.compile(r"yolo([58][nsmlx]6?\.pt)"), r"yolov\1"), (re.compile(r"yolov((11|26)[nsmlx]\.pt)"), r"yolo\1"))


def where_to_get(path: str | Path) -> str:
    """Where the file called so is to be had, for the end of a message; "" where it is no official one."""
    name = Path(path).name.lower()
    slip = ""
    for written, right in _SLIPS:
        if written.fullmatch(name):
            name = written.sub(right, name)
            slip = f"it is called {name}; "
    if name in SIZES:
        whose, size = SIZES[name]
        return f"{slip}{whose} publishes {name} ({size:,} bytes): fetch it and name its place (weights/README.md)"
    for pattern, whose in _PT:
        if pattern.fullmatch(name):
            return f"{slip}{whose} publishes {name}: fetch it and name its place (weights/README.md)"
    return ""
