"""ONNX files: the same heads as PyTorch's, BatchNorms folded; and the clock a latency budget uses."""

from __future__ import annotations

import builtins

import onnx
import onnxruntime
import pytest
import torch

import models
import prune
from common.errors import UserError
from export.description import describe
from export.formats import FORMATS
from export.latency import DeployedLatency
from export.onnx_graph import finished, model_of
from export.options import LEAST_DECODED, LEAST_OPSET, ExportOptions
from export.to_onnx import INPUT, onnx_model, session
from models.network import Network
from tests import nets
from tests.alive import alive


def network(text: str) -> Network:
    return alive(Network(models.parse_cfg(text)))


@pytest.mark.parametrize("name", ["gated", "yolov5", "rare"])
def test_file_computes_the_heads_of_the_network(name):
    net = network(nets.TINY[name]).train()
    content = onnx_model(net, (96, 128))
    assert net.training, "the network is left as it is"
    picture = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(
            net.eval()(picture), session(content, 1).run(None, {INPUT: picture.numpy()}), strict=True
        ):
            assert (torch.from_numpy(theirs) - ours).abs().max() < 1e-5 * ours.abs().max()
    model = onnx.load_from_string(content)
    assert [value.name for value in model.graph.input] == [INPUT]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    shapes = [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in model.graph.output]
    assert shapes == [tuple(head.shape) for head in net.eval()(torch.zeros(1, 3, 96, 128))]


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
    wide = (
        nets.NET + nets.conv(48) + nets.conv(48) + nets.conv(48, stride=2) + nets.conv(24, 1, bn=0, activation="linear")
    )
    fat = network(wide + nets.yolo("0,1,2"))
    thin = prune.prune(fat, budget="flops=0.1", fold=False).network
    clock = DeployedLatency((64, 64), threads=1, rounds=7)
    whole = clock(fat)
    assert whole == clock.reference_ms > 0
    assert clock(thin) < 0.8 * whole


@pytest.mark.parametrize(
    ("form", "runtime"),
    [
        ("onnx", "onnxruntime"),
        ("int8", "onnxruntime"),
        ("openvino", "openvino"),
        ("openvino-int8", "openvino"),
        ("darknet", "opencv"),
        ("ncnn", "ncnn"),
    ],
)
def test_a_latency_is_measured_in_the_program_that_will_run_the_network(form, runtime):
    pytest.importorskip({"opencv": "cv2"}.get(runtime, runtime), reason=f"needs {runtime}")
    net = network(nets.RESIDUAL).float().train()
    clock = DeployedLatency((64, 64), FORMATS[form], threads=1, rounds=1)
    try:
        opened = clock.opened(net)
    except UserError as error:
        if "reads no Darknet files" in str(error):
            pytest.skip(str(error))
        raise
    assert net.training, "the network is left as it is"
    assert opened.runtime == runtime
    picture = torch.rand(1, 3, 64, 64)
    least = 0.5 if "int8" in form else 1e-3
    for theirs, ours in zip(opened(picture), net.eval()(picture), strict=True):
        assert (theirs - ours).abs().max() < least * ours.abs().max()
    assert clock(net) > 0
    assert clock.place == f"{FORMATS[form].title}, run by {runtime}, 1 thread"


def test_what_cannot_be_timed_says_so(monkeypatch):
    monkeypatch.setattr("export.to_darknet.open_opencv", lambda *given: (_ for _ in ()).throw(UserError("too new")))
    with pytest.raises(UserError, match=r"Darknet cannot be timed here: not run here: too new(.|\n)*flops=0.25"):
        DeployedLatency((64, 64), FORMATS["darknet"])(network(nets.RESIDUAL))


FREE = nets.dual(3, bins=4)


@pytest.mark.parametrize(
    ("text", "kind", "outputs"),
    [
        (nets.RESIDUAL, "one-to-many", "decoded"),
        (nets.RESIDUAL, "one-to-many", "boxes"),
        (FREE, "one-to-many", "boxes"),
        (FREE, "one-to-one", "boxes"),
    ],
)
def test_onnx_runtime_has_nothing_to_say_of_a_file(text, kind, outputs, capfd):
    net = models.only_heads(network(text), kind).eval()
    nms = {"max_det": 300} if kind == "one-to-one" else {"conf": 0.25, "iou": 0.45, "max_det": 300}
    nms = nms if outputs == "boxes" else None
    model = finished(model_of(onnx_model(net, (64, 64))), describe(net, (64, 64), outputs=outputs, nms=nms))
    read = {name for node in model.graph.node for name in node.input}
    assert {value.name for value in model.graph.initializer} <= read
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("outputs", "least"), [("heads", LEAST_OPSET), ("boxes", LEAST_DECODED)])
def test_the_opset_asked_for_is_written_and_computes_the_same(outputs, least):
    net = network(nets.RESIDUAL).eval()
    nms = {"conf": 0.25, "iou": 0.45, "max_det": 300}
    about = describe(net, (64, 64), outputs=outputs, nms=nms if outputs == "boxes" else None)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()
    found = []
    for opset in (least, 21):
        model = finished(model_of(onnx_model(net, (64, 64), opset=opset)), about)
        assert [each.version for each in model.opset_import if not each.domain] == [opset]
        found.append(session(model.SerializeToString(), 1).run(None, {INPUT: picture}))
    for first, second in zip(*found, strict=True):
        assert first == pytest.approx(second, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"opset": 11}, f"--opset 11 cannot be written\n  -> --opset {LEAST_OPSET}"),
        ({"opset": 15, "outputs": "decoded"}, f"--opset {LEAST_DECODED}, or --outputs heads"),
        ({"opset": 18, "to": "openvino"}, "--to names none"),
    ],
)
def test_an_opset_that_cannot_be_is_refused_before_anything_is_loaded(words, said):
    with pytest.raises(UserError, match=said):
        ExportOptions(weights="net.pt", **words)
