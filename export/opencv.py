"""OpenCV's DNN runs ONNX files and Darknet networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import models
from common.errors import UserError
from export.description import Description
from export.runtimes import Runtime, unreadable
from export.sound import check_onnx
from models.heads import HeadSpec
from models.network import Network
from models.weights import file_tensors, read_weights


def open_opencv(
    path: str | Path, threads: int, weights: str | Path | None = None, names: Sequence[str] | None = None
) -> Runtime:
    """A Darknet cfg with its `weights`, or an ONNX file, in OpenCV's DNN, which has one number of threads for all."""
    import cv2

    cv2.setNumThreads(threads)
    try:
        if weights is None:
            description = Description.from_metadata(check_onnx(path), path)
            net = cv2.dnn.readNetFromONNX(str(path))
            wanted = list(net.getUnconnectedOutLayersNames())
        elif not hasattr(cv2.dnn, "readNetFromDarknet"):
            todo = "pip install 'opencv-python-headless<5'"
            raise UserError(f"OpenCV {cv2.__version__} reads no Darknet files", todo=todo)
        else:
            description, wanted = _darknet(path, weights, names)
            net = cv2.dnn.readNetFromDarknet(str(path), str(weights))
    except cv2.error as error:
        raise unreadable(f"OpenCV {cv2.__version__}", path, error) from error
    net.enableWinograd(False)  # its rounding alone reaches 1e-3 of the largest output after 100 layers

    def run(images: np.ndarray) -> list[np.ndarray]:
        net.setInput(images)
        outputs = net.forward(wanted)
        return [_as_head(out, spec) for out, spec in zip(outputs, description.specs)] if weights else list(outputs)

    return Runtime(description, run, "opencv", path)


def _darknet(cfg: str | Path, weights: str | Path, names: Sequence[str] | None) -> tuple[Description, list[str]]:
    """A cfg's description, and what OpenCV calls the convolutions before its heads: there the logits come out.

    Raises:
        UserError: the weights are not as many as the cfg needs, which OpenCV itself does not notice.
    """
    text = models.read_cfg(cfg)
    with torch.device("meta"):
        net = Network(text, names)
    needed, there = sum(tensor.numel() for _, tensor in file_tensors(net)), len(read_weights(weights)[1])
    if needed != there:
        raise UserError(
            f"does not belong to {cfg}, which needs {needed:,} numbers: it has {there:,}",
            where=weights,
            todo="give the cfg the file was trained with",
        )
    wanted = [f"conv_{number}" for number in net.head_convolutions]
    description = Description(tuple(net.names), net.specs, net.image_size, True, 0, net.max_stride, resize=net.resize)
    return description, wanted


def _as_head(out: np.ndarray, spec: HeadSpec) -> np.ndarray:
    """``(B, A * K, H, W)`` -> ``(B, A, H, W, K)``."""
    batch, _, height, width = out.shape
    return out.reshape(batch, spec.places, spec.channels, height, width).transpose(0, 1, 3, 4, 2)
