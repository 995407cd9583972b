"""The INT8 benchmark scores and times every setting, and names options that make no sense."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models
from common.errors import UserError
from models.network import Network, adapt_classes
from tests import nets
from tests.alive import alive
from tests.cli.material import make_set

pytest.importorskip("onnxruntime", reason="needs the extra export")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "int8.py"))["main"]


def test_every_setting_has_a_row(main: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = models.parse_cfg(nets.RESIDUAL)
    adapt_classes(cfg, 2)
    models.save(alive(Network(cfg, ["red", "blue"])), tmp_path / "net.pt")
    data = make_set(tmp_path / "set") / "data.yaml"
    asked = ["--weights", str(tmp_path / "net.pt"), "--data", str(data), "--calibrate", "1,2", "--rounds", "1"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert shown.count("\nuint8 ") == 8
    assert shown.count("\nint8, symmetric ") == 1
    for word in ("mAP50-95 (1)  mAP50-95 (2)  CPU time", "FP32 ", "3 val pictures at 64x64", "(4)"):
        assert word in shown


@pytest.mark.parametrize("wrong", [["--calibrate", "many"], ["--calibrate", "0,4"], ["--rounds", "0"]])
def test_wrong_numbers_are_named(main: Callable, wrong: list[str]) -> None:
    with pytest.raises(UserError, match=wrong[0]):
        main(["--weights", "net.pt", "--data", "shapes", *wrong])
