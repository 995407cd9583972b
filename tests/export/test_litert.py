"""LiteRT files: the same heads as PyTorch's, used by the commands like any other format."""

from __future__ import annotations

import builtins
import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import models
from common.errors import UserError
from export.checks import compare_outputs, noise
from export.description import describe
from export.formats import FORMATS
from export.job import Job
from export.opening import open_model
from export.options import ExportOptions
from models.cfg import parse_cfg
from models.network import Network
from tests.alive import alive
from tests.nets import TINY, detect, dual
from thinyolo.main import main


def written(text: str, folder: Path, **options: object) -> tuple[Network, Path]:
    net = alive(Network(parse_cfg(text)), dtype=torch.float32)
    made = FORMATS["litert"].load()(Job(net, (64, 64), folder, "net", 1, **options))  # type: ignore[arg-type]
    return net, made.path


@pytest.fixture
def litert() -> None:
    pytest.importorskip("litert_torch", reason="needs the extra litert")
    pytest.importorskip("ai_edge_litert", reason="needs the extra litert")


@pytest.mark.usefixtures("litert")
@pytest.mark.parametrize("text", [*TINY.values(), detect(), dual()], ids=[*TINY, "without anchors", "dual"])
def test_litert_gives_the_heads(text: str, tmp_path: Path) -> None:
    net, path = written(text, tmp_path)
    file = open_model(path)
    found = compare_outputs(net, file, noise((64, 64)))
    assert found.fits, found.problem
    assert file.names == net.names


@pytest.mark.usefixtures("litert")
def test_export_predict_and_latency_by_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(alive(Network(parse_cfg(TINY["yolov5"])), dtype=torch.float32), "net.pt")
    assert main(["export", "--weights", "net.pt", "--to", "litert", "--imgsz", "64", "--out", ".", "--no-latency"]) == 0
    assert Path("net.tflite.card.json").exists()
    cv2.imwrite("one.png", np.full((64, 64, 3), 120, np.uint8))
    assert main(["predict", "--model", "net.tflite", "--source", "one.png", "--name", "there"]) == 0
    assert main(["latency", "net.tflite", "--rounds", "2", "--no-memory", "--threads", "1"]) == 0
    Path("net.tflite").write_bytes(b"no network at all")
    with pytest.raises(UserError, match="LiteRT cannot read it"):
        open_model("net.tflite")


def test_what_litert_cannot_do_is_refused_before_anything_is_converted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="graph ends with the heads"):
        ExportOptions(weights="net.pt", to="litert", outputs="decoded")
    for options in ({"any_size": True}, {"batch": 0}, {"batch": 4}):
        with pytest.raises(UserError, match="one picture of one size"):
            written(TINY["yolov5"], tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_without_the_packages_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith(("litert_torch", "ai_edge_litert")):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match="pip install litert-torch ai-edge-litert"):
        written(TINY["yolov5"], tmp_path)


def test_a_file_without_what_it_says_about_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.to_litert.need_litert", lambda *names: [None])
    (tmp_path / "net.tflite").write_bytes(b"graph")
    with pytest.raises(UserError, match=r"net.tflite.json does not exist: it belongs to this file"):
        open_model(tmp_path / "net.tflite")


CHILD = """
import os, signal, sys, time
what = open(sys.argv[1]).read()
if what == "says":
    print("no such operation", file=sys.stderr)
    sys.exit(3)
if what == "dies":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "hangs":
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("says", "LiteRT cannot read it: no such operation"),
        ("dies", f"LiteRT ends with status {-signal.SIGSEGV}"),
        ("hangs", "LiteRT needs over 1 s for one picture"),
    ],
)
def test_a_file_is_run_in_a_process_of_its_own_first(
    what: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.to_litert.need_litert", lambda *names: [None])
    monkeypatch.setattr("export.to_litert.CHILD", tmp_path / "child.py")
    monkeypatch.setattr("export.to_litert.PATIENCE", 1)
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "net.tflite").write_text(what)
    about = describe(Network(parse_cfg(TINY["yolov5"])))
    (tmp_path / "net.tflite.json").write_text(json.dumps(about.metadata()))
    with pytest.raises(UserError, match=said):
        open_model(tmp_path / "net.tflite")
