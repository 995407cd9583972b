"""`examples/run_onnx.py`, which knows nothing of this package, finds what `thinyolo predict` finds."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import models
from export.description import Description, describe
from export.onnx_files import open_onnx
from export.onnx_graph import finished, model_of
from export.to_onnx import onnx_model
from models.network import Network
from models.resize import with_resize
from reporting.predict import PredictOptions
from tests import nets
from tests.alive import alive
from tests.reporting.test_predict import predict

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"
NAMES = ["red", "green", "blue"]
SIZE = (96, 64)  # neither square nor of the aspect of any picture
NMS = {"conf": 0.25, "iou": 0.45, "max_det": 300}
CONF = 0.5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that are not square: larger than the input, smaller, of odd sides, larger on one side only."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(((180, 320), (41, 23), (333, 101), (37, 150))):
        blocks = rng.integers(0, 256, (-(-height // 9), -(-width // 9), 3)).astype(np.uint8)
        image = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def network(text: str, kind: str = "one-to-many", resize: str = "letterbox") -> Network:
    """Loud heads: scores and sizes differ from place to place, and hundreds of places see something."""
    net = alive(Network(models.parse_cfg(text), NAMES), seed=3).eval()
    for number in net.head_convolutions:
        weight = net.convolutions[number].conv.weight
        torch.nn.init.normal_(weight, std=0.4, generator=torch.manual_seed(number))
    return with_resize(models.only_heads(net, kind), resize)


def example(*arguments: str | Path) -> list[dict[str, Any]]:
    line = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    near = np.abs(np.subtract(one["box_xyxy"], other["box_xyxy"])).max() < 1
    return one["name"] == other["name"] and bool(near) and abs(one["confidence"] - other["confidence"]) < 0.01


def assert_same_boxes(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> int:
    """Box for box within a pixel and .01; how many there are."""
    count = 0
    for mine, found in zip(ours, theirs, strict=True):
        assert (found["source"], found["width"], found["height"]) == (mine["source"], mine["width"], mine["height"])
        left = list(found["detections"])
        for each in mine["detections"]:  # in any order: of two equally confident ones rounding decides
            place = next((place for place, other in enumerate(left) if same(each, other)), None)
            assert place is not None, f"{each} is missing"
            del left[place]
            count += 1
        assert not left
    return count


ANCHORED, NEW, FREE = nets.RESIDUAL, nets.YOLOV5, nets.dual(3, bins=4)
CASES = [
    (ANCHORED, "one-to-many", "decoded", "letterbox"),
    (nets.RARE, "one-to-many", "heads", "stretch"),
    (NEW, "one-to-many", "heads", "letterbox"),
    (FREE, "one-to-many", "heads", "letterbox"),
    (FREE, "one-to-many", "boxes", "stretch"),
    (FREE, "one-to-one", "boxes", "letterbox"),
]


@pytest.mark.parametrize(("text", "kind", "outputs", "resize"), CASES)
def test_example_finds_box_for_box_what_predict_finds(
    pictures: Path, tmp_path: Path, text: str, kind: str, outputs: str, resize: str
) -> None:
    net = network(text, kind, resize)
    # As many pairs of place and class as there are: the 300 best of so loud a network would miss some places.
    nms = ({"max_det": 400} if kind == "one-to-one" else {**NMS, "conf": CONF}) if outputs == "boxes" else None
    about = describe(net, SIZE, outputs=outputs, nms=nms)
    file = tmp_path / "net.onnx"
    file.write_bytes(finished(model_of(onnx_model(net, SIZE)), about).SerializeToString())
    conf = NMS["conf"] if outputs == "decoded" else CONF  # without --conf what the file says
    theirs = example(file, *sorted(pictures.glob("*.png")), *(("--conf", str(conf)) if conf == CONF else ()))
    # NMS in the graph asks every class of a place, ours outside only the best: these boxes differ in any case.
    inside = outputs == "boxes" and kind == "one-to-many"
    for who, runs in (("file", open_onnx(file, 1)), *([] if inside else [("network", net)])):
        ours = predict(runs, pictures, tmp_path / who, PredictOptions(size=SIZE, conf=conf))
        count = assert_same_boxes(theirs, [each.as_dict(NAMES) for each in ours])
        assert count > 20, "something is compared"


def test_example_imports_none_of_our_code() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in imports for alias in node.names}
    assert names == {"argparse", "json", "cv2", "numpy", "onnxruntime"}


def test_metadata_tell_every_step_in_words() -> None:
    told = describe(network(ANCHORED), SIZE).as_dict()
    for words in ("RGB", "0..1", "INTER_AREA", "INTER_LINEAR", "// 2", "114/255", "halves to even"):
        assert words in told["input_meaning"], words
    for words in ("sigmoid of objectness x sigmoid of the class", "class by class", "0.45", "0.25"):
        assert words in told["detection_meaning"], words
    free = describe(network(FREE, "one-to-one", "stretch"), SIZE).as_dict()
    assert "whatever their aspect" in free["input_meaning"]
    assert "grey" not in free["input_meaning"]
    assert "there is no objectness" in free["detection_meaning"]
    assert "no NMS" in free["detection_meaning"]


def test_files_of_before_resizing_was_told_are_letterboxed() -> None:
    about = describe(network(ANCHORED, resize="stretch"), SIZE)
    metadata = about.metadata()
    assert Description.from_metadata(metadata, "net.onnx").resize == "stretch"
    del metadata["resize"]
    assert Description.from_metadata(metadata, "net.onnx").resize == "letterbox"
