"""One face for a network in a file, whatever the format: `Runtime` does what a `Network` does where it only detects.

ONNX Runtime, OpenVINO, OpenCV's DNN, TensorRT, ncnn, LiteRT. What they are given and give back is described by the file
itself (see `export.description`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from export.description import Description
from models.heads import HeadSpec, decode_heads, decode_heads_above
from models.network import Network

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class Runtime(nn.Module):
    """A network that something other than PyTorch runs.

    Args:
        description: what goes in and what comes out.
        run: pictures ``(B, 3, H, W)`` float32 in 0..1 -> the outputs, in the file's order.
        runtime: who runs it: "onnxruntime", "openvino", "opencv", "tensorrt", "ncnn", "litert".
        path: the file.

    Attributes:
        names, classes, specs, image_size, resize, max_stride: as a `Network` has them.
        fixed_size: (H, W) of the only pictures it takes; None where it takes all that `max_stride` divides.
    """

    def __init__(self, description: Description, run: Run, runtime: str, path: str | Path):
        super().__init__()
        self.description, self.run, self.runtime, self.path = description, run, runtime, Path(path)
        self.names, self.classes, self.specs = list(description.names), description.classes, description.specs
        self.image_size, self.max_stride = description.size, description.stride
        self.resize = description.resize
        self.fixed_size = None if description.any_size else description.size

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pictures -> heads ``(B, A, H, W, K)``, or one tensor as of `decode` where the file decodes itself."""
        self._check(images)
        content = images.detach().cpu().float().contiguous().numpy()
        step = self.description.batch or len(content)
        parts = [self._part(content[start : start + step], step) for start in range(0, len(content), step)]
        return [_joined(outputs).to(images.device) for outputs in zip(*parts, strict=True)]

    def decode(self, outputs: Sequence[Tensor]) -> Tensor:
        """What `forward` gave -> ``(B, N, 5 + C)``, as `Network.decode`."""
        if self.description.outputs != "heads":
            return outputs[0]
        return decode_heads(outputs, self.specs)

    def decode_above(self, outputs: Sequence[Tensor], least: float) -> list[Tensor]:
        """As `Network.decode_above`; of a file that decodes itself, all rows."""
        if self.description.outputs != "heads":
            return list(outputs[0])
        return decode_heads_above(outputs, self.specs, least)

    def _part(self, content: np.ndarray, step: int) -> list[Tensor]:
        """The outputs for at most `step` pictures, filled up where the file wants exactly so many."""
        count = len(content)
        if count < step:
            content = np.concatenate((content, np.zeros((step - count, *content.shape[1:]), content.dtype)))
        try:
            outputs = [torch.from_numpy(np.array(output, np.float32)) for output in self.run(content)]
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:  # what programs raise is derived from these
            raise self._wrong(f"{self.runtime} cannot run it: {(str(error).splitlines() or ['?'])[0][:200]}") from error
        self._check_outputs(outputs)
        if self.description.outputs == "boxes":
            boxes, spec = outputs[0], self.description.spec
            by_picture = boxes[:count] if spec.one_to_one else _by_picture(boxes, count)
            return [torch.nn.utils.rnn.pad_sequence([_as_decoded(each, spec) for each in by_picture], batch_first=True)]
        return [output[:count] for output in outputs]

    def _check_outputs(self, outputs: Sequence[Tensor]) -> None:
        """Refuse what the description does not say: decoding it would go wrong somewhere else."""
        about, spec = self.description, self.description.spec
        if about.outputs == "heads":
            wanted = [(each.places, each.channels) for each in self.specs]
            fit = [(*each.shape[1:2], *each.shape[4:]) for each in outputs] == wanted
        else:
            columns = {"decoded": 4 + spec.has_objectness + self.classes, "boxes": 6 if spec.one_to_one else 7}
            fit = len(outputs) == 1 and outputs[0].ndim > 1 and outputs[0].shape[-1] == columns[about.outputs]
        if not fit:
            shapes = [list(each.shape) for each in outputs][:4]
            raise self._wrong(f"puts out {shapes}, and says that these are {about.outputs}")

    def _wrong(self, problem: str) -> UserError:
        return UserError(problem, where=self.path, todo="export it anew: thinyolo export --weights FILE.pt")

    def _check(self, images: Tensor) -> None:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        if self.fixed_size and size != self.fixed_size:
            raise UserError(
                f"takes pictures of {_shown(self.fixed_size)} (WIDTHxHEIGHT) only, not of {_shown(size)}",
                where=self.path,
                todo=f"leave --imgsz out, or export it anew with --imgsz {_shown(size)} or --dynamic",
            )


Opened = Network | Runtime
"""A network that detects, whoever runs it."""


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    """Parts of a batch as one; where NMS left different numbers of rows, the shorter are filled with zeros."""
    rows = max(output.shape[1] for output in outputs)
    if any(output.shape[1] != rows for output in outputs):
        outputs = [
            torch.cat((each, each.new_zeros(len(each), rows - each.shape[1], *each.shape[2:])), 1) for each in outputs
        ]
    return torch.cat(list(outputs))


def _by_picture(rows: Tensor, count: int) -> list[Tensor]:
    """NMS's rows (picture, x1, y1, x2, y2, confidence, class) ``(K, 7)``, picture by picture without its number."""
    rows = rows.reshape(-1, 7)
    return [rows[rows[:, 0] == place, 1:] for place in range(count)]


def _as_decoded(boxes: Tensor, spec: HeadSpec) -> Tensor:
    """Boxes x1, y1, x2, y2, confidence, class ``(K, 6)`` as decoded rows: certain of one class each."""
    low, high = boxes[:, :2], boxes[:, 2:4]
    return spec.decoded_rows(torch.cat(((low + high) / 2, high - low), 1), boxes[:, 4], boxes[:, 5])


def unreadable(who: str, path: str | Path, error: Exception) -> UserError:
    """The error of a program that cannot open a file, in one sentence."""
    lines = [line.strip("> '\t") for line in str(error).splitlines()]
    said = [line for line in lines if len(line) > 3] or [type(error).__name__]
    words = re.sub(r"^OpenCV\S* \S+: error: \([^)]*\) ", "", said[-1])  # where in its own source it was found
    return UserError(
        f"{who} cannot read it: {words}",
        where=path,
        todo="is the file whole? Another --runtime may read it; or export it anew",
    )
