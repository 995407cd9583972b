"""INT8: ONNX Runtime's static quantisation (QDQ, weights per channel), calibrated on training pictures, judged by mAP.

Which convolutions stay in FP32 is decided by measuring. Candidates go from everything in INT8 to more and more left as
it was; boxes are always decoded in FP32.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.log import log
from data import Dataset, DataSpec
from export.onnx_graph import head_convolutions, model_of, packed_stem
from export.to_onnx import INPUT, need_onnx
from models.resize import LETTERBOX

CLOSE = 0.001
"""Without a bound, a candidate with less in FP32 is taken where its mAP50-95 is within this of the best."""


@dataclass(frozen=True)
class Candidate:
    """One way to quantise.

    Attributes:
        inside: what is in INT8, in words.
        heads, first: the convolutions of the heads, and the first one of all, stay in FP32.
        ranges: what of an activation's values is told apart, a key of `RANGES`.
    """

    inside: str
    heads: bool = False
    first: bool = False
    ranges: str = "mean"

    @property
    def name(self) -> str:
        """What the log and the model card call it."""
        return f"{self.inside} in INT8, {RANGES[self.ranges]}"


RANGES = {
    "mean": "ranges averaged over pictures",
    "widest": "ranges of all pictures",
    "percentile": "ranges of 99.99 % of the values",
}
"""An average cuts the outliers of single pictures, and with them what a thin network may need; which is better is seen
on val only. Percentiles take several times as long to measure."""

_INSIDE = (
    ("everything", False, False),
    ("all but the heads' convolutions", True, False),
    ("all but the heads' and the first convolution", True, True),
)
CANDIDATES = tuple(Candidate(*inside, ranges) for inside in _INSIDE for ranges in ("mean", "widest"))
EVERYTHING = next(each for each in CANDIDATES if not each.heads and each.ranges == "widest")
"""What INT8 is timed with where nobody asks how well it detects."""
# Only tried where a bound is asked for and the quick ones miss it.
SLOW = (Candidate(*_INSIDE[2], "percentile"),)


@dataclass(frozen=True)
class Quantised:
    """The chosen INT8 trunk.

    Attributes:
        model: the `onnx.ModelProto`, images -> heads.
        candidate: how it was made.
        scores: candidate's name -> val mAP50-95, of all that were tried.
        before: val mAP50-95 in FP32.
        pictures: how many its ranges were measured on.
    """

    model: Any
    candidate: Candidate
    scores: dict[str, float]
    before: float
    pictures: int


def calibration_pictures(
    spec: DataSpec, size: tuple[int, int], count: int, resize: str = LETTERBOX
) -> list[np.ndarray]:
    """`count` training pictures ``(1, 3, H, W)``, resized as in evaluation; of one data set always the same."""
    pictures = Dataset(spec, "train", size, resize=resize)
    chosen = np.random.default_rng(0).permutation(len(pictures))[:count]
    return [pictures[int(number)].image.numpy()[None].astype(np.float32) / 255 for number in chosen]


def quantise(
    trunk: bytes,
    pictures: Sequence[np.ndarray],
    score: Callable[[Any], float],
    before: float,
    max_drop: float | None = None,
    reduce_range: bool = False,
) -> Quantised:
    """The INT8 form of a trunk (images -> heads) that keeps the most mAP.

    Args:
        trunk: a serialised ONNX model, FP32.
        pictures: what ranges are measured on.
        score: val mAP50-95 of a quantised model.
        before: val mAP50-95 in FP32.
        max_drop: the first candidate that loses no more is taken. None: all quick ones are tried, the best is taken.
        reduce_range: weights in 7 bits.

    Raises:
        UserError: no candidate keeps within `max_drop`; the best one found is named.
    """
    need_onnx("onnx", "onnxruntime")
    scores: dict[str, float] = {}
    models: dict[str, Any] = {}
    quantiser = Quantiser(trunk, pictures, reduce_range)
    candidates = CANDIDATES if max_drop is None else CANDIDATES + SLOW
    for candidate in candidates:
        models[candidate.name] = model = quantiser(candidate)
        scores[candidate.name] = found = score(model)
        log.info("%s: val mAP50-95 %.4f (%+.4f)", candidate.name, found, found - before)
        if max_drop is not None and before - found <= max_drop:
            return Quantised(model, candidate, scores, before, len(pictures))
    best = max(scores.values())
    if max_drop is not None:
        name = max(scores, key=scores.__getitem__)
        raise UserError(
            f"INT8 loses more than --max-drop {max_drop:g}: at best val mAP50-95 falls from {before:.4f} to {best:.4f} "
            f"({before - best:.4f}), with {name}",
            todo=f"--max-drop {before - best + 5e-4:.3f}, more pictures (--calibrate), or leave int8 out of --to",
        )
    chosen = next(each for each in candidates if scores[each.name] >= best - CLOSE)
    return Quantised(models[chosen.name], chosen, scores, before, len(pictures))


class Quantiser:
    """Makes candidates of one network; what ranges its activations have is measured once.

    Activations become uint8, weights int8: the pair ONNX Runtime has fast code for. With int8 activations the file is
    slower than in FP32 (see docs/export.md).

    Args:
        trunk: a serialised ONNX model, FP32.
        pictures: what ranges are measured on.
        reduce_range: weights in 7 bits.
    """

    def __init__(self, trunk: bytes, pictures: Sequence[np.ndarray], reduce_range: bool = False):
        self.pictures, self.reduce_range = pictures, reduce_range
        # By whether the first convolution stays in FP32, where it is faster as it is.
        self.trunks = {True: trunk, False: packed_stem(model_of(trunk)).SerializeToString()}
        self.ranges: dict[str, str] = {}

    def __call__(self, candidate: Candidate, **other: Any) -> Any:
        """The candidate's model; `other` arguments of ONNX Runtime's `quantize_static` are tried in place of ours."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        # A histogram a picture, merged: else ONNX Runtime first holds all activations of all pictures, many gigabytes.
        options = {
            "mean": {"CalibMovingAverage": True},
            "percentile": {"CalibPercentile": 99.99, "CalibStridedMinMax": 1},
        }
        method = CalibrationMethod.Percentile if candidate.ranges == "percentile" else CalibrationMethod.MinMax
        arguments = {
            "quant_format": QuantFormat.QDQ,
            "per_channel": True,
            "reduce_range": self.reduce_range,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "calibrate_method": method,
            "extra_options": options.get(candidate.ranges, {}),
            **other,
        }
        with tempfile.TemporaryDirectory() as folder, _quiet():
            source, ready, target = (Path(folder) / f"{name}.onnx" for name in ("source", "ready", "int8"))
            source.write_bytes(self.trunks[candidate.first])
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            left = excluded(model_of(ready.read_bytes()), candidate)
            names = ("calibrate_method", "extra_options", "op_types_to_quantize")
            how = str([candidate.first, *(arguments.get(name) for name in names)])
            with self._kept_ranges(Path(folder) / "ranges.json", how) as cache:
                reader = _Reader(self.pictures)
                quantize_static(str(ready), str(target), reader, nodes_to_exclude=left, **arguments, **cache)
            return model_of(target.read_bytes())

    @contextmanager
    def _kept_ranges(self, path: Path, how: str) -> Iterator[dict[str, str]]:
        """Arguments that make ONNX Runtime take the ranges of an earlier call that measured them the same way (`how`),
        where it is new enough to keep them."""
        from onnxruntime.quantization import quantize_static

        if "calibration_cache_path" not in inspect.signature(quantize_static).parameters:
            yield {}
            return
        if how in self.ranges:
            path.write_text(self.ranges[how])
        yield {"calibration_cache_path": str(path)}
        self.ranges[how] = path.read_text()


def excluded(model: Any, candidate: Candidate) -> list[str]:
    """Names of the nodes a candidate leaves in FP32."""
    names = head_convolutions(model) if candidate.heads else []
    if candidate.first:
        names.append(next(node.name for node in model.graph.node if node.op_type == "Conv"))
    return names


class _Reader:
    """Hands the pictures to the calibration, one after the other: all, or those of a range it sets."""

    def __init__(self, pictures: Sequence[np.ndarray]):
        self.pictures = pictures
        self.set_range(0, len(pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left: Iterator[np.ndarray] = iter(self.pictures[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self.left, None)
        return None if picture is None else {INPUT: picture}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the quantiser says on its way: advice to call a function that has been called, and progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
