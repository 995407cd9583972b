"""Networks whose heads have no anchors go through the whole line, one-to-one heads included."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import models
import train_prune
from tests import nets
from tests.cli.material import QUICK, in_process, make_set

LINE = ("--cfg", "net.cfg", "--data", "data.yaml", *QUICK, "--prune", "params=0.5", "--then-kd")


def columns(path: Path) -> set[str]:
    with path.open() as file:
        return set(csv.DictReader(file).fieldnames or ())


def test_every_stage_trains_heads_without_anchors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None
) -> None:
    folder = make_set(tmp_path)
    (folder / "net.cfg").write_text(nets.dual(classes=2))
    stages = ("baseline", "sparse", "student")
    assert in_process(train_prune.main, monkeypatch, folder, *LINE, "--kd", "hinton,bounded") == 0
    run = folder / "runs/train_prune/exp"
    for stage in stages:
        found = columns(run / stage / "results.csv")
        assert {"train/box", "train/cls", "train/dfl", "val/mAP50-95"} <= found
        assert "train/obj" not in found
        assert ("train/bounded" in found) is (stage == "student")
    fat, thin = (models.load(run / stage / "weights/best.pt") for stage in ("baseline", "student"))
    sizes = [sum(each.numel() for each in net.parameters()) for net in (fat, thin)]
    assert sizes[1] <= 0.5 * sizes[0]
    assert thin.specs == fat.specs
