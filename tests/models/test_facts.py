"""Our cfgs are the published networks: parameters, multiply-adds and file sizes, and heads that follow the classes."""

import json
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from models.cfg import parse_cfg
from models.network import adapt_classes
from models.weights import read_weights
from tests.shared import shared

NETWORKS = [name.removesuffix(".cfg") for name in models.available_cfgs()]
PUBLISHED = ["yolov3", "yolov3-spp", "yolov3-tiny", "yolov4", "yolov4-tiny", "yolov5n", "yolov5s", "yolov5m"]
STRIDES = {
    "yolov3": [32, 16, 8],
    "yolov3-spp": [32, 16, 8],
    "yolov3-tiny": [32, 16],
    "yolov4": [8, 16, 32],
    "yolov4-tiny": [32, 16],
    "yolov5n": [8, 16, 32],
    "yolov5s": [8, 16, 32],
    "yolov5m": [8, 16, 32],
    "demo": [16, 8],
    "timm-mobilenetv4s": [32, 16, 8],
    "timm-resnet18": [32, 16, 8],
    **{name: [8, 16, 32] for name in ("yolov8n", "yolov8s", "yolov8m", "yolo11n", "yolo11s", "yolo11m")},
    **{name: [8, 16, 32, 8, 16, 32] for name in ("yolo26n", "yolo26s")},
}


@cache
def skeleton(name, classes=None):
    """The network without memory for its tensors; shared by the tests, so not to be changed."""
    cfg = models.read_cfg(models.cfg_path(name))
    if classes is not None:
        adapt_classes(cfg, classes)
    with torch.device("meta"):
        return models.Network(cfg)


@pytest.fixture(scope="module")
def facts():
    return json.loads(shared("facts/networks.json").read_text())


def test_every_published_network_and_the_demo_are_shipped():
    assert {*PUBLISHED, "demo"} <= set(NETWORKS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_layer_counts_are_the_published_ones(name, facts):
    net, fact = skeleton(name), facts[name]
    assert models.parameters(net) == fact["params"]
    counted = {
        "convolutions": len(net.convolutions),
        "batchnorms": sum(conv.bn is not None for conv in net.convolutions.values()),
        "shortcuts": sum(section.kind == "shortcut" for section in net.cfg.layers),
    }
    for key, count in counted.items():
        assert count == fact.get(key, count)


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_and_file_size_are_the_published_ones(name, facts):
    net, fact = skeleton(name), facts[name]
    for side, gmacs in fact.get("gmacs", {}).items():
        assert round(models.macs(net, (int(side), int(side))) / 1e9, 3) == gmacs
    if "weights_bytes" in fact:
        assert models.weights_bytes(net) == fact["weights_bytes"]


def test_a_saved_weights_file_has_the_published_size(tmp_path, facts):
    net = models.load("yolov4-tiny")
    models.save_darknet(net, tmp_path / "a.cfg", tmp_path / "a.weights")
    assert (tmp_path / "a.weights").stat().st_size == facts["yolov4-tiny"]["weights_bytes"]
    seen, values = read_weights(tmp_path / "a.weights")
    assert seen == 0
    assert 4 * values.size + 20 == facts["yolov4-tiny"]["weights_bytes"]


@pytest.mark.parametrize("name", ["yolov3", "yolov4", "yolov5n", "demo"])
def test_multiply_adds_equal_what_torch_counts(name):
    net = skeleton(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, 64, 96, device="meta"))
    assert counter.get_total_flops() == 2 * models.macs(net, (64, 96))


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_have_the_shape_of_their_stride_and_follow_the_classes(name):
    assert skeleton(name).classes == (5 if name == "demo" else 80)
    net = skeleton(name, classes=3)
    assert net.classes == 3
    assert [spec.stride for spec in net.specs] == STRIDES[name]
    with torch.no_grad():
        heads = net(torch.empty(2, 3, 64, 128, device="meta"))
    for head, spec in zip(heads, net.specs, strict=True):
        places, numbers = (len(spec.anchors), 5 + 3) if spec.anchors else (1, 4 * spec.bins + 3)
        assert head.shape == (2, places, 64 // spec.stride, 128 // spec.stride, numbers)


@pytest.mark.parametrize("name", [name for name in NETWORKS if skeleton(name).specs[0].anchors])
def test_anchors_grow_with_the_stride(name):
    specs = sorted(skeleton(name).specs, key=lambda spec: spec.stride)
    areas = [sum(w * h for w, h in spec.anchors) / len(spec.anchors) for spec in specs]
    assert areas == sorted(areas)
    assert all(max(pair) < 3 * max(skeleton(name).image_size) for spec in specs for pair in spec.anchors)


@pytest.mark.parametrize("name", NETWORKS)
def test_text_of_a_shipped_cfg_reads_back_as_the_same_network(name):
    cfg = models.read_cfg(models.cfg_path(name))
    again = parse_cfg(cfg.text())
    assert again.structure() == cfg.structure()
    assert again.text() == cfg.text()


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov5n", "demo"])
def test_small_networks_run_and_decode_inside_reason(name):
    net = models.load(name, classes=2).eval()
    with torch.no_grad():
        boxes = net.decode(net(torch.rand(1, 3, 64, 64)))
    cells = sum(len(spec.anchors) * (64 // spec.stride) ** 2 for spec in net.specs)
    assert boxes.shape == (1, cells, 7)
    assert torch.isfinite(boxes).all()
    assert (boxes[..., 2:4] > 0).all()


def test_demo_network_is_small_and_has_shortcuts_to_remove():
    net = skeleton("demo")
    assert 0.4e6 < models.parameters(net) < 1e6
    assert models.macs(net, (160, 160)) < 0.2e9
    assert sum(section.kind == "shortcut" for section in net.cfg.layers) >= 4
