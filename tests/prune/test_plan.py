"""The plan of a cut: what it refuses, what follows from it, and that it is the same by name and as an object."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import models
import prune
from common.errors import UserError
from common.options import options as flat_options
from pipeline.prune_options import PruneConfig
from prune.budgets import COMPUTED, Budget, parse_budget
from prune.importance import score
from prune.plan import PLANNED, CutPlan
from tests.alive import alive
from tests.nets import TINY

ROOT = Path(__file__).resolve().parents[2]


def network() -> models.Network:
    return alive(models.Network(models.parse_cfg(TINY["residual"])))


def test_options_by_name_and_a_plan_cut_the_same() -> None:
    net = network()
    plan = CutPlan(budget="params=0.5", criterion="l1", shortcuts=1, exclude=("0",))
    as_object = prune.prune(net, plan)
    by_name = prune.prune(net, budget="params=0.5", criterion="l1", shortcuts=1, exclude="0")
    changed = prune.prune(net, replace(plan, criterion="gamma"), criterion="l1")
    for other in (by_name, changed):
        assert models.fingerprint(other.network) == models.fingerprint(as_object.network)
        assert other.report.asked == as_object.report.asked


@pytest.mark.parametrize(
    ("given", "said", "todo"),
    [
        ({"budget": "params=0.5", "roundto": 8}, "roundto=8", "did you mean round_to"),
        ({"ratio": 0.5, "qqq": 1}, "qqq=1", "there are strategy, criterion"),
        ({"strategy": "shared"}, "none of budget", "give exactly one"),
        ({"ratio": 0.5, "rounds": 2}, "rounds=2", "budget="),
        ({"budget": "params=0.5", "rounds": 2}, "rounds=2", "plan.round"),
        ({"max_drop": 0.1}, "max_drop=0.1", "prune.max_drop"),
        ({"budget": "latency=0.5"}, "latency has to be measured", "cost="),
        ({"plan": "union", "ratio": 0.5}, "'union' is no CutPlan", "strategy='union'"),
    ],
)
def test_what_is_no_cut_is_refused(given: dict, said: str, todo: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prune.prune(network(), **given)
    assert todo in str(caught.value.todo)


def test_rounds_reach_the_budget_by_equal_factors_and_share_out_the_blocks() -> None:
    plan = CutPlan(budget="flops=0.25", shortcuts=5, rounds=2, criterion="l2")
    first, second = plan.round(1), plan.round(2, left=0.5)
    assert [parse_budget(each.budget or "")[1] for each in (first, second)] == [0.5, 0.5]
    assert (first.shortcuts, second.shortcuts) == (2, 3)
    assert {first.rounds, second.rounds} == {1}
    assert first.criterion == "l2"
    assert plan.round(2, left=0.2).budget == "flops=1.0", "what is below the budget already stays as it is"
    assert replace(plan, shortcuts="auto").round(1).shortcuts == "auto"
    single = replace(plan, rounds=1)
    assert single.round(1) is single


def test_a_rehearsal_needs_neither_pictures_nor_a_clock() -> None:
    for plan in (CutPlan(budget="latency=0.3", criterion="taylor"), CutPlan(max_drop=0.01, criterion="taylor")):
        assert plan.measured
        tried = plan.rehearsal(ratio=0.6)
        assert (tried.ratio, tried.budget, tried.max_drop, tried.criterion) == (0.6, None, None, "l1")
        assert plan.rehearsal(criterion="gamma").criterion == "gamma"
    known = CutPlan(budget="params=0.3", criterion="random", seed=3)
    assert known.rehearsal(ratio=0.6, criterion="gamma") == known


@pytest.mark.parametrize("name", [name for name, each in prune.CRITERIA.items() if each.needs == "losses"])
def test_what_rehearses_a_criterion_scores_the_same_layers(name: str) -> None:
    for tiny in TINY.values():
        net = alive(models.Network(models.parse_cfg(tiny)))
        graph = prune.trace(net)

        def losses(candidate: torch.nn.Module) -> list[torch.Tensor]:
            return [sum(head.square().mean() for head in candidate(torch.zeros(1, 3, 64, 64)))]

        own, other = score(name, net, graph, losses=losses), score(prune.CRITERIA[name].rehearsal, net, graph)
        assert own.keys() == {graph.convs[module].norm or module for module in other}


def test_every_record_has_its_functions() -> None:
    for criterion in prune.CRITERIA.values():
        assert callable(criterion.load())
        assert criterion.needs != "losses" or not prune.CRITERIA[criterion.rehearsal].needs
    for budget in prune.BUDGETS.values():
        assert (budget.cost is None) == (budget.price is None) == budget.measured
    assert set(COMPUTED) < set(prune.BUDGETS)


def test_a_new_kind_of_budget_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the channels: nothing but the record knows of it."""
    doubled = Budget(
        "doubled",
        "twice the output channels",
        lambda table, keep: 2 * table.channels(keep),
        lambda table: 2 * table.channel_price(),
    )
    monkeypatch.setitem(prune.BUDGETS, "doubled", doubled)
    net = network()
    report = prune.channels(net, budget="doubled=0.6").report
    assert report.channels == prune.channels(net, budget="channels=0.6").report.channels
    assert doubled.of(net, (64, 64)) == 2 * report.channels[0]
    assert prune.AutoSparsity(net, budget="doubled=0.6").goal == "40% of the doubled"


def test_flags_and_python_have_one_list_of_defaults() -> None:
    flags, plan = flat_options(PruneConfig), CutPlan()
    assert {"criterion", "strategy", "layer_keep", "round_to", "include", "exclude", "fold", "rounds"} == set(PLANNED)
    assert PruneConfig().plan.round_to == plan.round_to
    for name in set(PLANNED) - {"round_to"}:  # whose flag leaves it to --deploy-to
        assert flags[name].default == getattr(plan, name)
        assert flags[name].metadata["help"] == CutPlan.__dataclass_fields__[name].metadata["help"]
        assert flags[name].metadata["group"] == "pruning"
    assert CutPlan().layer_keep == 0.05


def test_what_options_read_of_pruning_imports_nothing_heavy() -> None:
    code = "import sys, prune.plan, prune.schedules; print({'torch', 'numpy', 'cv2'} & sys.modules.keys() or 'light')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


@pytest.mark.parametrize(
    "given",
    [
        {"budget": 0.5},
        {"shortcuts": 1.5},
        {"shortcuts": True},
        {"ratio": "half"},
        {"round_to": 2.0},
        {"threshold": [1]},
        {"layer_keep": None},
        {"include": 3},
        {"size": 416},
    ],
)
def test_what_a_program_hands_over_is_checked_by_type(given: dict[str, object]) -> None:
    (name, value), *_ = given.items()
    with pytest.raises(UserError, match=re.escape(f"{name}={value!r} is not ")):
        CutPlan(**given)  # type: ignore[arg-type]
