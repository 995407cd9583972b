"""Which formats a network can be written in, and which programs run a file: one record each.

A new format is a record here and a module with its `write` (and, where a new program runs it, its `open`). This module
imports nothing heavy, so that ``--help`` and a refused ``--to`` cost no time; a `load` imports what does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.job import Job, Written
    from export.runtimes import Runtime

    Write = Callable[[Job], Written]
    Open = Callable[[Path, int], Runtime]

OUTPUTS = {
    "heads": "the logits of each head, (B, A, H, W, 5 + C); without anchors (B, 1, H, W, 4 bins + C)",
    "decoded": "cx, cy, w, h in pixels of the input, objectness, class probabilities of every place, (B, N, 5 + C); "
    "without anchors there is no objectness: (B, N, 4 + C)",
    "boxes": "x1, y1, x2, y2 in pixels of the input, confidence, class of what is found: after NMS, (K, 7) with the "
    "picture first; one-to-one heads need none and give their best, (B, --max-det, 6)",
}
"""What an exported graph may put out (``--outputs``), for people; `HeadSpec.outputs` has the exact form."""

EARLIER_OUTPUTS = {"nms": "boxes"}
"""Names that files and command lines of earlier versions have."""


@dataclass(frozen=True)
class Format:
    """A form in which a network leaves the project.

    Attributes:
        name: as ``--to`` has it.
        title: in tables and cards.
        about: for ``--help``.
        endings: what is added to the network's name, a file each; the first is the one that is opened.
        runtimes: names in `RUNTIMES` of the programs that run it, the first by default.
        load: imports the function that writes it.
        beside: endings of files that are no part of the network (class names).
        integer: its convolutions are quantised to INT8, on pictures.
        half: ``--half`` writes its weights in FP16.
        nms: a graph with NMS inside can be run here.
        heads_only: decoding cannot be part of its graph.
        round_to: channels are computed in blocks of so many by what runs it: a cut for it keeps multiples (measured by
            benchmarks/width_steps.py; of TensorRT what its documentation asks of FP16).
    """

    name: str
    title: str
    about: str
    endings: tuple[str, ...]
    runtimes: tuple[str, ...]
    load: Callable[[], Write]
    beside: tuple[str, ...] = ()
    integer: bool = False
    half: bool = False
    nms: bool = True
    heads_only: bool = False
    round_to: int = 8

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings without what tells two formats of one program apart: "-int8.xml" is ".xml"."""
        return tuple(Path(f"name{end}").suffix for end in self.endings)


@dataclass(frozen=True)
class Program:
    """What runs a network in a file.

    Attributes:
        name: as ``--runtime`` has it.
        title: what people call it.
        package: Python's name of it.
        load: imports the function ``(path, threads) -> Runtime`` that opens a file.
        from_memory: a network of PyTorch can be given to it by way of an ONNX file that nobody keeps.
    """

    name: str
    title: str
    package: str
    load: Callable[[], Open]
    from_memory: bool = True


def _onnx() -> Write:
    from export.onnx_files import write

    return write


def _int8() -> Write:
    from export.onnx_files import write_int8

    return write_int8


def _openvino() -> Write:
    from export.to_openvino import write

    return write


def _openvino_int8() -> Write:
    from export.to_openvino import write_int8

    return write_int8


def _darknet() -> Write:
    from export.to_darknet import write

    return write


def _tensorrt() -> Write:
    from export.to_tensorrt import write

    return write


def _ncnn() -> Write:
    from export.to_ncnn import write

    return write


def _litert() -> Write:
    from export.to_litert import write

    return write


def _in_onnxruntime() -> Open:
    from export.onnx_files import open_onnx

    return open_onnx


def _in_openvino() -> Open:
    from export.to_openvino import open_openvino

    return open_openvino


def _in_opencv() -> Open:
    from export.opencv import open_opencv

    return open_opencv


def _in_tensorrt() -> Open:
    from export.to_tensorrt import open_tensorrt

    return open_tensorrt


def _in_ncnn() -> Open:
    from export.to_ncnn import open_ncnn

    return open_ncnn


def _in_litert() -> Open:
    from export.to_litert import open_litert

    return open_litert


_READ_ONNX = ("onnxruntime", "openvino", "opencv")

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format(
            "onnx",
            "ONNX",
            "for ONNX Runtime, OpenVINO, OpenCV's DNN, and as the way to most other programs",
            (".onnx",),
            _READ_ONNX,
            _onnx,
        ),
        Format(
            "int8",
            "ONNX, INT8",
            "the same in 8-bit integers: a quarter of the size, faster on CPUs with VNNI; needs --data, whose\n"
            "training pictures calibrate it and whose val split says which convolutions have to stay in FP32",
            ("-int8.onnx",),
            _READ_ONNX,
            _int8,
            integer=True,
            round_to=16,
        ),
        Format(
            "openvino", "OpenVINO", "OpenVINO's .xml and .bin", (".xml", ".bin"), ("openvino",), _openvino, half=True
        ),
        Format(
            "openvino-int8",
            "OpenVINO, INT8",
            "the int8 file in OpenVINO's format",
            ("-int8.xml", "-int8.bin"),
            ("openvino",),
            _openvino_int8,
            integer=True,
            round_to=16,
        ),
        Format(
            "darknet",
            "Darknet",
            ".cfg, .weights and .names, for OpenCV's DNN, darknet and whatever else reads Darknet",
            (".cfg", ".weights"),
            ("torch", "onnxruntime", "openvino", "opencv"),
            _darknet,
            beside=(".names",),
            round_to=4,
        ),
        Format(
            "tensorrt",
            "TensorRT",
            "an engine for the GPU of this machine; needs the package tensorrt or the program trtexec",
            (".engine",),
            ("tensorrt",),
            _tensorrt,
            half=True,
            nms=False,
        ),
        Format(
            "ncnn",
            "ncnn",
            "ncnn's .param and .bin, for phones and small boards; its outputs are the heads",
            ("-ncnn.param", "-ncnn.bin"),
            ("ncnn",),
            _ncnn,
            beside=("-ncnn.json",),
            half=True,
            nms=False,
            heads_only=True,
        ),
        Format(
            "litert",
            "LiteRT",
            "LiteRT's (TensorFlow Lite's) .tflite, for phones and small boards; its outputs are the heads",
            (".tflite",),
            ("litert",),
            _litert,
            beside=(".tflite.json",),
            nms=False,
            heads_only=True,
        ),
    )
}

PROGRAMS: dict[str, Program] = {
    each.name: each
    for each in (
        Program("onnxruntime", "ONNX Runtime", "onnxruntime", _in_onnxruntime),
        Program("openvino", "OpenVINO", "openvino", _in_openvino),
        Program("opencv", "OpenCV", "cv2", _in_opencv),
        Program("tensorrt", "TensorRT", "tensorrt", _in_tensorrt, from_memory=False),
        Program("ncnn", "ncnn", "ncnn", _in_ncnn, from_memory=False),
        Program("litert", "LiteRT", "ai_edge_litert", _in_litert, from_memory=False),
    )
}
RUNTIMES = ("torch", *PROGRAMS)
"""All that ``--runtime`` may name; torch runs the checkpoints themselves."""


def runtime_title(name: str) -> str:
    """What people call what ``--runtime`` calls `name`; a name that is not known stays."""
    return "PyTorch" if name == "torch" else PROGRAMS[name].title if name in PROGRAMS else name


_FROM_MEMORY = ("torch", *(each.name for each in PROGRAMS.values() if each.from_memory))
CAN_RUN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((".pt", ".pth", ".weights"), _FROM_MEMORY),
    **{each.suffixes[0]: each.runtimes for each in FORMATS.values()},
}
"""Ending -> who can run such a file, the first by default."""
