"""The benchmark of how hard each KD mode pulls beside the detection loss."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import models
from tests import nets
from tests.cli.material import NAMES, make_set
from tests.distill.material import free_network, tiny_network


@pytest.mark.parametrize("anchored", [True, False], ids=["student with anchors", "student without"])
def test_each_mode_has_its_share_of_the_familys_own_loss(
    anchored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_set(tmp_path)
    student = tiny_network(8) if anchored else free_network(nets.detect(2))
    for name, net in (("thin", student), ("fat", free_network(nets.detect(2), seed=1))):
        net.names = list(NAMES)
        models.save(net, tmp_path / f"{name}.pt")
    main = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "kd_gradients.py"))["main"]
    monkeypatch.chdir(tmp_path)
    chosen = ["--weights", "thin.pt", "--t_weights", "fat.pt", "--data", "data.yaml", "--imgsz", "64", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["kd_gradients.py", *chosen, "--kd", "scaled,bounded,pkd", "--batch-size", "4"])
    assert main() == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["step", "detection", "scaled", "bounded", "pkd"]
    assert all(float(value) > 0 for value in row.split()[1:])
