"""Heads that give each object one place: read on request, exported without NMS, the others' towers left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor

import models
from common.errors import UserError
from engine.evaluate import evaluate
from engine.postprocess import postprocess
from export.checks import compare_outputs, noise
from export.description import Description, describe
from export.onnx_files import open_onnx
from export.onnx_graph import finished, model_of, unknown_to_tensorrt
from export.opening import open_model
from export.to_onnx import onnx_model
from models.heads import FreeSpec, spec_read
from tests import nets
from tests.alive import alive
from tests.cli.material import NAMES, make_set
from thinyolo.main import main

ONE = FreeSpec(8, 2, bins=1, one_to_one=True)
CHOSEN = {"max_det": 300}


def network(text: str = "", classes: int = 3) -> models.Network:
    """By default with heads of both kinds; loud ones, so that scores and distances differ from place to place."""
    net = alive(models.Network(models.parse_cfg(text or nets.dual(classes, bins=4))), seed=3).eval()
    for number in net.head_convolutions:
        torch.nn.init.normal_(net.convolutions[number].conv.weight, std=1.0, generator=torch.manual_seed(number))
    return net


def best_by_hand(decoded: Tensor, conf: float, most: int) -> list[list[float]]:
    """Of one picture ``(N, 4 + C)``: every pair of place and class above `conf`, the best first."""
    pairs = sorted(((row[4 + c], c, row) for row in decoded.tolist() for c in range(len(row) - 4)), reverse=True)
    return [
        [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, label]
        for score, label, (cx, cy, w, h, *_) in pairs[:most]
        if score > conf
    ]


def test_boxes_that_overlap_stay_and_the_best_come_first() -> None:
    rows = torch.tensor([[[50.0, 40, 20, 10, 0.2, 0.8], [50, 40, 20, 10, 0.1, 0.9], [9, 9, 4, 4, 0.3, 0.05]]])
    (found,) = postprocess(rows, ONE, conf=0.15)
    assert found[:, 4].tolist() == pytest.approx([0.9, 0.8, 0.3, 0.2])
    assert len(postprocess(rows, FreeSpec(8, 2, bins=1), conf=0.15)[0]) == 3, "the others are suppressed"
    assert [row[4:] for row in postprocess(rows, ONE, conf=0.15, max_boxes=2)[0].tolist()] == [
        pytest.approx([0.9, 1]),
        pytest.approx([0.8, 1]),
    ]
    assert postprocess(rows, ONE, conf=0.15, multi_label=False)[0][:, 4].tolist() == pytest.approx([0.9, 0.8, 0.3])


@pytest.mark.parametrize("most", [5, 300])
def test_the_best_are_pairs_of_place_and_class(most: int) -> None:
    decoded = torch.rand(1, 40, 6, generator=torch.Generator().manual_seed(0))
    (found,) = postprocess(decoded, ONE, conf=0.1, max_boxes=most)
    torch.testing.assert_close(found, torch.tensor(best_by_hand(decoded[0], 0.1, most)))


def test_a_network_keeps_the_heads_that_are_asked_for_with_the_same_bits() -> None:
    net = network()
    images = torch.rand(2, 3, 64, 96)
    heads = net(images)
    for kind, places in (("one-to-many", [0, 1]), ("one-to-one", [2, 3])):
        thin = models.only_heads(net, kind)
        assert [spec.one_to_one for spec in thin.specs] == [kind == "one-to-one"] * 2
        assert all(torch.equal(mine, heads[place]) for mine, place in zip(thin(images), places, strict=True))
        assert models.parameters(thin) < models.parameters(net)
        assert models.macs(thin, (64, 64)) < models.macs(net, (64, 64))
        assert models.only_heads(thin, "auto") is thin
        assert models.only_heads(thin, kind) is thin
    assert models.only_heads(net).specs == models.only_heads(net, "one-to-many").specs
    assert not spec_read(net.specs).one_to_one
    with pytest.raises(UserError, match="has no one-to-one heads, only one-to-many ones"):
        models.only_heads(network(nets.detect()), "one-to-one")


def test_which_heads_are_read_does_not_depend_on_their_order() -> None:
    plain, marked = "bins=4\n", "bins=4\none_to_one=1\n"
    net = network(nets.dual(bins=4).replace(marked, "?").replace(plain, marked).replace("?", plain))
    assert [spec.one_to_one for spec in net.specs] == [True, True, False, False]
    assert not spec_read(net.specs).one_to_one
    heads = net(torch.rand(1, 3, 64, 64))
    assert torch.equal(net.decode(heads), models.only_heads(net).decode(heads[2:]))


def graph(net: models.Network, outputs: str = "boxes", most: int = 300, free: bool = False) -> Any:
    description = describe(
        net,
        (64, 96),
        outputs=outputs,
        nms={"max_det": most} if outputs == "boxes" else None,
        batch=0 if free else 1,
        any_size=free,
    )
    return finished(model_of(onnx_model(net, (64, 96), 0 if free else 1, free)), description)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("most", [20, 1000])
def test_graph_of_one_to_one_heads_gives_the_best_boxes_without_nms(tmp_path: Path, most: int, free: bool) -> None:
    """1000 are more than there are places, and in the second size more than pairs of place and class."""
    net = models.only_heads(network(), "one-to-one")
    model = graph(net, most=most, free=free)
    kinds = {node.op_type for node in model.graph.node}
    assert "TopK" in kinds
    assert "NonMaxSuppression" not in kinds
    assert unknown_to_tensorrt(model) == []
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    shape = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == ([0, 0, 6] if free else [1, min(most, 3 * (8 * 12 + 4 * 6)), 6])
    opened = open_onnx(tmp_path / "net.onnx", threads=1)
    for size in [(64, 96), (32, 32)] if free else [(64, 96)]:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            decoded = net.decode(net(images))
        raw = [torch.from_numpy(opened.run(part.numpy())[0])[0] for part in images.split(1)]
        for picture, found in zip(decoded, raw, strict=True):
            expected = torch.tensor(best_by_hand(picture, 0.0, most))
            assert found.shape == expected.shape
            torch.testing.assert_close(found[:, 4], expected[:, 4], rtol=0, atol=1e-5)
            sure = expected[:, 4] > expected[-1, 4] + 1e-5  # equally confident boxes may change places
            apart = torch.cdist(expected[sure], found, p=float("inf"))
            assert apart.amin(1).max() < 1e-2
        both = [
            postprocess(each, net.specs[0], 0.1, max_boxes=most) for each in (decoded, opened.decode(opened(images)))
        ]
        assert [len(each) for each in both[0]] == [len(each) for each in both[1]]
        assert sum(map(len, both[0])) > 10


@pytest.mark.parametrize("outputs", ["heads", "decoded", "boxes"])
def test_onnx_runtime_and_openvino_give_what_we_do(tmp_path: Path, outputs: str) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    net = models.only_heads(network(), "one-to-one")
    (tmp_path / "net.onnx").write_bytes(graph(net, outputs).SerializeToString())
    for runtime in ("onnxruntime", "openvino"):
        found = compare_outputs(net, open_model(tmp_path / "net.onnx", runtime=runtime, threads=1), noise((64, 96)))
        assert found.fits, found.problem
        assert found.absolute < 1e-2
    other = models.only_heads(network(), "one-to-many")
    assert not compare_outputs(other, open_model(tmp_path / "net.onnx", threads=1), noise((64, 96))).fits


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two classes, and a network with heads of both kinds."""
    folder = tmp_path_factory.mktemp("both")
    make_set(folder / "set")
    net = network(classes=2)
    net.names = list(NAMES)
    models.save(net, folder / "both.pt")
    return folder


def test_commands_read_the_heads_that_are_asked_for(
    material: Path, tmp_path: Path, monkeypatch, capsys, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    data, weights = str(material / "set" / "data.yaml"), str(material / "both.pt")
    out = ["--weights", weights, "--to", "onnx,openvino", "--threads", "1", "--no-latency", "--out", "."]
    assert main(["export", *out, "--heads", "one-to-one", "--outputs", "boxes", "--data", data, "--name", "one"]) == 0
    assert main(["export", *out, "--name", "many"]) == 0
    told = capsys.readouterr()
    assert "detects with its one-to-many heads" in told.out + told.err
    kinds = {node.op_type for node in onnx.load("one.onnx").graph.node}
    assert "TopK" in kinds
    assert "NonMaxSuppression" not in kinds
    both = models.load(weights)
    for name, kind in (("one", "one-to-one"), ("many", "one-to-many")):
        thin = models.only_heads(both, kind)
        record = json.loads(Path(f"{name}.onnx.card.json").read_text())
        assert record["network"]["parameters"] == models.parameters(thin) < models.parameters(both)
        assert record["network"]["macs"] == models.macs(thin, (64, 64))
        numbers = sum(int(torch.tensor(each.dims).prod()) for each in onnx.load("many.onnx").graph.initializer)
        assert numbers < models.parameters(both), "what nobody reads is not in the graph"
    scores = []
    for model, *more in ((weights, "--heads", "one-to-one"), ("one.onnx",), ("one.xml",)):
        arguments = ["--model", model, "--data", data, "--device", "cpu", "--threads", "1", "--no-plots"]
        assert main(["val", *arguments, *more, "--name", str(len(scores))]) == 0
        scores.append(json.loads(Path(f"runs/val/{len(scores)}/score.json").read_text())["mAP50-95"])
    assert scores[0] == evaluate(models.only_heads(both, "one-to-one"), data, "val").map50_95
    assert scores == pytest.approx(3 * scores[:1], abs=1e-6)
    assert main(["val", "--model", "one.onnx", "--data", data, "--heads", "one-to-many"]) == 2
    assert "this file detects with one-to-one heads" in capsys.readouterr().err


def test_predict_finds_the_same_boxes_in_the_file_and_the_network(material: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = str(material / "both.pt")
    chosen = ["--to", "onnx", "--heads", "one-to-one", "--outputs", "boxes", "--out", ".", "--no-latency"]
    assert main(["export", "--weights", weights, *chosen]) == 0
    picture = str(next((material / "set" / "images" / "val").iterdir()))
    found = []
    for model, *more in ((weights, "--heads", "one-to-one"), ("both.onnx",), (weights,)):
        arguments = ["--model", model, "--source", picture, "--device", "cpu", "--conf", "0.05", *more]
        assert main(["predict", *arguments, "--name", str(len(found))]) == 0
        content = json.loads(Path(f"runs/predict/{len(found)}/predictions.json").read_text())
        found.append([(each["class"], *each["box_xyxy"]) for each in content[0]["detections"]])
    assert len(found[0]) > 5
    assert sorted(found[0]) == [pytest.approx(row, abs=0.1) for row in sorted(found[1])]
    assert found[2] != found[0]


def test_files_of_before_the_name_boxes_open(tmp_path: Path) -> None:
    net = models.only_heads(network())
    description = describe(net, outputs="boxes", nms={"conf": 0.25, "iou": 0.45, "max_det": 300})
    earlier = {**description.metadata(), "outputs": "nms"}
    assert Description.from_metadata(earlier, "net.onnx") == description


def test_tensorrt_takes_the_boxes_of_one_to_one_heads_alone(
    material: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ["export", "--weights", str(material / "both.pt"), "--to", "tensorrt", "--outputs", "boxes", "--out", "."]
    assert main(chosen) == 2
    assert "is not for tensorrt" in capsys.readouterr().err
    assert main([*chosen, "--heads", "one-to-one", "--no-latency"]) == 2
    assert "trtexec" in capsys.readouterr().err, "refused for what is not installed only"
