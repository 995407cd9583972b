"""LiteRT's format (the extra `litert`: litert-torch, ai-edge-litert), earlier called TensorFlow Lite: a `.tflite`.

litert-torch converts the PyTorch network itself, without a detour by ONNX. What the file says about itself stands in a
`.json` beside it. Input and outputs are as PyTorch's: (1, 3, H, W), and a head each, (1, A, H, W, K).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError, first_line
from common.files import read_json, whole_file, write_json
from common.reading import why_no_file
from export.description import Description
from export.job import Job, Written
from export.runtimes import Runtime, unreadable
from export.sound import TODO, need_bounded
from export.to_onnx import fused

CHILD = Path(__file__).with_name("litert_child.py")
MEMORY, PATIENCE = 4 * 2**30, 60
"""Bytes beside the file, and seconds, that one picture may take where the file is not one of this process."""


def need_litert(*packages: str) -> list[Any]:
    """The packages, by default what converts and what runs; raises `UserError` where one is not installed."""
    found = []
    for name in packages or ("litert_torch", "ai_edge_litert.interpreter"):
        try:
            found.append(__import__(name, fromlist=["_"]))
        except ImportError as error:
            raise UserError(
                f"LiteRT is not installed here ({name.partition('.')[0]} is missing)",
                todo="python -m pip install -e '.[litert]' (or pip install litert-torch ai-edge-litert)",
            ) from error
    return found


def about_path(path: Path) -> Path:
    """The `.json` beside a `.tflite`."""
    return path.with_name(path.name + ".json")


def write(job: Job) -> Written:
    """``NAME.tflite`` and ``NAME.tflite.json``."""
    if job.any_size or job.batch != 1:
        raise UserError(
            "LiteRT's files take one picture of one size here", todo="leave --dynamic and --batch out for litert"
        )
    with _quiet():
        converter, _ = need_litert()
        picture = torch.zeros(1, job.net.in_channels, *job.size)
        try:
            converted = converter.convert(fused(job.net), (picture,))
        except Exception as error:  # of torch.export, of jax, of MLIR
            raise UserError(
                f"litert-torch cannot convert this network: {first_line(error)}",
                todo="export it as onnx; or name another format by --to",
            ) from error
        path = job.new(".tflite")
        with whole_file(path) as temporary:
            converted.export(os.fspath(temporary))
    description = job.description()
    write_json(about_path(path), description.metadata())
    return Written(path, description, _started(path, job.threads, description))


def open_litert(path: str | Path, threads: int) -> Runtime:
    """A `.tflite` of ours with its `.json` in LiteRT on the CPU (XNNPACK), once another process has run it."""
    path = Path(path)
    need_litert("ai_edge_litert.interpreter")
    about = about_path(path)
    if reason := why_no_file(about):
        raise UserError(f"{about.name} {reason}: it belongs to this file", where=path, todo="export it anew")
    description = Description.from_metadata(read_json(about), about)
    _try_out(path)
    return _started(path, threads, description)


def _try_out(path: Path) -> None:
    """Run a file by `export.litert_child`: one that ends a process, hangs or asks for all memory does it there.

    Raises:
        UserError: saying what it did.
    """
    need_bounded(path)
    command = [sys.executable, str(CHILD), os.path.abspath(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        _bound(child.pid, MEMORY + 4 * os.path.getsize(path))
        try:
            _, said = child.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            raise UserError(f"LiteRT needs over {PATIENCE} s for one picture", where=path, todo=TODO) from None
    if child.returncode == 3:
        raise unreadable("LiteRT", path, ValueError(said.decode(errors="replace")))
    if child.returncode:
        raise UserError(f"LiteRT ends with status {child.returncode} when it is to run it", where=path, todo=TODO)


def _bound(process: int, memory: int) -> None:
    """On Linux, which alone can set another process's limits; its time, too: it may outlive this one."""
    with suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        resource.prlimit(process, resource.RLIMIT_AS, (memory, memory))
        resource.prlimit(process, resource.RLIMIT_CPU, (2 * PATIENCE, 2 * PATIENCE))


def _started(path: Path, threads: int, description: Description) -> Runtime:
    (litert,) = need_litert("ai_edge_litert.interpreter")
    try:
        interpreter = litert.Interpreter(os.fspath(path), num_threads=threads)
        call = interpreter.get_signature_runner()
        (given,) = call.get_input_details()
        names = sorted(call.get_output_details(), key=lambda name: int(name.rpartition("_")[2]))
    except (ValueError, RuntimeError) as error:
        raise unreadable("LiteRT", path, error) from error

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = call(**{given: np.ascontiguousarray(images)})
        return [found[name] for name in names]

    return Runtime(description, run, "litert", path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's progress and advice: nothing a user can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
