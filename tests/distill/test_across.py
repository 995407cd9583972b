"""Student and teacher whose heads are of different families: one with anchors, one without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import models
from common.errors import UserError
from data.batch import Batch
from distill import MODES, KDConfig, KDObjective, Teacher
from distill.teacher import align
from models.network import Network
from tests import nets
from tests.distill.material import free_network, tiny_network
from tests.distill.test_objective import batch_of

pytestmark = pytest.mark.usefixtures("fp32_teachers")

RESPONSES = [name for name, mode in MODES.items() if not mode.features]
ABLE = ["bounded", "scaled"]
MAPS = [name for name, mode in MODES.items() if mode.features]


def pair(anchored_student: bool) -> tuple[Network, Network]:
    """A student and a teacher, both with two heads of strides 8 and 16."""
    anchored, free = tiny_network(8), free_network(nets.detect(2), seed=1)
    return (anchored, free) if anchored_student else (free, anchored)


@torch.no_grad()
def rows_of(network: Network, images: Tensor) -> list[Tensor]:
    """What each head decodes to, ``(B, A, H, W, ...)``."""
    return [spec.decode(head) for spec, head in zip(network.specs, network(images))]


both = pytest.mark.parametrize("anchored_student", [True, False], ids=["anchored student", "free student"])


def test_every_anchor_hears_the_one_place_of_its_cell() -> None:
    student, network = pair(anchored_student=True)
    images = torch.rand(2, 3, 64, 64)
    for head, rows in zip(Teacher(network, student)(images).heads, rows_of(network, images)):
        assert head.shape == (2, 2, *rows.shape[2:4], 7)
        torch.testing.assert_close(head[..., :4], rows[..., :4].expand_as(head[..., :4]))
        scores = head[..., 4:5] * head[..., 5:]
        torch.testing.assert_close(scores, rows[..., 4:].expand_as(scores))
        assert (head[..., 5:].amax(-1) == 1).all(), "given an object, the best class is certain"


def test_the_most_confident_anchor_of_a_cell_speaks() -> None:
    student, network = pair(anchored_student=False)
    images = torch.rand(2, 3, 64, 64)
    spoken = set()
    for head, rows in zip(Teacher(network, student)(images).heads, rows_of(network, images)):
        assert head.shape == (2, 1, *rows.shape[2:4], 6)
        confidence = (rows[..., 4:5] * rows[..., 5:]).amax(-1)
        for at in torch.cartesian_prod(*(torch.arange(size) for size in (2, *rows.shape[2:4]))).tolist():
            image, row, col = at
            anchor = int(confidence[image, :, row, col].argmax())
            spoken.add(anchor)
            said = rows[image, anchor, row, col]
            torch.testing.assert_close(head[image, 0, row, col], torch.cat((said[:4], said[4] * said[5:])))
    assert spoken == {0, 1}, "or the test shows nothing"


@both
def test_the_default_modes_and_those_on_maps_train_the_student_alone(anchored_student: bool) -> None:
    student, network = pair(anchored_student)
    modes = ["scaled", "bounded", *(name for name in MAPS if name != "aligned")]
    objective = KDObjective(student, Teacher(network, student), kd=KDConfig(kd=",".join(modes))).train()
    terms = objective(batch_of(), 0.5)
    for mode in modes:
        names = [name for name in terms.values if name == mode or name.startswith(f"{mode}_")]
        assert names
        student.zero_grad()
        terms.total(names).backward(retain_graph=True)
        reached = [each.grad for each in student.parameters() if each.grad is not None]
        assert sum(float(each.abs().sum()) for each in reached) > 0, mode
    assert all(each.grad is None for each in network.parameters())


@both
@pytest.mark.parametrize("mode", [name for name in RESPONSES if name not in ABLE])
def test_modes_that_compare_logits_are_refused_naming_both_families_and_what_works(
    mode: str, anchored_student: bool
) -> None:
    student, network = pair(anchored_student)
    sides = ("with 2, 2 anchors", "without anchors")[:: 1 if anchored_student else -1]
    with pytest.raises(UserError) as error:
        KDObjective(student, Teacher(network, student), kd=KDConfig(kd=mode))
    said = str(error.value)
    assert f"--kd {mode} compares heads of one family" in said
    assert f"the student has heads {sides[0]}, the teacher heads {sides[1]}" in said
    assert "--kd bounded,scaled,aligned,fitnets" in said


@both
def test_unlabelled_pictures_are_taught_by_the_teacher_alone(anchored_student: bool) -> None:
    student, network = pair(anchored_student)
    objective = KDObjective(student, Teacher(network, student)).eval()
    labelled = batch_of()
    more = Batch(
        torch.cat([labelled.images, torch.rand(1, 3, 64, 64)]), labelled.targets, torch.arange(3), unlabelled=1
    )
    one, other = objective(labelled, 0.5).values, objective(more, 0.5).values
    assert other["bounded"].item() == pytest.approx(one["bounded"].item(), rel=1e-5)
    assert other["scaled_obj"].item() != pytest.approx(one["scaled_obj"].item(), rel=1e-5)
    assert all(value.isfinite() for value in other.values())


@both
def test_classes_are_taken_by_name_and_scored_so(anchored_student: bool) -> None:
    student, network = pair(anchored_student)
    wide = tiny_network(8, classes=3) if not anchored_student else free_network(nets.detect(3))
    student.names, wide.names = ["cat", "dog"], ["dog", "wolf", "cat"]
    teacher, images = Teacher(wide, student), torch.rand(1, 3, 64, 64)
    network.names = ["cat", "dog"]
    heads = teacher(images).heads
    for head, spec, plain in zip(heads, wide.specs, wide(images)):
        scores = spec.scores(plain)[..., [2, 0]]  # (B, A, H, W, 2)
        found = head[..., 4:5] * head[..., 5:] if anchored_student else head[..., 4:]
        torch.testing.assert_close(found.amax((1, 4)), scores.amax((1, 4)))
    decoded = teacher.network.decode(teacher.network(images))  # type: ignore[operator]
    assert decoded.shape == (1, (64 + 16) * student.specs[0].places, 7 if anchored_student else 6)


@both
def test_teachers_of_the_other_family_are_averaged_and_cross_fitted(anchored_student: bool) -> None:
    """Boxes in pixels and probabilities; teachers with anchors need not agree in them."""
    student, one = pair(anchored_student)
    other = free_network(nets.detect(2, bins=1), seed=2) if anchored_student else tiny_network(16, new_coords=True)
    images = torch.rand(3, 3, 64, 64)
    first, second = (Teacher(each, student)(images).heads for each in (one, other))
    teacher = Teacher([one, other], student, folds=torch.tensor([0, 1]))
    for head, mine, theirs in zip(teacher(images).heads, first, second):
        torch.testing.assert_close(head, (mine + theirs) / 2)
    for head, mine, theirs in zip(teacher(images, (), torch.tensor([1, -1, 0])).heads, first, second):
        torch.testing.assert_close(head[0], theirs[0])
        torch.testing.assert_close(head[1], (mine[1] + theirs[1]) / 2)
        torch.testing.assert_close(head[2], mine[2])
    with pytest.raises(UserError, match=r"--kd bounded,scaled$"):  # no mode on maps: an average has none
        KDObjective(student, teacher, kd=KDConfig(kd="hinton"))


def test_teachers_of_both_families_are_not_averaged() -> None:
    student = tiny_network(8)
    with pytest.raises(UserError, match=r"(?s)with 2, 2 anchors and without anchors.*a.pt,b.pt"):
        Teacher([tiny_network(16), free_network(nets.detect(2))], student)


def test_a_student_with_anchors_learns_from_one_to_many_heads() -> None:
    student, network = tiny_network(8), free_network(nets.dual(2))
    found = align(student.specs, network.specs)
    assert [network.specs[number].one_to_one for number in found.heads] == [False, False]
    turned = align(student.specs, network.specs[::-1])
    assert [network.specs[::-1][number].one_to_one for number in turned.heads] == [False, False]
    objective = KDObjective(student, Teacher(network, student), kd=KDConfig(kd="scaled,bounded,pkd"))
    assert all(value.isfinite() for value in objective(batch_of(), 0.5).values.values())


def test_one_to_one_heads_need_such_a_teacher() -> None:
    student = free_network(nets.dual(2))
    with pytest.raises(UserError, match=r"2 give each object one place.*with 2, 2 anchors") as error:
        Teacher(tiny_network(8), student)
    assert "those that give each object one place learn from such" in str(error.value)
    Teacher(tiny_network(8), models.only_heads(student, "one-to-many"))


def test_heads_of_other_strides_are_refused() -> None:
    student, network = pair(anchored_student=True)
    with pytest.raises(UserError, match=r"strides 8, 16 with .* the teacher has 1 heads of strides 8 without"):
        align(student.specs, network.specs[:1])
