"""What is measured for the report: files, times, the uncut network at smaller inputs, which file to use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import models
from common.errors import UserError
from engine.bootstrap import mean_ap
from engine.config import TrainConfig
from models.network import Network
from pipeline import measured
from pipeline.measured import Mark, smaller_sizes, wanted_files
from tests import nets
from tests.reporting.material import matches


def test_the_rival_s_inputs_are_multiples_of_its_stride() -> None:
    assert smaller_sizes((128, 128), 32) == [(96, 96), (64, 64)]
    assert smaller_sizes((416, 320), 32) == [(320, 256), (192, 160)]
    assert smaller_sizes((64, 64), 32) == [(32, 32)], "each once, none as large as the input"
    assert smaller_sizes((32, 32), 32) == []


def test_formats_are_known_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_files(TrainConfig(files="none")) == ""
    assert wanted_files(TrainConfig(files="darknet")) == "darknet"
    with pytest.raises(UserError, match="--files onxn: there is no format 'onxn'"):
        wanted_files(TrainConfig(files="onxn"))
    assert wanted_files(TrainConfig()) == "onnx,int8"

    def absent(*_: str) -> None:
        raise UserError("ONNX needs onnx, which is not installed here")

    monkeypatch.setattr(measured, "need_onnx", absent)
    assert wanted_files(TrainConfig()) == "", "auto does without"
    with pytest.raises(UserError, match="not installed"):
        wanted_files(TrainConfig(files="onnx"))


def mark(name: str, kind: str, right: float) -> Any:
    kept = matches(right=right)
    score = SimpleNamespace(map50_95=float(mean_ap(kept.class_ap())[0]), matches=kept)
    return Mark(name, kind, (64, 64), score, None, object() if kind == "file" else None, Path(name))  # type: ignore[arg-type]


def points(*costs: tuple[float | None, float]) -> Any:
    return [{"ms": ms, "megabytes": megabytes} for ms, megabytes in costs]


def test_the_fastest_file_that_is_not_shown_to_be_worse_is_shipped() -> None:
    marks = [mark("fat", "fat", 1), mark("thin", "cut", 0.9), mark("whole", "file", 0.9), mark("int8", "file", 0.1)]
    place, why = measured._ship(marks, points((9, 9), (4, 4), (3, 4), (1, 1))) or (None, "")
    assert place == 2, "INT8 is faster, and shown to be worse"
    assert "int8 detects worse: mAP50-95 -" in why
    marks[3] = mark("int8", "file", 0.9)
    assert (measured._ship(marks, points((9, 9), (4, 4), (3, 4), (1, 1))) or (0, ""))[0] == 3
    place, why = measured._ship(marks, points((None, 9), (None, 4), (None, 1), (None, 2))) or (None, "")
    assert (place, why[:12]) == (2, "The smallest"), "times are withheld"
    assert measured._ship(marks[:2], points((9, 9), (4, 4))) is None
    for each in marks:
        each.score.matches = None
    place, why = measured._ship(marks, points((9, 9), (4, 4), (3, 4), (1, 1))) or (None, "")
    assert why.endswith("int8: mAP50-95 +0.000 to it."), "too few pictures for an interval"
    marks[2:] = [mark("one", "file", 0.1), mark("two", "file", 0.2)]
    place, why = measured._ship(marks, points((9, 9), (4, 4), (3, 4), (1, 1))) or (None, "")
    assert place == 3
    assert "all detect worse" in why


def test_a_converter_that_fails_costs_no_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network = models.init_weights(Network(models.parse_cfg(nets.RESIDUAL)))
    score: Any = SimpleNamespace(map50_95=0.5, matches=matches())
    marks = [Mark("fat", "fat", (64, 64), score, network), Mark("thin", "cut", (64, 64), score, network)]
    marks[1] = replace(marks[1], path=tmp_path / "thin.pt")
    models.save(network, tmp_path / "thin.pt")

    def fails(*_: Any) -> None:
        raise ValueError("an operator that nobody knows\nand more")

    monkeypatch.setattr(measured, "Exporter", fails)
    found = measured.measured(marks, "test", TrainConfig(files="onnx", data="data.yaml"), tmp_path)
    assert found.ship_why == "No file was written: an operator that nobody knows"
    assert [point["name"] for point in found.points] == ["fat", "thin"]
    assert found.points[1]["file"] == "thin.pt"
    assert found.ship == 1
    assert "in PyTorch" in found.timed or "busy" in found.timed
    monkeypatch.setattr(measured, "DeployedLatency", fails)
    speeds, runtime = measured._speeds(marks, measured.ONNX_RUNTIME)
    assert runtime == measured.PYTORCH
    assert speeds.times["fat"] is speeds.times["thin"], "of equal cost, and timed once"
