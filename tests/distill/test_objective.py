"""The objective: what the student learns from, and what stays as it is."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from data.batch import Batch
from distill import MODES, KDConfig, KDObjective, Teacher, bounded, hinton
from engine.objective import DetectionObjective
from models.spec import Outputs
from tests.distill.material import networks_for, tiny_network

pytestmark = pytest.mark.usefixtures("fp32_teachers")

KINDS = ("box", "obj", "cls", "dfl")


def batch_of(pictures: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(pictures, 3, 64, 64, generator=generator)
    rows = [[p, p % 2, 20.0 + 9 * p, 30.0, 18.0, 14.0] for p in range(pictures)]
    rows += [[p, 1, 44.0, 40.0 - 5 * p, 40.0, 36.0] for p in range(pictures)]
    return Batch(images, torch.tensor(rows), torch.arange(pictures))


def objective_of(kd: str = "hinton,bounded", **options: object) -> KDObjective:
    student = tiny_network(8)
    return KDObjective(student, Teacher(tiny_network(16, seed=1), student), kd=KDConfig(kd=kd, **options))  # type: ignore[arg-type]


def test_terms_are_those_of_the_functions_on_the_shared_assignment() -> None:
    objective, batch = objective_of(), batch_of()
    objective.eval()
    terms = objective(batch, 0.0)
    heads = objective.network(batch.images)
    assert objective.teacher is not None
    pair = Outputs(heads, objective.network.specs), objective.teacher(batch.images)
    matches = objective.matched(batch, heads)
    boxes = bounded(*pair, matches)
    expected = {**objective.detection(heads, matches), **hinton(*pair, matches), "bounded": boxes["bounded"]}
    assert {k: v.item() for k, v in terms.values.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
    gains = terms.weights
    total = sum(gains[name] * value.item() for name, value in expected.items())
    learnt = [name for name in terms.values if name not in KINDS]
    shares = {f"share_{name}": gains[name] * expected[name].item() / total for name in learnt}
    logged = {"gate_rate": boxes["metric/gate_rate"].item(), **shares}
    assert {k: v.item() for k, v in terms.metrics.items()} == pytest.approx(logged, rel=1e-5)


def test_weights_are_the_modes_times_the_gain_of_the_term_they_join() -> None:
    objective = objective_of("hinton:0.3,bounded")
    gains = objective.detection.weights
    assert objective(batch_of(), 0.0).weights == pytest.approx(
        {**gains, "hinton_obj": 0.3 * gains["cls"], "hinton_cls": 0.3 * gains["cls"], "bounded": 0.5 * gains["box"]}
    )


def test_ramp_raises_the_weights_from_zero() -> None:
    objective = objective_of("bounded", kd_ramp=0.5)
    seen = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        seen.append(objective(batch_of(), progress).weights["bounded"])
    assert seen == pytest.approx([0, 2.5, 5, 5])


def test_teacher_is_bit_identical_after_steps_and_the_student_is_not() -> None:
    objective = objective_of()
    teacher = objective.teacher
    assert teacher is not None
    answer = [head.clone() for head in teacher(batch_of().images).heads]
    before, student_before = teacher.full_digest, [p.detach().clone() for p in objective.parameters()]
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.01, momentum=0.9)
    for step in range(4):
        objective.train()
        terms = objective(batch_of(seed=step), step / 4)
        optimiser.zero_grad()
        terms.total().backward()
        optimiser.step()
    assert teacher.full_digest == before
    assert all(torch.equal(old, new) for old, new in zip(answer, teacher(batch_of().images).heads))
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(student_before, objective.parameters()))


def test_only_the_student_is_registered() -> None:
    objective = objective_of()
    names = {name.split(".")[0] for name in objective.state_dict()}
    assert names == {"network", "balance"}, "before the first batch there is nothing else to remember"
    assert len(list(objective.parameters())) == len(list(objective.network.parameters()))


def test_without_terms_it_is_plain_training() -> None:
    plain, batch = DetectionObjective(tiny_network(8)), batch_of()
    wanted = {name: value.item() for name, value in plain(batch, 0.0).values.items()}
    for objective in (objective_of("none"), KDObjective(tiny_network(8))):
        terms = objective(batch, 0.0)
        assert {name: value.item() for name, value in terms.values.items()} == wanted
        assert terms.metrics == {}


def test_teacher_of_other_structure_and_decode_works() -> None:
    student = tiny_network(8, new_coords=True)
    objective = KDObjective(student, Teacher(tiny_network(16, seed=1), student))
    values = objective(batch_of(), 0.0).values
    assert values["bounded"].item() > 0
    assert all(torch.isfinite(value) for value in values.values())


def test_terms_that_need_equal_anchors_are_refused_naming_both_sides() -> None:
    student, teacher = tiny_network(8), tiny_network(16)
    teacher.with_anchors([[(9.0, 14.0), (20.0, 12.0)], [(50.0, 33.0), (60.0, 60.0)]])
    KDObjective(student, Teacher(teacher, student), kd=KDConfig(kd="bounded"))
    with pytest.raises(UserError, match=r"(?s)student has .*40.0, 30.0.*teacher .*50.0, 33.0.*--kd bounded"):
        KDObjective(student, Teacher(teacher, student))


def test_kd_arithmetic_is_fp32_under_autocast() -> None:
    objective = objective_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(batch_of(), 0.0)
    assert {value.dtype for value in (*terms.values.values(), *terms.metrics.values())} == {torch.float32}


def test_same_batch_in_four_pictures_or_twice_gives_the_same_terms() -> None:
    objective, batch = objective_of(), batch_of()
    objective.eval()
    more = Batch(
        torch.cat([batch.images, batch.images]),
        torch.cat([batch.targets, batch.targets + torch.tensor([2, 0, 0, 0, 0, 0])]),
        torch.arange(4),
    )
    once, twice = objective(batch, 0.0).values, objective(more, 0.0).values
    assert {k: v.item() for k, v in twice.items()} == pytest.approx({k: v.item() for k, v in once.items()}, rel=1e-5)


def test_backward_under_autocast_gives_finite_gradients() -> None:
    objective = objective_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(batch_of(), 0.0)
    terms.total().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


@pytest.mark.parametrize("mode", list(MODES))
def test_mode_that_needs_the_truth_is_shown_labelled_pictures_only(mode: str) -> None:
    """The others learn from the teacher's answers to the rest too; of fgd all but its focal part."""
    student, teacher = networks_for(mode)
    objective = KDObjective(student, Teacher(teacher, student), kd=KDConfig(kd=mode)).eval()
    labelled = batch_of(2)
    batch = Batch(
        torch.cat([labelled.images, torch.rand(1, 3, 64, 64)]), labelled.targets, torch.arange(3), unlabelled=1
    )
    batch.images.requires_grad_()
    terms = objective(batch, 0.0)
    values = {name: value for name, value in terms.values.items() if name not in KINDS}
    for name, value in values.items():
        (gradient,) = torch.autograd.grad(value, batch.images, retain_graph=True)
        blind = MODES[mode].needs_truth or name == "fgd_focal"
        # The scale of a focal part is the teacher's, which has no gradient.
        assert bool(gradient[2].any()) != blind, name
        assert gradient[:2].any(), name
    if MODES[mode].needs_truth:
        alone = objective(labelled, 0.0).values
        for name, value in values.items():
            assert value.item() == pytest.approx(alone[name].item(), rel=1e-5)


def test_size_of_a_term_does_not_depend_on_how_many_pictures_have_labels() -> None:
    """The same pictures a second time, without their labels: means stay what they were."""
    objective, batch = objective_of("attention,fitnets,bounded"), batch_of(2)
    objective.eval()
    twice = Batch(torch.cat([batch.images, batch.images]), batch.targets, torch.arange(4), unlabelled=2)
    once, more = (objective(each, 0.0).values for each in (batch, twice))
    assert {k: v.item() for k, v in more.items()} == pytest.approx({k: v.item() for k, v in once.items()}, rel=1e-5)
