"""ncnn's files: written by pnnx, run by ncnn, and what cannot be written is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import models
from common.errors import UserError
from export.checks import compare_outputs, noise
from export.files import megabytes, parts
from export.formats import FORMATS
from export.job import Job
from export.opening import open_model
from export.options import ExportOptions
from models.cfg import parse_cfg
from models.network import Network
from tests.alive import alive
from tests.nets import TINY, detect, dual
from thinyolo.main import main

ncnn = pytest.importorskip("ncnn", reason="needs the extra ncnn")
pytest.importorskip("pnnx", reason="needs the extra ncnn")

POOLED = """[net]
width=64
height=64

[convolutional]
batch_normalize=1
filters=8
size=3
stride=8
pad=1
activation=leaky

[maxpool]
size=2
stride=1

[convolutional]
filters=24
size=1
activation=linear

[yolo]
mask=0,1,2
anchors=10,14,23,27,37,58
classes=3
num=3
"""
"""A pooling that pads one side, as in yolov3-tiny."""


def written(text: str, folder: Path, **options: object) -> tuple[Network, Path]:
    net = alive(Network(parse_cfg(text)), dtype=torch.float32)
    job = Job(net, (64, 64), folder, "net", 1, **options)  # type: ignore[arg-type]
    made = FORMATS["ncnn"].load()(job)
    return net, made.path


@pytest.mark.parametrize(
    "text",
    [*(text for name, text in TINY.items() if name != "rare"), detect(), dual(), POOLED],
    ids=[*(name for name in TINY if name != "rare"), "without anchors", "dual", "pooled"],
)
def test_ncnn_gives_the_heads(text: str, tmp_path: Path) -> None:
    net, path = written(text, tmp_path)
    file = open_model(path)
    assert [part.name for part in parts(path)] == ["net-ncnn.param", "net-ncnn.bin"]
    found = compare_outputs(net, file, noise((64, 64)))
    assert found.fits, found.problem
    assert file.names == net.names


def test_half_writes_half_the_weights(tmp_path: Path) -> None:
    net, path = written(TINY["yolov5"], tmp_path / "whole")
    _, half = written(TINY["yolov5"], tmp_path / "half", half=True)
    assert megabytes(half) < 0.8 * megabytes(path)
    found = compare_outputs(net, open_model(half), noise((64, 64)))
    assert 0 < found.share < 0.02
    assert open_model(half).description.precision == "fp16"  # type: ignore[union-attr]


def test_export_val_and_predict_by_their_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(alive(Network(parse_cfg(TINY["yolov5"])), dtype=torch.float32), "net.pt")
    assert main(["export", "--weights", "net.pt", "--to", "ncnn", "--imgsz", "64", "--out", ".", "--no-latency"]) == 0
    out = capsys.readouterr().out
    assert "net-ncnn.param" in out
    assert Path("net-ncnn.param.card.json").exists()
    import cv2

    cv2.imwrite("one.png", np.full((64, 64, 3), 120, np.uint8))
    assert main(["predict", "--model", "net-ncnn.param", "--source", "one.png", "--name", "there"]) == 0
    assert main(["latency", "net-ncnn.param", "--rounds", "2", "--no-memory", "--threads", "1"]) == 0


def test_what_ncnn_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="graph ends with the heads"):
        ExportOptions(weights="net.pt", to="ncnn", outputs="decoded")
    with pytest.raises(UserError, match=r"no layer for Tensor.reshape"):
        written(TINY["rare"], tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="take one size"):
        written(TINY["yolov5"], tmp_path, any_size=True)


@pytest.mark.parametrize("ending", [".bin", ".json"])
def test_a_lost_part_is_named(ending: str, tmp_path: Path) -> None:
    _, path = written(TINY["yolov5"], tmp_path)
    path.with_suffix(ending).unlink()
    with pytest.raises(UserError, match=f"net-ncnn{ending}"):
        open_model(path)


@pytest.mark.parametrize("content", ["", "7767517\n3 3\n", "no network at all"])
def test_a_damaged_file_is_said(content: str, tmp_path: Path) -> None:
    _, path = written(TINY["yolov5"], tmp_path)
    path.write_text(content)
    with pytest.raises(UserError, match="ncnn"):
        open_model(path)
