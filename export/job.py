"""One network on its way into files: what every format's `write` is handed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common.files import whole_file
from export.description import Description, describe, remove_cards
from export.onnx_graph import finished, model_of
from export.runtimes import Opened
from export.to_onnx import onnx_model
from models.heads import spec_read
from models.network import Network


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        path: the file (of two, the one that is opened).
        description: what it says about itself.
        net: the file, opened by a program that is here; None where none is.
        note: what is to be said of it in a footnote.
    """

    path: Path
    description: Description
    net: Opened | None = None
    note: str = ""


@dataclass
class Job:
    """A network, how its graph is to look, and where the files go. ONNX graphs are made once, for all formats.

    Attributes:
        net: the network, on the CPU.
        size: (H, W) of its input.
        folder, name: the files are ``folder/name`` and a format's ending.
        threads: CPU threads of the programs that open what is written.
        batch: pictures at a time; 0: any number.
        any_size: every size that the largest stride divides.
        outputs: a key of `export.formats.OUTPUTS`.
        nms: "conf", "iou", "max_det" of the boxes chosen inside the graph, where `outputs` is "boxes".
        opset: of ONNX; 0: torch's choice.
        half: weights in FP16, in the formats that have them.
        int8_trunk: gives the ONNX model images -> heads in INT8. Raises `UserError` where none is good enough.
    """

    net: Network
    size: tuple[int, int]
    folder: Path
    name: str
    threads: int
    batch: int = 1
    any_size: bool = False
    outputs: str = "heads"
    nms: Mapping[str, float] = field(default_factory=dict)
    opset: int = 0
    half: bool = False
    int8_trunk: Callable[[], Any] | None = None

    @cached_property
    def trunk(self) -> bytes:
        """Images -> heads, FP32, an ONNX model."""
        return onnx_model(self.net, self.size, self.batch, self.any_size, self.opset)

    @cached_property
    def fp32(self) -> Any:
        """The finished ONNX model in FP32."""
        return finished(model_of(self.trunk), self.description())

    @cached_property
    def int8(self) -> Any:
        """The finished ONNX model in INT8."""
        assert self.int8_trunk is not None
        return finished(copy.deepcopy(self.int8_trunk()), self.description("int8"))

    def description(self, precision: str = "fp32") -> Description:
        """What a file of this job says about itself."""
        nms = None
        if self.outputs == "boxes":
            nms = {"max_det": self.nms["max_det"]} if spec_read(self.net.specs).one_to_one else dict(self.nms)
        return describe(
            self.net,
            self.size,
            any_size=self.any_size,
            batch=self.batch,
            outputs=self.outputs,
            precision=precision,
            nms=nms,
        )

    def new(self, ending: str) -> Path:
        """Where a file is to be written; the card of an earlier one is gone: it is not what will be there."""
        path = self.folder / f"{self.name}{ending}"
        remove_cards(path)
        return path

    def save(self, model: Any, ending: str) -> Path:
        """Write an ONNX model."""
        path = self.new(ending)
        with whole_file(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return path
