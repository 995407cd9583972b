"""The benchmark of cuts times each network in every format beside its multiply-adds."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models
import prune
from tests import nets
from tests.alive import alive

pytest.importorskip("onnxruntime", reason="needs the extra export")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "cut_latency.py"))["main"]


def test_every_network_has_a_row(main: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    both = alive(models.Network(models.parse_cfg(nets.dual(2)))).eval()
    thin = prune.prune(both, budget="flops=0.5").network
    files = [str(tmp_path / name) for name in ("fat.pt", "thin.pt")]
    for net, file in zip((both, thin), files, strict=True):
        models.save(net, file)
    assert main([*files, "--heads", "one-to-one", "--rounds", "1", "--operators"]) == 0
    shown = capsys.readouterr().out
    for name, net in (("fat.pt", both), ("thin.pt", thin)):
        read = models.only_heads(net, "one-to-one")
        row = next(line.split() for line in shown.splitlines() if line.startswith(name))
        assert row[1] == f"{models.parameters(read):,}"
        assert row[2] == f"{models.macs(read, (64, 64)) / 1e9:.3f}"
    assert shown.splitlines()[2].split()[4:] == ["1.00", "(1.00)"] * 2, "what the others are shares of"
    assert any(line.startswith("Conv ") for line in shown.splitlines())
