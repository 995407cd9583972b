"""ncnn's own format (the extra `ncnn`: pnnx, ncnn): a network as `.param` and its weights as `.bin`.

pnnx, ncnn's converter, reads the ONNX graph of the heads. What the file says about itself stands in a `.json` beside
it: a `.param` has no place for it. ncnn takes one picture at a time, and names the input ``in0`` and the heads
``out0``, ``out1`` ...
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import read_json, whole_file, write_json
from common.reading import why_no_file
from export.description import Description
from export.job import Job, Written
from export.runtimes import Runtime, unreadable
from export.sound import check_ncnn
from models.heads import HeadSpec

# pnnx writes the value that pads a max pooling as a word that ncnn does not read.
_LOWEST = {"=-inf": "=-3.400000e+38"}

# What pnnx finds no layer of ncnn for keeps PyTorch's name, with a dot in it.
_LEFT_OVER = re.compile(r"^([A-Za-z]+\.\S+)", re.MULTILINE)


def need_ncnn() -> tuple[Any, Any]:
    """The packages ncnn and pnnx; raises `UserError` where one is not installed."""
    try:
        import ncnn
        import pnnx
    except ImportError as error:
        raise UserError(
            f"ncnn is not installed here ({error.name} is missing)",
            todo="python -m pip install -e '.[ncnn]' (or pip install ncnn pnnx)",
        ) from error
    return ncnn, pnnx


def write(job: Job) -> Written:
    """``NAME-ncnn.param``, ``NAME-ncnn.bin`` and ``NAME-ncnn.json``."""
    need_ncnn()
    if job.any_size:
        raise UserError("--dynamic size is not for ncnn: its files take one size", todo="leave one of the two out")
    description = job.description("fp16" if job.half else "fp32")
    path = job.new("-ncnn.param")
    with tempfile.TemporaryDirectory() as folder:
        param, weights = _converted(job, Path(folder))
        with whole_file(path.with_suffix(".bin")) as temporary:
            shutil.copyfile(weights, temporary)
        write_json(path.with_suffix(".json"), description.metadata())
        with whole_file(path) as temporary:
            temporary.write_text(param, encoding="utf-8")
    return Written(path, description, open_ncnn(path, job.threads))


def _converted(job: Job, folder: Path) -> tuple[str, Path]:
    """The text of the `.param` and the file of weights, by pnnx in `folder`."""
    _, pnnx = need_ncnn()
    (folder / "net.onnx").write_bytes(job.trunk)
    height, width = job.size
    options = [f"inputshape=[1,{job.net.in_channels},{height},{width}]", f"fp16={int(job.half)}", "device=cpu"]
    done = subprocess.run(
        [pnnx.EXEC_PATH, "net.onnx", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    param, weights = folder / "net.ncnn.param", folder / "net.ncnn.bin"
    if done.returncode or not param.exists() or not weights.exists():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise UserError(
            f"pnnx cannot convert this network to ncnn (status {done.returncode}): {said[-1]}",
            todo="export it as onnx; or name another format by --to",
        )
    text = param.read_text(encoding="utf-8")
    if unknown := sorted(set(_LEFT_OVER.findall(text))):
        raise UserError(
            f"ncnn has no layer for {', '.join(unknown)}, which this network uses",
            todo="export it as onnx; or leave such sections ([reorg] is one) out of the cfg",
        )
    for word, number in _LOWEST.items():
        text = text.replace(word, number)
    return text, weights


def open_ncnn(path: str | Path, threads: int) -> Runtime:
    """A `.param` with its `.bin` and `.json` in ncnn on the CPU, computing in FP32."""
    ncnn, _ = need_ncnn()
    path = Path(path)
    for beside in (path.with_suffix(".bin"), path.with_suffix(".json")):
        if reason := why_no_file(beside):
            raise UserError(f"{beside.name} {reason}: it belongs to this file", where=path, todo="export it anew")
    metadata = read_json(path.with_suffix(".json"))
    description = Description.from_metadata(metadata, path.with_suffix(".json"))
    check_ncnn(path, description)
    net = ncnn.Net()
    net.opt.num_threads = threads
    # Left alone, ncnn computes in 16 bits where the CPU has them: faster, but not what was checked.
    for way in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{way}", False)
    if net.load_param(os.fspath(path)) or net.load_model(os.fspath(path.with_suffix(".bin"))):
        raise unreadable("ncnn", path, ValueError("no network of ncnn, or one for another version of it"))

    def run(images: np.ndarray) -> list[np.ndarray]:
        each = [_heads(ncnn, net, image, description.specs) for image in images]
        return [np.stack(outputs) for outputs in zip(*each)]

    return Runtime(description, run, "ncnn", path)


def _heads(ncnn: Any, net: Any, image: np.ndarray, specs: tuple[HeadSpec, ...]) -> list[np.ndarray]:
    """The heads of one picture ``(3, H, W)``, each ``(A, H, W, K)``."""
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image)))
    outputs = []
    for number in range(len(specs)):
        status, output = extractor.extract(f"out{number}")
        if status:
            raise UserError(f"ncnn gives no out{number}", todo="export the network anew")
        outputs.append(np.array(output))
    return outputs
