"""Teachers that are not of the student's kind: one with a timm backbone, one that YOLOv5 has trained."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune_kd
import models
import prune
from data import load_spec
from distill import KDConfig, KDObjective, Teacher
from pipeline.step_cost import first_batch, random_batch
from tests.alive import alive
from tests.cli.material import NAMES, QUICK, ROOT, in_process, make_set
from tests.distill.material import tiny_network
from tests.shared import shared

pytestmark = pytest.mark.usefixtures("fp32_teachers")

TIMM = ROOT / "cfg" / "timm-resnet18.cfg"
SIZE = (64, 64)


def test_teacher_with_a_timm_backbone_teaches_a_student_of_a_cfg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, with a mode of each kind that other anchors allow; the teacher is asked, not trained."""
    make_set(tmp_path)
    torch.manual_seed(0)
    teacher, student = alive(models.load(TIMM, names=NAMES)), tiny_network(8)
    student.names = list(NAMES)
    models.save(teacher, tmp_path / "fat.pt")
    models.save(student, tmp_path / "thin.pt")
    for name in ("engine.plots.plot_score", "engine.trainer.plot_results"):
        monkeypatch.setattr(name, lambda *_: [])
    chosen = ["--weights", "thin.pt", "--t_weights", "fat.pt", "--data", "data.yaml", "--kd", "bounded,cwd"]
    assert in_process(finetune_kd.main, monkeypatch, tmp_path, *chosen, *QUICK, "--epochs", "1") == 0
    run = next((tmp_path / "runs" / "finetune_kd").iterdir())
    with open(run / "results.csv", newline="") as handle:
        [row] = csv.DictReader(handle)
    assert all(np.isfinite(float(row[f"train/{name}"])) for name in ("bounded", "cwd", "gate_rate"))
    assert float(row["train/cwd"]) > 0
    assert models.load(run / "weights" / "best.pt").meta["teacher"]["sha256"] == models.fingerprint(teacher)


def test_network_with_a_timm_backbone_teaches_what_was_cut_from_it() -> None:
    torch.manual_seed(0)
    fat = alive(models.load(TIMM, names=NAMES)).eval()
    thin = prune.channels(fat, ratio=0.4).network
    teacher = Teacher(fat, thin)
    images = random_batch(thin, SIZE, 2).prepared(torch.device("cpu"))
    with torch.no_grad():
        plain = fat(images.images)
    for one, other in zip(teacher(images.images).heads, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max().item())
    objective = KDObjective(thin, teacher, None, KDConfig(kd="hinton,bounded,aligned")).train()
    values = objective(images, 0.5).values
    for name in ("hinton_obj", "bounded", "aligned"):
        thin.zero_grad()
        values[name].backward(retain_graph=True)
        moved = [each.grad for key, each in thin.named_parameters() if ".model." in key and each.grad is not None]
        assert sum(float(each.abs().sum()) for each in moved) > 0, f"{name} does not reach the backbone"


def test_network_that_yolov5_has_trained_teaches_two_of_its_classes() -> None:
    """On pictures it was trained on it is nearer to the truth than a random student, and it is read by class name."""
    path, data = shared("pretrained/yolov5/yolov5n_v6.1.pt"), shared("datasets/coco128/data.yaml")
    spec = load_spec(str(data))
    batch = first_batch(spec, (160, 160), 4).prepared(torch.device("cpu"))
    torch.manual_seed(0)
    student = models.load(ROOT / "cfg" / "yolov5n.cfg", names=spec.names)
    teacher = Teacher.load("", path, student)
    objective = KDObjective(student, teacher, None, KDConfig(kd="hinton,bounded,pkd")).train()
    terms = objective(batch, 0.5)
    assert all(torch.isfinite(terms.values[name]) for name in ("hinton_obj", "hinton_cls", "bounded", "pkd"))
    assert float(terms.metrics["gate_rate"]) > 0.6

    two = models.load(ROOT / "cfg" / "yolov5n.cfg", names=["car", "person"])
    whole, some = teacher(batch.images).heads, Teacher.load("", path, two)(batch.images).heads
    places = [0, 1, 2, 3, 4, *(5 + spec.names.index(name) for name in two.names)]
    assert all(torch.equal(few, many[..., places]) for few, many in zip(some, whole, strict=True))
