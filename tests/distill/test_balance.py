"""Weights that follow the gradients, and terms that cannot teach."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from common.log import log
from distill import MODES, KDConfig, KDObjective, Mode, Teacher
from distill.balance import EVERY, LARGEST, Balance
from distill.watch import PATIENCE, Watch
from engine.seams import Terms
from models.spec import Matches, Outputs
from tests.distill.material import networks_for, tiny_network
from tests.distill.test_objective import batch_of


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield said
    log.removeHandler(handler)


def alone(value: Tensor) -> Tensor:
    return value


def gradient(loss: Tensor, parameters: list[nn.Parameter]) -> float:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(each.square().sum()) for each in found if each is not None))


def test_scale_brings_each_modes_gradient_to_its_share() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    detection, small, large = (weight * 3).sum(), (weight * 0.01).sum(), (weight.square() * 8).sum()
    balance = Balance(["small", "large"], 0.3, alone)
    balance.begin_step()
    assert balance.due
    balance.measure(detection, {"small": small, "large": large}, [weight])
    assert not balance.due, "one batch of a step is enough"
    for mode, loss in (("small", small), ("large", large)):
        assert balance.scale(mode) * gradient(loss, [weight]) == pytest.approx(0.3 * gradient(detection, [weight]))


def test_limit_holds_a_strong_mode_at_its_share_and_leaves_a_weak_one() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    detection, weak, strong = (weight * 3).sum(), (weight * 0.5).sum(), (weight.square() * 8).sum()
    limit = Balance(["weak", "strong"], 0.5, alone, limit=True)
    limit.measure(detection, {"weak": weak, "strong": strong}, [weight])
    most = 0.5 * gradient(detection, [weight])
    for times in (0.5, 1.0, 2.0):
        assert limit.scale("weak", times) == 1
        assert limit.scale("strong", times) * times * gradient(strong, [weight]) == pytest.approx(most)
    assert limit.scale("weak", 6) * 6 * gradient(weak, [weight]) == pytest.approx(most), "a large weight is no way out"
    assert limit.scale("strong", 0) == 1
    assert limit.scale("unmeasured", 2) == 1


@pytest.mark.parametrize("options", [{}, {"kd_limit": 0.05}, {"kd_limit": 0.0}, {"kd_balance": 0.3, "kd_limit": 0.05}])
def test_no_mode_of_an_objective_pulls_harder_than_the_limit(options: dict) -> None:
    objective, batch = objective_of("scaled,bounded:2", **options), batch_of()
    objective.begin_step([batch])
    terms = objective(batch, 0.5)
    parameters = list(objective.network.parameters())
    detection = gradient(terms.total(["box", "obj", "cls"]), parameters)
    free = Terms(terms.values, objective_weights("scaled,bounded:2"))
    for names in (["bounded"], ["scaled_obj", "scaled_cls", "scaled_box"]):
        pull, unbound = (gradient(each.total(names), parameters) for each in (terms, free))
        if "kd_balance" in options:
            assert pull == pytest.approx(0.3 * detection * (4 if names == ["bounded"] else 1), rel=1e-4)
        elif (limit := options.get("kd_limit", 0.5)) and unbound > limit * detection:
            assert pull == pytest.approx(limit * detection, rel=1e-4)
        else:
            assert pull == pytest.approx(unbound, rel=1e-4)


def objective_weights(kd: str) -> dict[str, float]:
    """Names of terms -> weights where nothing limits or balances them."""
    return dict(objective_of(kd, kd_limit=0.0)(batch_of(), 0.5).weights)


def test_balance_measures_rarely_smooths_and_ignores_a_shut_gate() -> None:
    weight = nn.Parameter(torch.tensor(1.0))
    balance = Balance(["mode"], 1.0, alone)
    due = []
    for _ in range(2 * EVERY):
        balance.begin_step()
        due.append(balance.due)
    assert [step for step, now in enumerate(due) if now] == [0, EVERY]
    balance.measure(weight * 1.0, {"mode": weight * 0.0}, [weight])
    balance.measure(weight * 1.0, {"mode": torch.tensor(5.0)}, [weight])
    assert balance.scale("mode") == 1, "without a gradient there is nothing to compare"
    balance.measure(weight * 1.0, {"mode": weight * 1.0}, [weight])
    balance.measure(weight * 1.0, {"mode": weight * 0.1}, [weight])
    assert 1 < balance.scale("mode") < 10
    fresh = Balance(["mode"], 1.0, alone)
    fresh.measure(weight * 1.0, {"mode": weight * 1e-9}, [weight])
    assert fresh.scale("mode") == pytest.approx(LARGEST)


def objective_of(kd: str, **options: object) -> KDObjective:
    student = tiny_network(8)
    return KDObjective(student, Teacher(tiny_network(16, seed=1), student), kd=KDConfig(kd=kd, **options))  # type: ignore[arg-type]


def test_balanced_objective_has_the_asked_gradients_and_twice_the_weight_gives_twice() -> None:
    for text, share in (("bounded", 0.3), ("bounded:1.0", 0.6)):
        objective, batch = objective_of(text, kd_balance=0.3), batch_of()
        objective.begin_step([batch])
        terms = objective(batch, 0.5)
        parameters = list(objective.network.parameters())
        wanted = share * gradient(terms.total(["box", "obj", "cls"]), parameters)
        assert gradient(terms.total(["bounded"]), parameters) == pytest.approx(wanted, rel=1e-4)


def test_balance_and_watch_are_resumed() -> None:
    objective, batch = objective_of("hinton,bounded", kd_balance=0.3), batch_of()
    for _ in range(3):
        objective.begin_step([batch])
        objective(batch, 0.5)
    objective.watch.reported = {("bounded", "constant"), ("never_finite", "not finite")}
    resumed = objective_of("hinton,bounded", kd_balance=0.3)
    resumed.load_state_dict(objective.state_dict())
    weights = []
    for each in (objective, resumed):
        each.begin_step([batch])
        weights.append(each(batch, 0.5).weights)
    assert weights[0] == weights[1]
    assert resumed.balance is not None
    assert resumed.balance.steps == 4
    assert resumed.watch.reported == objective.watch.reported
    assert resumed.state_dict().keys() == objective.state_dict().keys()
    for name, value in objective.state_dict().items():  # a term that was never finite has no last value: NaN
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


def test_measuring_does_not_change_the_gradients_of_the_step() -> None:
    found = []
    for share in (0.0, 1.0):
        objective, batch = objective_of("bounded", kd_balance=share), batch_of()
        objective.begin_step([batch])
        values = objective(batch, 0.5).values
        torch.stack([values[name] for name in ("box", "obj", "cls", "bounded")]).sum().backward()
        found.append([parameter.grad for parameter in objective.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found))


def test_terms_are_off_at_the_end_and_the_teacher_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = objective_of("hinton,bounded", kd_off=0.25), batch_of()
    assert "bounded" in objective(batch, 0.74).values
    monkeypatch.setattr(Teacher, "__call__", lambda *_: pytest.fail("asked"))
    terms = objective(batch, 0.75)
    assert set(terms.values) == {"box", "obj", "cls"}
    assert terms.metrics == {}


def use_mode(name: str, loss: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `loss` known as a mode that looks at the heads."""

    class Odd(Mode):
        paper, needs, weight = "a test", "nothing", 1.0

        def load(self) -> Callable[..., dict[str, Tensor]]:
            return loss

    monkeypatch.setitem(MODES, name, Odd())
    monkeypatch.setattr(KDConfig, name, Odd(), raising=False)


def check_of(value: Tensor, reached: list[Tensor], watch: Watch | None = None) -> tuple[set[str], set[str]]:
    return (watch or Watch()).check({"odd": value}, {"odd": "mode"}, reached)


def test_term_that_is_not_finite_is_named_once_and_left_out(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    def odd(student: Outputs, teacher: Outputs, matches: Matches) -> dict[str, Tensor]:
        return {"odd": student.heads[0].mean() / 0.0, "metric/oddness": torch.tensor(torch.nan)}

    use_mode("odd", odd, monkeypatch)
    objective, plain = objective_of("odd,bounded"), objective_of("bounded")
    plain.network.load_state_dict(copy.deepcopy(objective.network.state_dict()))
    for each in (objective, plain):
        for _ in range(2):
            terms = each(batch_of(), 0.5)
        terms.total().backward()
        assert all(bool(value.isfinite()) for value in terms.metrics.values()), "the trainer refuses what is not finite"
        assert terms.metrics["gate_rate"] > 0
    said = [text for text in warnings if "'odd'" in text]
    assert len(said) == 1
    assert "--kd odd:W" in said[0]
    for mine, theirs in zip(objective.parameters(), plain.parameters()):
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]


def test_term_without_gradient_is_named_and_left_out(warnings: list[str]) -> None:
    head = torch.rand(3, requires_grad=True)
    other = torch.rand(3, requires_grad=True)
    assert check_of(head.detach().sum(), [head]) == ({"odd"}, set())
    assert check_of(other.sum(), [head]) == ({"odd"}, set()), "it trains an adapter, not the student"
    assert check_of((other * head).sum(), [head]) == (set(), set())
    assert sum("no gradient to the student" in text for text in warnings) == 2


def test_constant_term_has_no_weight_until_it_moves(warnings: list[str]) -> None:
    watch, head = Watch(), torch.ones(3, requires_grad=True)
    stuck = [check_of(head.sum(), [head], watch)[1] for _ in range(PATIENCE + 2)]
    assert stuck == [set()] * (PATIENCE - 1) + [{"odd"}] * 3
    assert sum("exactly 3" in text for text in warnings) == 1
    assert check_of(2 * head.sum(), [head], watch)[1] == set()
    resumed = Watch()
    resumed.load_state_dict(watch.state_dict())
    assert [check_of(2 * head.sum(), [head], resumed)[1] for _ in range(PATIENCE)][-2:] == [{"odd"}] * 2


@pytest.mark.parametrize("name", sorted(set(MODES) - {"aligned"}))  # that one needs a lineage
def test_terms_stay_connected_in_a_batch_without_objects(name: str, warnings: list[str]) -> None:
    """Else every such batch would be reported, and under DDP the processes would wait for each other."""
    (student, fat), batch = networks_for(name), batch_of()
    objective = KDObjective(student, Teacher(fat, student), kd=KDConfig(kd=name))
    objective.train()
    terms = objective(type(batch)(batch.images, batch.targets[:0], batch.indices), 0.5)
    assert warnings == []
    assert all(torch.isfinite(value) for value in terms.values.values())
