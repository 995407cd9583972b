"""The teacher: what it must never change, and with whom it can work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from common.errors import UserError
from common.log import log
from distill.teacher import Teacher, align
from models.spec import HeadSpec
from tests.distill.material import COARSE, FINE, tiny_network


def test_teacher_runs_in_eval_mode_without_gradients_even_if_somebody_trained_it() -> None:
    teacher = Teacher(tiny_network(16), tiny_network(8))
    before = teacher.fingerprint
    teacher.network.train()
    outputs = teacher(torch.rand(2, 3, 64, 64))
    assert not any(head.requires_grad for head in outputs.heads)
    assert not any(module.training for module in teacher.network.modules())
    assert teacher.fingerprint == before


def test_heads_are_paired_by_stride_and_anchors_by_size() -> None:
    student = (HeadSpec(FINE, 8, 3), HeadSpec(COARSE, 16, 3))
    teacher = (HeadSpec(COARSE[::-1], 16, 3), HeadSpec(FINE, 8, 3))
    found = align(student, teacher)
    assert found.heads == (1, 0)
    assert found.anchors == ((0, 1), (1, 0))
    assert found.same_anchors


def test_answers_come_in_the_students_order() -> None:
    student, network = tiny_network(8), tiny_network(16)
    anchors = [list(spec.anchors) for spec in network.specs]
    images = torch.rand(1, 3, 64, 64)
    straight = Teacher(network, student)(images)
    with torch.no_grad():
        plain = network(images)
    network.with_anchors([anchors[0][::-1], anchors[1]])
    swapped = Teacher(network, student)(images)
    assert all(torch.equal(one, other) for one, other in zip(straight.heads, plain))
    assert torch.equal(swapped.heads[0], plain[0].flip(1))
    assert swapped.specs == straight.specs


@pytest.mark.parametrize(
    ("teacher", "named"),
    [
        ((HeadSpec(FINE, 8, 3),), "1 heads of strides 8 with 2 anchors and 3 classes"),
        ((HeadSpec(FINE, 8, 3), HeadSpec(COARSE, 32, 3)), "strides 8, 32"),
        ((HeadSpec(FINE, 8, 80), HeadSpec(COARSE, 16, 80)), "80 classes"),
        ((HeadSpec(FINE, 8, 3), HeadSpec(COARSE[:1], 16, 3)), "2, 1 anchors"),
    ],
    ids=["heads", "strides", "classes", "anchors"],
)
def test_heads_that_disagree_are_refused_naming_both_sides(teacher: tuple[HeadSpec, ...], named: str) -> None:
    student = (HeadSpec(FINE, 8, 3), HeadSpec(COARSE, 16, 3))
    with pytest.raises(UserError) as error:
        align(student, teacher)
    assert "the student has 2 heads of strides 8, 16 with 2, 2 anchors and 3 classes" in str(error.value)
    assert named in str(error.value).split("the teacher has")[1]


def test_other_anchors_are_noticed() -> None:
    student = (HeadSpec(FINE, 8, 3),)
    assert not align(student, (HeadSpec(((8.0, 10.0), (16.0, 14.0)), 8, 3),)).same_anchors
    assert align(student, (HeadSpec(((8.1, 10.0), (16.0, 12.2)), 8, 3),)).same_anchors


def test_classes_in_another_order_are_refused_and_other_words_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = tiny_network(8), tiny_network(16)
    student.names, teacher.names = ["cat", "dog"], ["dog", "cat"]
    with pytest.raises(UserError, match="cat, dog and dog, cat"):
        Teacher(teacher, student)
    teacher.names = ["kitten", "puppy"]
    log.addHandler(caplog.handler)  # the project's log does not propagate once an entry point shows it
    try:
        Teacher(teacher, student)
    finally:
        log.removeHandler(caplog.handler)
    assert "kitten, puppy" in caplog.text


def test_weights_that_do_not_fill_the_teacher_are_refused(tmp_path: Path) -> None:
    fat, thin = tiny_network(16), tiny_network(8)
    models.save(fat, tmp_path / "fat.pt")
    models.save(thin, tmp_path / "thin.pt")
    (tmp_path / "fat.cfg").write_text(fat.cfg.text())
    assert Teacher.load(tmp_path / "fat.cfg", tmp_path / "fat.pt", thin).fingerprint == models.fingerprint(fat)
    assert Teacher.load("", tmp_path / "fat.pt", thin).fingerprint == models.fingerprint(fat)
    with pytest.raises(UserError):
        Teacher.load(tmp_path / "fat.cfg", tmp_path / "thin.pt", thin)
    with pytest.raises(UserError, match="needs trained weights"):
        Teacher.load(tmp_path / "fat.cfg", None, thin)
