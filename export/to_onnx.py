"""ONNX files of networks, by torch's own exporter (the extra `export`: onnx, onnxscript, onnxruntime).

The graph takes ``images`` (B, 3, H, W) in 0..1 and gives the raw heads, as `Network.forward` does; BatchNorms are
folded into their convolutions. `export.onnx_graph` puts decoding and NMS behind the heads.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from common.errors import UserError
from models.inference import fold_norms
from models.network import Network

TOLERANCE = 1e-4
"""Largest difference to PyTorch an exported file may have, as a share of the largest output of its head."""
INPUT = "images"


def onnx_model(net: Network, size: tuple[int, int], batch: int = 1, any_size: bool = False, opset: int = 0) -> bytes:
    """`net` as an ONNX model, serialised; `net` is left as it is.

    Args:
        size: (H, W) of the pictures.
        batch: pictures at a time; 0: any number.
        any_size: pictures of every size the network's largest stride divides.
        opset: of ONNX; 0: torch's choice.
    """
    need_onnx("onnx", "onnxscript")
    twin = fused(net)
    step = twin.max_stride
    moving: dict[int, Any] = {}
    height, width = size
    if batch == 0:
        moving[0] = Dim("batch", min=1, max=1024)
    if any_size:
        moving |= {2: step * Dim("rows", min=1, max=1024), 3: step * Dim("columns", min=1, max=1024)}
        height, width = (max(side, 2 * step) for side in size)
    return exported(
        twin,
        torch.zeros(batch or 2, twin.in_channels, height, width),  # an example of 1 would fix what is to stay free
        [INPUT],
        [f"head{number}" for number in range(len(twin.specs))],
        (moving,) if moving else None,
        opset,
    )


def exported(
    module: torch.nn.Module, example: Any, inputs: list[str], outputs: list[str], shapes: Any, opset: int = 0
) -> bytes:
    """`module` as a serialised ONNX model; `shapes` says which dimensions of its arguments are free.

    Raises:
        UserError: torch writes another opset than the one asked for.
    """
    arguments = example if isinstance(example, tuple) else (example,)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
            opset_version=opset or None,
        )
    assert program is not None
    written = next(each.version for each in program.model_proto.opset_import if not each.domain)
    if opset and written != opset:
        problem = f"--opset {opset}: torch {torch.__version__} writes this network as opset {written}"
        raise UserError(problem, todo=f"--opset {written}, or leave it out")
    return program.model_proto.SerializeToString()


def fused(net: Network) -> Network:
    """A copy on the CPU, in evaluation mode and FP32, whose BatchNorms are folded into their convolutions."""
    twin = copy.deepcopy(net).cpu().float().eval().to(memory_format=torch.contiguous_format)
    return fold_norms(twin).requires_grad_(False)


def session(model: bytes | str | Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU with a fixed number of threads.

    Its threads sleep between two runs: spinning, they would slow down whatever is measured beside it.
    """
    need_onnx("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def need_onnx(*packages: str) -> None:
    """Refuse where one of `packages` (all that the extra `export` has, if none are named) is not installed."""
    missing = []
    for name in packages or ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}, which is not installed here",
            todo="python -m pip install -e '.[export]'",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own log: what it says of a network is nothing a user can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)
