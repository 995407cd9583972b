"""OpenVINO's own format (the extra `openvino`): a network as `.xml` and its weights as `.bin`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import whole_file
from export.description import Description
from export.job import Job, Written
from export.runtimes import Runtime, unreadable
from export.sound import check_onnx, check_openvino, need_bounded

SECTION = "thinyolo"
REPORTS = "openvino_telemetry"


def need_openvino() -> Any:
    """The package; raises `UserError` where it is not installed.

    On import it would report to its makers over the network, by a process of its own, unless the package for that is
    not to be had.
    """
    loaded = REPORTS in sys.modules
    if not loaded:
        sys.modules[REPORTS] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "OpenVINO is not installed here", todo="python -m pip install -e '.[openvino]' (or pip install openvino)"
        ) from error
    finally:
        if not loaded:
            del sys.modules[REPORTS]
    return openvino


@cache
def _core() -> Any:
    """One for the process, never dropped.

    On a CPU with AMX every core gives the thread a stack for signal handlers, and takes it back when it goes. Of two
    that go in the order they came the thread is left with one that is no more, and the next signal ends the process.
    """
    return need_openvino().Core()


def save_ir(model: Any, path: str | Path, metadata: Mapping[str, str], half: bool = False) -> None:
    """Write an ONNX model as OpenVINO IR: `path` (.xml) and the `.bin` beside it.

    Args:
        model: the `onnx.ModelProto`.
        metadata: goes into the IR's `rt_info`.
        half: weights in FP16: half the size; computed in what the device prefers.
    """
    openvino = need_openvino()
    path = Path(path)
    converted = _core().read_model(model.SerializeToString(), b"")
    for key, value in metadata.items():
        converted.set_rt_info(value, [SECTION, key])
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "network.xml"
        openvino.save_model(converted, str(made), compress_to_fp16=half)
        with whole_file(path) as text, whole_file(path.with_suffix(".bin")) as weights:
            shutil.copyfile(made, text)
            shutil.copyfile(made.with_suffix(".bin"), weights)


def ir_metadata(model: Any) -> dict[str, str]:
    """What `save_ir` wrote into the `rt_info`."""
    if not model.has_rt_info([SECTION]):
        return {}
    return {key: str(value) for key, value in model.get_rt_info([SECTION]).value.items()}


def compiled(path: str | Path, threads: int) -> tuple[Callable[[np.ndarray], Sequence[np.ndarray]], Description]:
    """(pictures -> outputs, what it says about itself) of a file in OpenVINO on the CPU, as `started` runs it."""
    for file in (Path(path), Path(path).with_suffix(".bin")):
        if file.exists():
            need_bounded(file)
    metadata = check_onnx(path) if Path(path).suffix == ".onnx" else None
    model = _core().read_model(str(path))
    description = Description.from_metadata(ir_metadata(model) if metadata is None else metadata, path)
    check_openvino(path, model, description)
    return started(model, threads), description


def started(model: Any, threads: int) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """Pictures -> outputs of a model of OpenVINO, or of an ONNX model's bytes that this program made itself.

    Left alone, OpenVINO computes FP32 files in bfloat16 on a CPU that has it: faster, but not what was checked. Here
    it is told to stay in FP32; layers that are INT8 in the file run as INT8.
    """
    core = _core()
    if isinstance(model, bytes):
        model = core.read_model(model, b"")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    network = core.compile_model(model, "CPU", settings)
    request = network.create_infer_request()

    def run(images: np.ndarray) -> list[np.ndarray]:
        results = request.infer([images], share_inputs=True)
        return [results[output] for output in network.outputs]

    return run


def write(job: Job) -> Written:
    """``NAME.xml`` and ``NAME.bin``."""
    need_openvino()
    return _written(job, job.fp32, job.description("fp16" if job.half else "fp32"), ".xml", job.half)


def write_int8(job: Job) -> Written:
    """``NAME-int8.xml`` and ``NAME-int8.bin``."""
    need_openvino()
    return _written(job, job.int8, job.description("int8"), "-int8.xml", False)


def _written(job: Job, model: Any, description: Description, ending: str, half: bool) -> Written:
    path = job.new(ending)
    save_ir(model, path, description.metadata(), half)
    return Written(path, description, open_openvino(path, job.threads))


def open_openvino(path: str | Path, threads: int) -> Runtime:
    """An OpenVINO IR (.xml) or an ONNX file in OpenVINO on the CPU, computing in FP32 where the file does."""
    need_openvino()
    try:
        run, description = compiled(path, threads)
    except UserError:
        raise
    except Exception as error:  # RuntimeErrors of its own, over several lines
        raise unreadable("OpenVINO", path, error) from error
    return Runtime(description, run, "openvino", path)
