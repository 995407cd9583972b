"""Networks whose heads have no anchors go through the whole line, one-to-one heads included, and teach others."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

import finetune_kd
import models
import train_prune
from tests import nets
from tests.cli.material import NAMES, QUICK, in_process, make_set
from tests.distill.material import free_network, tiny_cfg

LINE = ("--cfg", "net.cfg", "--data", "data.yaml", *QUICK, "--prune", "params=0.5", "--then-kd")


TAUGHT = ("--cfg", "thin.cfg", "--t_weights", "fat.pt", "--data", "data.yaml", *QUICK, "--epochs", "1")


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


def test_a_teacher_without_anchors_teaches_a_student_with_anchors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None, capsys: pytest.CaptureFixture
) -> None:
    """By decoded boxes and scores; a mode that compares logits is refused, and nothing is left of its run."""
    folder = make_set(tmp_path)
    (folder / "thin.cfg").write_text(tiny_cfg())
    teacher = free_network(nets.detect(2))
    teacher.names = list(NAMES)
    models.save(teacher, folder / "fat.pt")
    assert in_process(finetune_kd.main, monkeypatch, folder, *TAUGHT, "--kd", "hinton", "--name", "refused") == 2
    said = capsys.readouterr().err
    assert "the student has heads with 2, 2 anchors, the teacher heads without anchors" in said
    assert "on val" not in said, "it is refused before both are scored"
    assert not (folder / "runs/finetune_kd/refused").exists()
    assert in_process(finetune_kd.main, monkeypatch, folder, *TAUGHT, "--kd", "scaled,bounded") == 0
    run = folder / "runs/finetune_kd/exp"
    [row] = list(csv.DictReader((run / "results.csv").open()))
    for name in ("obj", "scaled_obj", "scaled_cls", "scaled_box", "bounded", "gate_rate"):
        assert math.isfinite(float(row[f"train/{name}"])), name
    assert float(row["train/scaled_obj"]) > 0
    assert models.load(run / "weights/best.pt").meta["teacher"]["sha256"] == models.fingerprint(teacher)
