"""ONNX files: written from a job, opened by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from export.description import Description
from export.job import Job, Written
from export.runtimes import Runtime, unreadable
from export.sound import check_onnx
from export.to_onnx import INPUT, need_onnx, session


def write(job: Job) -> Written:
    """``NAME.onnx``."""
    need_onnx()
    path = job.save(job.fp32, ".onnx")
    return Written(path, job.description(), open_onnx(path, job.threads))


def write_int8(job: Job) -> Written:
    """``NAME-int8.onnx``."""
    path = job.save(job.int8, "-int8.onnx")
    return Written(path, job.description("int8"), open_onnx(path, job.threads))


def open_onnx(path: str | Path, threads: int) -> Runtime:
    """An ONNX file in ONNX Runtime on the CPU."""
    need_onnx("onnx", "onnxruntime")
    description = Description.from_metadata(check_onnx(path), path)
    try:
        started = session(path, threads)
    except Exception as error:  # onnxruntime has a class of its own for each kind
        raise unreadable("ONNX Runtime", path, error) from error
    return Runtime(description, lambda images: started.run(None, {INPUT: images}), "onnxruntime", path)
