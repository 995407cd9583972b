"""TensorRT engines, built by the package `tensorrt` or the program `trtexec`, on the GPU they are to run on."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.files import whole_file
from common.log import log
from export.description import Description, read_description
from export.job import Job, Written
from export.onnx_graph import unknown_to_tensorrt
from export.runtimes import Runtime
from export.to_onnx import need_onnx

WHAT_TO_DO = (
    "pip install tensorrt on a machine with an NVIDIA GPU, or put NVIDIA's trtexec into the PATH; the ONNX file can be "
    "taken there: trtexec --onnx=FILE.onnx --saveEngine=FILE.engine"
)


def builder() -> str:
    """Who can build engines here: "tensorrt" (the package), "trtexec" (the program), or "" for nobody."""
    try:
        __import__("tensorrt")
    except ImportError:
        return "trtexec" if shutil.which("trtexec") else ""
    return "tensorrt"


def need_tensorrt() -> str:
    """As `builder`; raises `UserError` where nobody can."""
    found = builder()
    if not found:
        raise UserError("there is neither the package tensorrt nor the program trtexec here", todo=WHAT_TO_DO)
    return found


def build_engine(onnx_file: str | Path, path: str | Path, description: Description, half: bool = False) -> None:
    """Build the engine `path` of an ONNX file.

    Raises:
        UserError: nobody can build it here, or the builder refuses, with its own words.
    """
    build = _by_package if need_tensorrt() == "tensorrt" else _by_trtexec
    with whole_file(path) as temporary:
        build(Path(onnx_file), temporary, description, half)


def shapes(description: Description) -> tuple[tuple[int, ...], ...] | None:
    """(least, usual, largest) input of a file that is free in batch or size; None where it is not."""
    if description.batch and not description.any_size:
        return None
    height, width = description.size
    low, usual, high = ((description.batch,) * 3) if description.batch else (1, 1, 16)
    small = (description.stride * 2,) * 2 if description.any_size else (height, width)
    large = (height * 2, width * 2) if description.any_size else (height, width)
    return (low, 3, *small), (usual, 3, height, width), (high, 3, *large)


def _by_trtexec(onnx_file: Path, path: Path, description: Description, half: bool) -> None:
    command = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={path}", *(["--fp16"] if half else [])]
    if limits := shapes(description):
        words = ("minShapes", "optShapes", "maxShapes")
        command += [f"--{word}=images:{'x'.join(map(str, shape))}" for word, shape in zip(words, limits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not path.exists():
        said = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line] or ["it says nothing"]
        raise UserError(f"trtexec does not build it: {said[0]}", where=onnx_file, todo=f"see {' '.join(command)}")


def _by_package(onnx_file: Path, path: Path, description: Description, half: bool) -> None:
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    build = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # the only way since TensorRT 10
    network = build.create_network(1 << int(explicit) if explicit is not None else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_file.read_bytes()):
        said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise UserError(f"TensorRT cannot read it: {said}", where=onnx_file, todo="export with --outputs heads")
    config = build.create_builder_config()
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    if limits := shapes(description):
        profile = build.create_optimization_profile()
        profile.set_shape("images", *limits)
        config.add_optimization_profile(profile)
    engine = build.build_serialized_network(network, config)
    if engine is None:
        raise UserError("TensorRT builds no engine of it", where=onnx_file, todo="what it says is above")
    path.write_bytes(bytes(engine))


def engine_run(path: str | Path) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """Pictures -> outputs of an engine on the first GPU; torch's tensors are its buffers."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise UserError("TensorRT's Python package is not installed here", where=path, todo=WHAT_TO_DO) from error
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        raise UserError(
            "TensorRT cannot read this engine: it belongs to another GPU or version", where=path, todo="build it here"
        )
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    (source,) = [name for name in names if name not in outputs]

    def run(images: np.ndarray) -> list[np.ndarray]:
        picture = torch.from_numpy(images).cuda()
        context.set_input_shape(source, tuple(picture.shape))
        context.set_tensor_address(source, picture.data_ptr())
        buffers: list[Any] = []
        for name in outputs:
            buffers.append(torch.empty(tuple(context.get_tensor_shape(name)), device="cuda"))
            context.set_tensor_address(name, buffers[-1].data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"{path}: TensorRT did not run")
        stream.synchronize()
        return [buffer.cpu().numpy() for buffer in buffers]

    return run


def write(job: Job) -> Written:
    """``NAME.engine``; its ONNX file is checked even where no engine can be built."""
    need_onnx()
    if unknown := unknown_to_tensorrt(job.fp32):
        raise UserError(f"TensorRT has no {', '.join(unknown)}, which the network uses", todo="use --to onnx")
    log.info("TensorRT takes all of the graph's operators")
    need_tensorrt()
    path, description = job.new(".engine"), job.description("fp16" if job.half else "fp32")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{job.name}.onnx"
        source.write_bytes(job.fp32.SerializeToString())
        build_engine(source, path, description, job.half)
    try:
        return Written(path, description, open_tensorrt(path, description=description))
    except UserError as error:  # built by trtexec, without the package
        return Written(path, description, note="not run here: " + error.problem)


def open_tensorrt(path: str | Path, threads: int = 0, description: Description | None = None) -> Runtime:
    """A TensorRT engine, described by the model card beside it: an engine holds no metadata. `threads` says nothing."""
    return Runtime(description or read_description(path), engine_run(path), "tensorrt", path)
