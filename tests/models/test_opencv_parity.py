"""Our raw head outputs equal OpenCV 4's on the files we write, for every cfg and every section OpenCV reads."""

from __future__ import annotations

import cv2
import pytest
import torch

import models
from models.portable import OPENCV_ACTIVATIONS
from tests.alive import alive
from tests.nets import NET, TINY, conv, yolo
from tests.opencv import DARKNET_CFGS, assert_opencv_agrees, needs_opencv_4, opencv_network

pytestmark = needs_opencv_4

# Sections between a first convolution (8 channels, 32 x 32) and a head.
SECTIONS = {
    **{f"convolution with {name}": conv(8, activation=name) for name in sorted(OPENCV_ACTIVATIONS)},
    **{
        f"shortcut with {name}": conv(8) + f"\n[shortcut]\nfrom=-2\nactivation={name}\n"
        for name in sorted(OPENCV_ACTIVATIONS)
    },
    "convolution without padding": "\n[convolutional]\nfilters=8\nsize=3\nstride=1\nactivation=leaky\n",
    "convolution with explicit padding": (
        "\n[convolutional]\nfilters=8\nsize=6\nstride=2\npadding=2\nactivation=leaky\n"
    ),
    "convolution of even size": "\n[convolutional]\nfilters=8\nsize=4\nstride=2\npad=1\nactivation=leaky\n",
    "convolution with neither stride nor activation": "\n[convolutional]\nfilters=8\nsize=3\npad=1\n",
    "convolution with stride_x and stride_y": (
        "\n[convolutional]\nfilters=8\nsize=3\npad=1\nstride_x=2\nstride_y=2\nactivation=leaky\n"
    ),
    "grouped convolution": conv(12, groups=4),
    "depthwise convolution": conv(8, 5, groups=8),
    "pool 2/2": "\n[maxpool]\nsize=2\nstride=2\n",
    "pool 2/1": "\n[maxpool]\nsize=2\nstride=1\n",
    "pool 3/2": "\n[maxpool]\nsize=3\nstride=2\n",
    "pool 5/1": "\n[maxpool]\nsize=5\nstride=1\n",
    "pool 4/2 padding 0": "\n[maxpool]\nsize=4\nstride=2\npadding=0\n",
    "pool that says only its size": "\n[maxpool]\nsize=2\n",
    "pool that says only its stride": "\n[maxpool]\nstride=2\n",
    "upsample by default": "\n[upsample]\n",
    "reorg": "\n[reorg]\nstride=2\n",
    "reorg 4": conv(32) + "\n[reorg]\nstride=4\n",
    "route of a part of one layer": conv(12) + "\n[route]\nlayers=-1\ngroups=4\ngroup_id=3\n",
    "route of a part of two layers": conv(12) + "\n[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n",
    "shortcut to more channels": conv(4) + "\n[shortcut]\nfrom=-2\nactivation=linear\n",
    "shortcut to fewer channels": conv(12) + "\n[shortcut]\nfrom=-2\nactivation=linear\n",
    "shortcut of three": conv(4) + conv(12) + "\n[shortcut]\nfrom=-3,-2\nactivation=leaky\n",
    "scale_channels": conv(8) + "\n[avgpool]\n\n[scale_channels]\nfrom=-2\nactivation=leaky\n",
    "sam": conv(8, activation="logistic") + "\n[sam]\nfrom=-2\nactivation=linear\n",
    "dropout": "\n[dropout]\nprobability=.5\n",
}


def network_around(sections: str) -> models.Network:
    head = conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
    return alive(models.Network(models.parse_cfg(NET + conv(8, stride=2) + sections + head)))


@pytest.mark.parametrize("sections", SECTIONS.values(), ids=SECTIONS.keys())
def test_section_equals_opencv(sections, tmp_path):
    assert_opencv_agrees(network_around(sections), tmp_path, tolerance=2e-5)


@pytest.mark.parametrize("text", TINY.values(), ids=TINY.keys())
def test_tiny_network_equals_opencv(text, tmp_path):
    assert_opencv_agrees(alive(models.Network(models.parse_cfg(text))), tmp_path, tolerance=2e-5)


@pytest.mark.parametrize("path", DARKNET_CFGS, ids=lambda path: path.stem)
def test_shipped_cfg_equals_opencv(path, tmp_path):
    assert_opencv_agrees(alive(models.Network(models.read_cfg(path))), tmp_path)


def test_non_square_input_equals_opencv(tmp_path):
    assert_opencv_agrees(alive(models.Network(models.parse_cfg(TINY["residual"]))), tmp_path, size=(48, 80))


def test_opencv_sees_the_sigmoid_of_our_logits_where_the_head_is_logistic(tmp_path):
    net = alive(models.Network(models.parse_cfg(TINY["yolov5"])))
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    theirs = opencv_network(tmp_path / "net.cfg", tmp_path / "net.weights")
    images = torch.rand(1, 3, 64, 64)
    theirs.setInput(images.numpy())
    number = net.head_convolutions[0]
    out = torch.from_numpy(theirs.forward(f"logistic_{number + 1}"))
    with torch.no_grad():
        ours = net(images)[0].permute(0, 1, 4, 2, 3).flatten(1, 2).sigmoid()
    assert (out - ours).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["residual", "yolov5", "rare"])
def test_decoded_boxes_and_scores_equal_opencv(name, tmp_path):
    """OpenCV's last layers give cx, cy, w, h as shares of the picture, and class scores times objectness."""
    net = alive(models.Network(models.parse_cfg(TINY[name])))
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    theirs = opencv_network(tmp_path / "net.cfg", tmp_path / "net.weights")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    theirs.setInput(images.numpy())
    with torch.no_grad():
        heads = net(images)
    last = [name for name in theirs.getLayerNames() if name.startswith(("yolo_", "region_", "detection_out"))]
    outs = theirs.forward(last)
    for head, spec, out in zip(heads, net.specs, outs, strict=True):
        # OpenCV lists cells first, anchors within a cell.
        ours = spec.decode(head).permute(0, 2, 3, 1, 4).reshape(-1, 5 + spec.classes)
        out = torch.from_numpy(out).reshape(-1, 5 + spec.classes)
        boxes = out[:, :4] * 64
        assert (ours[:, :4] - boxes).abs().max() < 1e-4 * boxes.abs().max()
        assert (ours[:, 4] - out[:, 4]).abs().max() < 1e-4
        scores = ours[:, 4:5] * ours[:, 5:]
        said = out[:, 5:] > 0  # OpenCV sets scores below its threshold to 0
        assert said.any()
        assert (scores - out[:, 5:])[said].abs().max() < 1e-4


@pytest.mark.parametrize("name", ["relu6", "hard_mish", "elu"])
def test_what_opencv_refuses_is_warned_about(name, tmp_path, caplog):
    net = network_around(conv(8, activation=name))
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    assert f"activation={name}" in caplog.text
    with pytest.raises(cv2.error):
        opencv_network(tmp_path / "net.cfg", tmp_path / "net.weights")


def test_dilation_is_warned_about_because_opencv_ignores_it(tmp_path, caplog):
    net = network_around(conv(8, dilation=2))
    with pytest.raises(AssertionError, match="differs by"):
        assert_opencv_agrees(net, tmp_path)
    assert "dilation=2" in caplog.text
