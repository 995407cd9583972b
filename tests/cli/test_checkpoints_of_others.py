"""A checkpoint of another program goes through the whole line: auto sparsity, a budget, blocks, a taught student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
import train_prune
from tests.cli.material import QUICK, in_process, make_set
from tests.models import ultralytics_program as program

LINE = ("--weights", "best.pt", "--data", "data.yaml", *QUICK, "--prune", "flops=0.5", "--shortcuts", "1", "--then-kd")


@pytest.mark.parametrize("family", [8, 11, 26])
def test_a_checkpoint_is_made_sparse_cut_and_taught(
    family: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None
) -> None:
    folder = make_set(tmp_path)
    torch.manual_seed(family)
    program.checkpoint(program.DetectionModel(family, nc=2), folder / "best.pt")
    options = ("--sparsity", "auto", "--kd", "bounded")
    assert in_process(train_prune.main, monkeypatch, folder, *LINE, *options) == 0
    run = folder / "runs/train_prune/exp"
    start, fat, pruned, student = (
        models.load(path)
        for path in (
            folder / "best.pt",
            run / "sparse/weights/sparse.pt",
            run / "pruned/pruned.pt",
            run / "student/weights/best.pt",
        )
    )
    assert start.cfg.structure() == fat.cfg.structure()
    assert models.macs(pruned) <= 0.5 * models.macs(start)
    assert pruned.specs == student.specs == start.specs
    assert "parameters" in (run / "pruned/report.txt").read_text()
    assert not (run / "pruned/pruned.weights").exists()  # Darknet has no words for it
