"""OpenCV 4's DNN as the second opinion on our Darknet files."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor

import models
from models.network import Network

# The shipped networks that Darknet has words for.
DARKNET_CFGS = [
    path
    for path in sorted(Path(__file__).resolve().parents[1].glob("cfg/*.cfg"))
    if "[detect]" not in path.read_text(encoding="utf-8")
]

needs_opencv_4 = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) >= 5, reason=f"OpenCV {cv2.__version__} has no Darknet importer; 4.x has"
)


def opencv_network(cfg: str | Path, weights: str | Path) -> cv2.dnn.Net:
    """The network as OpenCV reads it; Winograd off, whose rounding alone reaches 1e-3 of max|out| after 100 layers."""
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.enableWinograd(False)
    return net


def opencv_heads(cfg: str | Path, weights: str | Path, images: Tensor) -> list[Tensor]:
    """What OpenCV computes in the convolution before each head, its activation not applied: `(1, A * (5+C), H, W)`.

    Args:
        images: `(1, 3, H, W)` in 0..1, of the size the cfg states.
    """
    net = opencv_network(cfg, weights)
    text = models.read_cfg(cfg)
    number = text.index()
    wanted = [f"conv_{number[head.inputs[0]]}" for head in text.heads]
    net.setInput(images.numpy())
    return [torch.from_numpy(out) for out in net.forward(wanted)]


def flat_heads(net: Network, images: Tensor) -> list[Tensor]:
    """Our heads in OpenCV's layout, `(B, A * (5+C), H, W)`."""
    with torch.no_grad():
        return [head.permute(0, 1, 4, 2, 3).flatten(1, 2) for head in net(images)]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over max|out|."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_opencv_agrees(net: Network, folder: Path, size: tuple[int, int] = (64, 64), tolerance: float = 1e-4) -> None:
    """Save `net` as Darknet files in `folder`, run both on one noise picture, compare every head."""
    net.cfg.net.set("height", size[0])
    net.cfg.net.set("width", size[1])
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    models.save_darknet(net, cfg, weights)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    pairs = zip(flat_heads(net.eval(), images), opencv_heads(cfg, weights, images), strict=True)
    for place, (ours, theirs) in enumerate(pairs):
        error = relative_error(ours, theirs)
        assert error < tolerance, f"head {place} differs by {error:.1e} of max|out|"
