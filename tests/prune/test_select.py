"""What goes and what is held back: ties, floors, equal slices, rounding, budgets."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.cost import Cost
from prune.importance import gamma
from prune.select import Selector
from tests.alive import alive
from tests.nets import TINY

EVERY = [pytest.param(name, id=name) for name in TINY]


def network(name: str, seed: int = 0) -> models.Network:
    return alive(models.Network(parse_cfg(TINY[name])), seed=seed)


def set_gammas(net: models.Network, values: dict[int, float]) -> None:
    for number, value in values.items():
        torch.nn.init.constant_(net.convolutions[number].bn.weight, value)


def test_a_tied_channel_goes_only_if_every_member_lets_it_go() -> None:
    net = network("residual")
    with torch.no_grad():
        for number in (1, 3, 6):
            net.convolutions[number].bn.weight[:] = 1
            net.convolutions[number].bn.weight[2] = 1e-4
        net.convolutions[3].bn.weight[5] = 1e-4
    result = prune.channels(net, threshold=1e-3)
    rows = result.network.lineage[-1]["layers"]
    for number in (1, 3, 6):
        assert rows[str(number)]["kept"] == [k for k in range(12) if k != 2]
    assert result.report.tied == 1


def test_a_carried_gamma_votes_too() -> None:
    net = network("gated")
    with torch.no_grad():
        net.convolutions[8].bn.weight[:2] = 1e-4
        net.convolutions[9].bn.weight[1] = 1e-4
    result = prune.channels(net, threshold=1e-3)
    rows = result.network.lineage[-1]["layers"]
    assert rows["8"]["kept"] == rows["9"]["kept"] == [k for k in range(24) if k != 1]
    assert result.report.carried == 1
    assert result.network.convolutions[9].conv.groups == 23


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_equal_gammas_neither_crash_nor_empty_a_layer(name: str, ratio: float) -> None:
    net = models.Network(parse_cfg(TINY[name]))
    result = prune.channels(net, ratio=ratio)
    assert min(after for _, after in result.report.layers.values()) >= 1
    assert result.report.removed > 0
    result.network(torch.zeros(1, 3, 64, 64))


def test_ratio_0_removes_nothing() -> None:
    assert prune.channels(network("residual"), ratio=0.0).report.removed == 0


@pytest.mark.parametrize("layer_keep,wanted", [(0.5, lambda width: -(-width // 2)), (3, lambda width: min(3, width)),
                                               (0.0, lambda width: 1)])
def test_the_floor_per_layer_is_a_share_or_a_count(layer_keep: float, wanted) -> None:
    report = prune.channels(network("residual"), ratio=1.0, layer_keep=layer_keep).report
    assert all(after >= wanted(before) for before, after in report.layers.values())
    assert report.layers[8][1] == wanted(16)
    assert report.floored > 0


@pytest.mark.parametrize("name", ["csp", "gated"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_slices_keep_equally_many(name: str, seed: int) -> None:
    net = network(name, seed)
    graph = prune.trace(net)
    selector = Selector(graph, gamma(net, graph))
    held = 0
    for ratio in (0.2, 0.5, 0.8):
        chosen = selector.settle(selector.cut_at_ratio(ratio))
        held += chosen.equalised
        for constraint in graph.constraints:
            assert len({int(chosen.keep[part].sum()) for part in constraint.slices}) == 1
    assert held > 0


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("round_to", [4, 8])
def test_survivors_are_rounded_up_to_a_multiple_or_the_whole_layer(name: str, round_to: int) -> None:
    net = network(name)
    coarse, fine = (prune.channels(net, ratio=0.6, round_to=r).report for r in (round_to, 1))
    for layer, (before, after) in coarse.layers.items():
        assert after % round_to == 0 or after == before
        assert after >= fine.layers[layer][1]
    assert coarse.rounded > 0


@pytest.mark.parametrize("name", EVERY)
def test_analytic_costs_equal_those_of_the_network_that_is_built(name: str) -> None:
    result = prune.channels(network(name), ratio=0.5)
    thin, report = result.network, result.report
    assert report.params[1] == models.parameters(thin)
    assert report.macs[1] == models.macs(thin)
    assert report.channels[1] == sum(layer.out_channels for layer in thin.convolutions.values())


@pytest.mark.parametrize("budget", ["channels=0.7", "params=0.4", "flops=0.5"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_a_budget_is_met_after_rounding_and_never_exceeded(budget: str, round_to: int) -> None:
    net = network("residual")
    report = prune.channels(net, budget=budget, round_to=round_to).report
    what, share = budget.split("=")
    before, after = {"channels": report.channels, "params": report.params, "flops": report.macs}[what]
    assert after / before <= float(share)
    if round_to == 1:  # one group of tied channels is the coarsest step of this network
        assert after / before > float(share) - 0.06


def test_an_unreachable_budget_names_what_binds() -> None:
    with pytest.raises(UserError, match=r"params=0.01 cannot be reached.*\n.*floor"):
        prune.channels(network("residual"), budget="params=0.01", layer_keep=0.9)


@pytest.mark.parametrize("wrong,named", [
    ({"budget": "weight=0.5"}, "weight=0.5"), ({"budget": "params=2"}, "params=2"), ({"ratio": 1.5}, "ratio=1.5"),
    ({}, "none of budget"), ({"ratio": 0.5, "budget": "params=0.5"}, "budget and ratio"),
    ({"ratio": 0.5, "strategy": "all"}, "'all'"), ({"ratio": 0.5, "criterion": "luck"}, "'luck'"),
    ({"ratio": 0.5, "exclude": ["layers.99"]}, "layers.99"),
])  # fmt: skip
def test_a_wrong_option_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        prune.channels(network("residual"), **wrong)


def test_excluded_layers_stay_whole() -> None:
    report = prune.channels(network("residual"), ratio=0.9, exclude=["layers.8", "layers.1?.conv"]).report
    assert report.layers[8] == (16, 16)
    assert report.layers[13] == (16, 16)
    assert report.layers[0][1] < report.layers[0][0]


def test_the_network_handed_in_is_not_touched() -> None:
    net = network("csp")
    text, state = net.cfg.text(), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    prune.prune(net, ratio=0.5)
    assert net.cfg.text() == text
    assert net.lineage == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_lineage_composes_over_rounds() -> None:
    net = network("residual")
    first = prune.channels(net, ratio=0.3, fold=False, kind="sparse").network
    second = prune.prune(first, shortcuts=1, ratio=0.3, fold=False, kind="pruned").network
    oldest, youngest = second.lineage
    assert (oldest["sha256"], youngest["sha256"]) == (models.fingerprint(net), models.fingerprint(first))
    for entry, ancestor in ((oldest, net), (youngest, first)):
        for number, row in entry["layers"].items():
            bn, old = second.convolutions[int(number)].bn, ancestor.convolutions[row["layer"]].bn
            if bn is not None:
                assert torch.equal(bn.weight, old.weight[row["kept"]])


def test_the_cost_of_a_candidate_takes_milliseconds() -> None:
    with torch.device("meta"):
        net = models.Network(models.read_cfg(models.cfg_path("yolov3")))
    graph = prune.trace(net)
    cost, keep = Cost(net, graph), np.ones(len(graph.root), bool)
    best = min(_seconds(lambda: (cost.parameters(keep), cost.macs(keep))) for _ in range(10))
    assert best < 0.005


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
