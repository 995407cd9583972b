"""The speed benchmark runs, and says what it needs where Torch-Pruning is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.nets import TINY

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "pruning_speed.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pruning_speed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # importing it fails
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return module


def test_without_torch_pruning_it_says_how_to_install_it(script: ModuleType, capsys: pytest.CaptureFixture) -> None:
    assert script.main([]) == 2
    assert "pip install --no-deps torch-pruning==1.6.1" in capsys.readouterr().err


def test_alone_it_times_each_part(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = tmp_path / "tiny.cfg"
    cfg.write_text(TINY["residual"], encoding="utf-8")
    assert script.main(["--alone", "--cfg", str(cfg), "--imgsz", "64", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    for part in ("identity graph", "selection", "surgery", "graph, selection, surgery", "cost of one candidate"):
        assert f"ThinYOLO: {part} " in shown
