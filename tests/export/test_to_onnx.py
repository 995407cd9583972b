"""ONNX files: the same heads as PyTorch's, BatchNorms folded; and the clock a latency budget uses."""

from __future__ import annotations

import builtins

import onnx
import pytest
import torch

import models
import prune
from common.errors import UserError
from export import to_onnx
from export.latency import OnnxLatency
from export.to_onnx import INPUT, export_onnx, onnx_model
from models.network import Network
from tests import nets
from tests.alive import alive


def network(text: str) -> Network:
    return alive(Network(models.parse_cfg(text)))


@pytest.mark.parametrize("name", ["gated", "yolov5", "rare"])
def test_file_computes_the_heads_of_the_network(tmp_path, name):
    net = network(nets.TINY[name]).train()
    assert export_onnx(net, tmp_path / "net.onnx", (96, 128)) < 1e-5
    assert net.training, "the network is left as it is"
    model = onnx.load(tmp_path / "net.onnx")
    assert [value.name for value in model.graph.input] == [INPUT]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    shapes = [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in model.graph.output]
    assert shapes == [tuple(head.shape) for head in net.eval()(torch.zeros(1, 3, 96, 128))]


def test_wrong_file_is_not_handed_over(tmp_path, monkeypatch):
    model = onnx_model(network(nets.RESIDUAL), (64, 64))
    monkeypatch.setattr(to_onnx, "onnx_model", lambda *_: model)
    other = alive(Network(models.parse_cfg(nets.RESIDUAL)), seed=1)
    with pytest.raises(RuntimeError, match="differ"):
        export_onnx(other, tmp_path / "net.onnx")


def test_without_the_packages_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name in ("onnx", "onnxscript"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"onnx and onnxscript(.|\n)*\[export\]"):
        onnx_model(network(nets.RESIDUAL), (64, 64))


def test_latency_of_a_thinner_network_is_told_in_the_first_ones_milliseconds():
    wide = nets.NET + nets.conv(48) + nets.conv(48) + nets.conv(48, stride=2) + nets.conv(24, 1, bn=0,
                                                                                         activation="linear")
    fat = network(wide + nets.yolo("0,1,2"))
    thin = prune.prune(fat, budget="flops=0.1", fold=False).network
    clock = OnnxLatency((64, 64), threads=1, rounds=7)
    whole = clock(fat)
    assert whole == clock.reference_ms > 0
    assert clock(thin) < 0.8 * whole
