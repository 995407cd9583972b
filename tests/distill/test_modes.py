"""The table of modes: the ``--kd`` syntax, and what holds for every mode."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import pytest
import torch

from common.errors import UserError
from common.options import from_dict, option, options
from distill import MODES, FeaturePair, KDConfig, KDObjective, Teacher, hinton
from distill.mode import COSTLY, METRIC, Mode
from distill.modes import describe_modes
from models.assign.by_shape import assign
from models.lineage import identity_lineage
from models.spec import Matches, Outputs
from tests import nets
from tests.distill.material import (
    PAIRS,
    adapter_of,
    doubled,
    free_network,
    learning,
    matched,
    networks_for,
    random_maps,
    random_outputs,
    random_targets,
    specs_for,
    specs_of,
    tiny_network,
    values,
)
from tests.distill.test_objective import batch_of

SPECS = specs_of()
FEATURES = [name for name, mode in MODES.items() if mode.features]
RESPONSES = [name for name, mode in MODES.items() if not mode.features]
# aligned compares the student's three channels with these of the teacher's.
PAIRS_OF = {"aligned": [FeaturePair(1, 2, 3, 5, 8.0, head=0, kept=(4, 0, 3)), PAIRS[1]]}


def terms_of(mode: str, student: Outputs, teacher: Outputs, matches: Matches, seed: int = 0) -> dict[str, torch.Tensor]:
    """The mode with its default options; what it draws is drawn alike in every call."""
    adapter = adapter_of(mode, seed)
    torch.manual_seed(7)
    return MODES[mode](student, teacher, matches, PAIRS_OF.get(mode, PAIRS), adapter)


def losses_of(mode: str, student: Outputs, teacher: Outputs, matches: Matches) -> torch.Tensor:
    return torch.stack(
        [value for name, value in terms_of(mode, student, teacher, matches).items() if not name.startswith(METRIC)]
    )


@pytest.mark.parametrize(
    ("text", "modes"),
    [
        ("hinton,bounded", {"hinton": MODES["hinton"].weight, "bounded": MODES["bounded"].weight}),
        ("bounded:2", {"bounded": 2.0}),
        (" hinton : 0.5 , bounded ", {"hinton": 0.5, "bounded": MODES["bounded"].weight}),
        ("none", {}),
        ("auto", {"scaled": MODES["scaled"].weight, "bounded": MODES["bounded"].weight}),
        ("hinton:0", {"hinton": 0.0}),
    ],
)
def test_terms_and_weights_are_read(text: str, modes: dict[str, float]) -> None:
    assert KDConfig(kd=text).modes() == modes


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hintn", "hintn"),
        ("hinton:x", "'x'"),
        ("hinton:-1", "'-1'"),
        ("hinton:nan", "nan"),
        ("hinton,hinton:2", "twice"),
    ],
)
def test_mistakes_are_named(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        KDConfig(kd=text).modes()


@pytest.mark.parametrize("name", MODES)
def test_every_option_of_a_mode_is_a_setting_with_a_help_text(name: str) -> None:
    known = {each.path[-1]: each for each in options(KDConfig).values() if each.path[0] == name}
    assert set(known) == {each.name for each in fields(MODES[name])}
    for each in known.values():
        assert each.key.startswith("kd_")
        assert each.metadata["help"].startswith(name)
        assert each.convert(each.default) == each.default


@pytest.mark.parametrize("name", MODES)
def test_every_option_of_a_mode_is_a_keyword_of_its_loss_with_the_same_default(name: str) -> None:
    keywords = inspect.signature(MODES[name].load()).parameters
    defaults = {key: each.default for key, each in keywords.items() if each.default is not inspect.Parameter.empty}
    assert MODES[name].options() == defaults


def louder(student: Outputs, teacher: Outputs, matches: Matches, *, times: float = 1.0) -> dict[str, torch.Tensor]:
    return {"louder": times * student.heads[0].mean()}


@dataclass(frozen=True)
class Louder(Mode):
    paper, needs, weight = "a test", "nothing", 1.0

    times: float = option(1.0, "louder: how much", key="kd_times", low=0)

    def load(self) -> Callable[..., dict[str, torch.Tensor]]:
        return louder


@dataclass
class WithLouder(KDConfig):
    louder: Louder = Louder()


def test_a_new_mode_is_a_function_a_class_and_a_field() -> None:
    assert list(options(WithLouder))[-1] == "kd_times"
    config, student = from_dict(WithLouder, {"kd_times": 3.0}), random_outputs(SPECS)
    found = config.mode("louder")(student, student, matched(SPECS, random_targets()))
    assert values(found) == {"louder": pytest.approx(3 * student.heads[0].mean().item())}


def test_chosen_options_reach_the_loss() -> None:
    student, teacher, matches = (
        random_maps(SPECS, False),
        random_maps(SPECS, True, seed=1),
        matched(SPECS, random_targets()),
    )
    chosen = from_dict(KDConfig, {"kd_temperature": 3.0, "kd_classes": "softmax"})
    assert (chosen.hinton.temperature, chosen.hinton.classes) == (3.0, "softmax")
    found = chosen.mode("hinton")(student, teacher, matches)
    assert values(found) == values(hinton(student, teacher, matches, temperature=3.0, classes="softmax"))
    assert values(found) != values(MODES["hinton"](student, teacher, matches))


@pytest.mark.parametrize("name", MODES)
def test_the_list_of_modes_names_paper_need_and_weight(name: str) -> None:
    text, mode = describe_modes(), MODES[name]
    for each in (name, mode.paper, mode.needs, f"{mode.weight:g}"):
        assert each in text


def test_the_list_says_which_modes_are_slow() -> None:
    lines = describe_modes().splitlines()
    starts = {name: next(place for place, line in enumerate(lines) if line.startswith(f"{name} ")) for name in MODES}
    slow = {name for name, place in starts.items() if "slow" in "".join(lines[place + 2 : place + 3])}
    assert slow == {name for name, mode in MODES.items() if mode.cost > COSTLY} == {"mgd", "fgd"}


@pytest.mark.parametrize("name", MODES)
def test_returned_scalars_are_finite_and_named_after_the_mode(name: str) -> None:
    specs = specs_for(name)
    student, teacher = random_maps(specs, False), random_maps(specs, True, seed=1)
    terms = terms_of(name, student, teacher, matched(specs, random_targets()))
    assert all(value.dim() == 0 and math.isfinite(value.item()) for value in terms.values())
    losses = [term for term in terms if not term.startswith(METRIC)]
    assert losses
    assert all(term == name or term.startswith(name + "_") for term in losses)
    assert set(MODES[name].joins) <= set(losses)
    assert {MODES[name].gain(term) for term in losses} <= {"box", "cls"}, "heads of every family have these terms"


@pytest.mark.parametrize("name", MODES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    specs = specs_for(name)
    student, teacher = learning(random_maps(specs, False, 1)), random_maps(specs, True, 1, seed=1)
    matches = matched(specs, random_targets(1))
    if MODES[name].features:
        places = list(student.features)
        moved = [student.features[place] for place in places]
    else:  # of gap's factor, which the scores make, no gradient is wanted
        end = 4 if name == "gap" else specs[0].channels - specs[0].classes if MODES[name].distributions else None
        moved = [head[..., :end].detach().requires_grad_() for head in student.heads]

    def term(*tensors: torch.Tensor) -> torch.Tensor:
        if MODES[name].features:
            return losses_of(name, Outputs(student.heads, specs, dict(zip(places, tensors))), teacher, matches)
        heads = [torch.cat((t, h[..., t.shape[-1] :].detach()), dim=-1) for t, h in zip(tensors, student.heads)]
        return losses_of(name, Outputs(heads, specs), teacher, matches)

    assert torch.autograd.gradcheck(term, moved, fast_mode=True)


class Caller(torch.nn.Module):
    """A mode as a module of its adapter's parameters."""

    def __init__(self, mode: str, adapter: torch.nn.Module):
        super().__init__()
        self.mode, self.adapter = mode, adapter

    def forward(self, student: Outputs, teacher: Outputs, matches: Matches) -> torch.Tensor:
        torch.manual_seed(7)
        terms = MODES[self.mode](student, teacher, matches, PAIRS, self.adapter)
        return torch.stack(list(terms.values()))


@pytest.mark.parametrize("name", [name for name in FEATURES if MODES[name].adapter(PAIRS) is not None])
def test_gradients_of_the_adapter_are_those_of_finite_differences(name: str) -> None:
    student, teacher = random_maps(SPECS, False, 1), random_maps(SPECS, True, 1, seed=1)
    matches, adapter = matched(SPECS, random_targets(1)), adapter_of(name)
    assert adapter is not None
    caller = Caller(name, adapter)
    names, tensors = zip(*caller.named_parameters())

    def term(*parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(caller, dict(zip(names, parameters)), (student, teacher, matches))

    assert torch.autograd.gradcheck(term, tensors, fast_mode=True)


@pytest.mark.parametrize("name", MODES)
def test_the_batch_twice_changes_nothing(name: str) -> None:
    specs = specs_for(name)
    student, teacher, targets = random_maps(specs, False), random_maps(specs, True, seed=1), random_targets()
    once = values(terms_of(name, student, teacher, matched(specs, targets)))
    more = torch.cat([targets, targets + torch.tensor([2, 0, 0, 0, 0, 0])])
    assert values(terms_of(name, doubled(student), doubled(teacher), matched(specs, more))) == pytest.approx(
        once, rel=1e-6
    )


@pytest.mark.parametrize("name", RESPONSES)
def test_pictures_without_boxes_and_teacher_objectness_change_nothing(name: str) -> None:
    specs = specs_for(name)
    student, teacher, matches = random_outputs(specs), random_outputs(specs, seed=1), matched(specs, random_targets())
    blank, unseen = random_outputs(specs, 3, seed=2), random_outputs(specs, 3, seed=3)
    for head in blank.heads:
        head[..., 4 if specs[0].has_objectness else slice(-specs[0].classes, None)] = -800.0  # sigma is exactly 0
    more_student = Outputs([torch.cat([a, b]) for a, b in zip(student.heads, unseen.heads)], specs)
    more_teacher = Outputs([torch.cat([a, b]) for a, b in zip(teacher.heads, blank.heads)], specs)
    once = values(terms_of(name, student, teacher, matches))
    assert values(terms_of(name, more_student, more_teacher, matches)) == pytest.approx(once)


@pytest.mark.parametrize("name", FEATURES)
def test_a_larger_picture_with_as_dense_objects_pays_as_much(name: str) -> None:
    """A picture tiled from nine, and from thirty-six. Exact but for zero padding, which makes borders, and masks."""
    student, teacher, targets = random_maps(SPECS, False), random_maps(SPECS, True, seed=1), random_targets(each=3)

    def tiled(side: int) -> dict[str, float]:
        ours, theirs = (
            Outputs(
                [head.repeat(1, 1, side, side, 1) for head in outputs.heads],
                SPECS,
                {layer: each.repeat(1, 1, side, side) for layer, each in outputs.features.items()},
            )
            for outputs in (student, teacher)
        )
        moves = [[0, 0, 64 * x, 48 * y, 0, 0] for x in range(side) for y in range(side)]
        boxes = torch.cat([targets + targets.new_tensor(move) for move in moves])
        return values(terms_of(name, ours, theirs, assign(SPECS, [(6 * side, 8 * side), (3 * side, 4 * side)], boxes)))

    exact = name in ("fitnets", "attention", "cwd", "pkd", "aligned")
    assert tiled(6) == pytest.approx(tiled(3), rel=1e-6 if exact else 0.2)


@pytest.mark.parametrize("name", MODES)
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    specs = specs_for(name)
    student, teacher = learning(random_maps(specs, False)), learning(random_maps(specs, True, seed=1))
    losses_of(name, student, teacher, matched(specs, random_targets())).sum().backward()
    assert all(each.grad is None for each in (*teacher.heads, *teacher.features.values()))
    learners = student.features.values() if MODES[name].features else student.heads
    assert all(each.grad is not None and each.grad.any() for each in learners)


@pytest.mark.parametrize("name", MODES)
def test_batches_without_objects_are_finite(name: str) -> None:
    specs = specs_for(name)
    student, teacher = learning(random_maps(specs, False)), random_maps(specs, True, seed=1)
    losses = losses_of(name, student, teacher, matched(specs, torch.zeros(0, 6)))
    losses.sum().backward()
    learners = list(student.features.values() if MODES[name].features else student.heads)
    assert losses.isfinite().all()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learners)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("name", MODES)
def test_dead_and_exploded_students_keep_term_and_gradient_finite(name: str, value: float) -> None:
    specs = specs_for(name)
    student, teacher = random_maps(specs, False), random_maps(specs, True, seed=1)
    flat = Outputs(
        [torch.full_like(head, value).float() for head in student.heads],
        specs,
        {layer: torch.full_like(each, value).float() for layer, each in student.features.items()},
    )
    teacher = Outputs(
        [head.float() for head in teacher.heads], specs, {n: each.float() for n, each in teacher.features.items()}
    )
    flat = learning(flat)
    losses = losses_of(name, flat, teacher, matched(specs, random_targets()))
    losses.sum().backward()
    learners = list(flat.features.values() if MODES[name].features else flat.heads)
    assert losses.isfinite().all()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learners)


@pytest.mark.parametrize("name", MODES)
def test_every_mode_trains_a_student_with_heads_without_anchors(name: str) -> None:
    """One-to-one heads included, whose sides are plain numbers."""
    text = nets.dual(2, bins=4 if MODES[name].distributions else 1)
    fat, student = (free_network(text, seed) for seed in (1, 0))
    if name == "aligned":
        student.lineage = [identity_lineage(fat, "baseline")]
    objective = KDObjective(student, Teacher(fat, student), kd=KDConfig(kd=f"{name}:1")).train()
    terms = objective(batch_of(), 0.5)
    joined = [term for term in terms.values if term.startswith(name)]
    assert joined
    torch.stack([terms.values[term] for term in joined]).sum().backward()
    grads = [parameter.grad for parameter in objective.parameters()]
    assert any(grad is not None and grad.any() for grad in grads)
    assert all(grad is None or grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [(1, 1, r"over \[1, 1\]"), (4, 5, r"over \[4, 4\] distances, the teacher's over \[5, 5\]")],
)
def test_ld_between_unlike_distributions_is_refused(student: int, teacher: int, said: str) -> None:
    thin, fat = (free_network(nets.detect(2, bins)) for bins in (student, teacher))
    with pytest.raises(UserError, match=said):
        KDObjective(thin, Teacher(fat, thin), kd=KDConfig(kd="ld"))


@pytest.mark.parametrize("name", MODES)
def test_every_mode_trains_a_student_under_the_objective(name: str) -> None:
    student, fat = networks_for(name)
    objective = KDObjective(student, Teacher(fat, student), kd=KDConfig(kd=f"{name}:1"))
    objective.train()
    terms = objective(batch_of(), 0.5)
    joined = {term: terms.weights[term] for term in terms.values if term.startswith(name)}
    gains = objective.detection.weights
    assert joined == {term: pytest.approx(gains[MODES[name].gain(term)]) for term in joined}
    torch.stack([terms.values[term] for term in joined]).sum().backward()
    grads = [parameter.grad for parameter in objective.parameters()]
    assert any(grad is not None and grad.any() for grad in grads)
    assert all(grad is None or grad.isfinite().all() for grad in grads)
    if MODES[name].adapter(PAIRS) is not None:
        assert any(each.grad is not None and each.grad.any() for each in objective.adapters.parameters())


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"kd": "hinton", "kd_classes": "softmax"}, "single class is always 1"),
        ({"kd": "hinton", "kd_temperature": 0.0}, "temperature 0.0 is not above 0"),
        ({"kd": "scaled", "kd_scaled_window": 2}, "window 2 is not odd"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_first_step(chosen: dict, named: str) -> None:
    student = tiny_network(8, classes=1)
    with pytest.raises(UserError, match=named):
        KDObjective(student, Teacher(tiny_network(8, classes=1, seed=1), student), kd=from_dict(KDConfig, chosen))
