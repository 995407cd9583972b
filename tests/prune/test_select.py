"""What goes and what is held back: ties, floors, equal slices, rounding, budgets."""

from __future__ import annotations

import json

import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.importance import gamma
from prune.select import Selector
from tests.alive import alive, noise
from tests.nets import TINY
from tests.prune.reference import TOLERANCE, distance, multiplied_by_zero

EVERY = [pytest.param(name, id=name) for name in TINY]


def network(name: str, seed: int = 0) -> models.Network:
    return alive(models.Network(parse_cfg(TINY[name])), seed=seed)


def set_gammas(net: models.Network, values: dict[int, float]) -> None:
    for number, value in values.items():
        torch.nn.init.constant_(net.convolutions[number].bn.weight, value)


def test_a_cut_to_throw_away_is_the_same_network_without_its_costly_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("residual")
    kept = prune.prune(net, shortcuts=1, budget="params=0.5").network
    monkeypatch.setattr("prune.candidates.descend", lambda *_: pytest.fail("the uncut network was hashed"))
    thrown = prune.thin(net, shortcuts=1, budget="params=0.5")
    assert thrown.lineage == []
    assert all(torch.equal(tensor, thrown.state_dict()[name]) for name, tensor in kept.state_dict().items())
    assert len(prune.thin(net, shortcuts=1).layers) < len(net.layers)


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


@pytest.mark.parametrize(
    "layer_keep,wanted", [(0.5, lambda width: -(-width // 2)), (3, lambda width: min(3, width)), (0.0, lambda width: 1)]
)
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


@pytest.mark.parametrize(
    "options,named",
    [
        ({"layer_keep": 0.9}, r"the floor per layer layer_keep=0.9, first at layers\.\d+\.conv.*without that 0\.\d+"),
        ({"round_to": 8}, "rounding to round_to=8.*without that"),
        ({"strategy": "conservative"}, "strategy=conservative"),
        ({"layer_keep": 1}, r"one channel a layer and what is fixed \(48 head outputs\)"),
        (
            {"exclude": "0-7", "layer_keep": 0.5},
            r"which is not enough: .* \(\d+ by include and exclude, 48 head outputs\)",
        ),
    ],
)
def test_an_unreachable_budget_names_what_binds(options: dict, named: str) -> None:
    with pytest.raises(UserError, match=r"params=0.01 cannot be reached: .* leaves 0\.\d+\n.*" + named):
        prune.channels(network("residual"), budget="params=0.01", **options)


@pytest.mark.parametrize(
    "wrong,named",
    [
        ({"budget": "weight=0.5"}, "weight=0.5"),
        ({"budget": "params=2"}, "params=2"),
        ({"ratio": 1.5}, "ratio=1.5"),
        ({}, "none of budget"),
        ({"ratio": 0.5, "budget": "params=0.5"}, "budget and ratio"),
        ({"ratio": 0.5, "strategy": "all"}, "'all'"),
        ({"ratio": 0.5, "criterion": "luck"}, "'luck'"),
        ({"ratio": 0.5, "exclude": ["layers.99"]}, "layers.99"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        prune.channels(network("residual"), **wrong)


def test_every_strategy_decides_about_a_tie_as_it_says() -> None:
    net = network("residual")  # layers 1, 3 and 6 are one tie
    with torch.no_grad():
        for number, weak in ((1, [0, 1, 2]), (3, [1, 2, 3]), (6, [2, 3, 4]), (2, [0])):
            net.convolutions[number].bn.weight[:] = 1
            net.convolutions[number].bn.weight[weak] = 1e-4
    gone = {"union": {2}, "shared": {0, 1, 2}, "conservative": set()}
    held = {"union": 2 + 2 + 2, "shared": 0 + 1 + 2, "conservative": 9}
    for strategy in prune.STRATEGIES:
        result = prune.channels(net, strategy=strategy, threshold=1e-3)
        rows = result.network.lineage[-1]["layers"]
        for number in (1, 3, 6):
            assert set(range(12)) - set(rows[str(number)]["kept"]) == gone[strategy], (strategy, number)
        assert rows["2"]["kept"] == [1, 2, 3, 4, 5]
        assert result.report.tied == held[strategy], strategy
        assert result.report.overruled == (3 if strategy == "shared" else 0)
        assert result.report.wanted == 10


def test_what_is_only_carried_follows_its_producer_unless_all_have_a_vote() -> None:
    net = network("gated")  # 8 -> depthwise 9; 1 -> depthwise 2 -> gate
    with torch.no_grad():
        for producer, carrier in ((8, 9), (1, 2)):
            net.convolutions[producer].bn.weight[:3] = 1e-4
            net.convolutions[carrier].bn.weight[1:4] = 1e-4
    gone = {"union": {1, 2}, "shared": {0, 1, 2}, "conservative": {0, 1, 2}}
    for strategy in prune.STRATEGIES:
        result = prune.channels(net, strategy=strategy, threshold=1e-3)
        rows = result.network.lineage[-1]["layers"]
        for number, width in ((8, 24), (9, 24), (1, 16), (2, 16), (5, 16)):
            assert set(range(width)) - set(rows[str(number)]["kept"]) == gone[strategy], (strategy, number)
        assert result.report.tied == 0
        assert result.report.carried == (2 * (1 + 1) if strategy == "union" else 2 * 1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("strategy", ["shared", "conservative"])
def test_what_a_strategy_cuts_equals_the_fat_network_without_it(name: str, strategy: str) -> None:
    net = alive(models.Network(parse_cfg(TINY[name])), dtype=torch.float64)
    result = prune.channels(net, strategy=strategy, ratio=0.6, fold=False)
    assert result.report.removed > 0
    images = noise(net, (64, 64), torch.Generator().manual_seed(3))
    assert distance(result.network, multiplied_by_zero(net, result.network), images) < TOLERANCE


def test_the_ratio_is_of_the_scores_that_decide() -> None:
    net = network("residual")
    graph = prune.trace(net)
    for strategy, tied_layers in (("union", 3), ("shared", 1), ("conservative", 0)):
        selector = Selector(graph, gamma(net, graph), strategy=strategy)
        tied = {f"layers.{number}.bn" for number in (1, 3, 6, 8, 10)}
        free = sum(len(ids) for name, ids in graph.norms.items() if name not in tied)
        assert len(selector.participating) == free + tied_layers * 12 + min(tied_layers, 2) * 16
        cut = selector.cut_at_ratio(0.25)
        assert int((selector.participating < cut).sum()) == round(0.25 * len(selector.participating))


def test_excluded_layers_stay_whole() -> None:
    report = prune.channels(network("residual"), ratio=0.9, exclude=["layers.8", "layers.1?.conv"]).report
    assert report.layers[8] == (16, 16)
    assert report.layers[13] == (16, 16)
    assert report.layers[0][1] < report.layers[0][0]


@pytest.mark.parametrize(
    "patterns,layers",
    [
        ("8", {8}),
        ("12-14", {12, 13, 14}),
        (["layers.1?"], {10, 12, 13, 14, 15, 18}),
        ("9,layers.2.*", {2, 9}),
        (["layers.*.bn", "3"], None),
        ("99", None),
        ("40-50", None),
    ],
)
def test_layers_are_named_by_number_range_or_glob(patterns, layers: set[int] | None) -> None:
    net = network("residual")
    if layers is None:
        with pytest.raises(UserError, match="matches no convolution"):
            prune.channels(net, ratio=0.9, include=patterns)
        return
    most = prune.channels(net, ratio=0.9, exclude=patterns).report.layers
    thinned = {layer for layer, (before, after) in most.items() if after < before}
    tied = {number for tie in ({1, 3, 6}, {8, 10}) if tie & layers for number in tie}
    assert thinned == set(net.convolutions) - set(net.head_convolutions) - layers - tied
    only = prune.channels(net, ratio=0.9, include=patterns).report.layers
    assert {layer for layer, (before, after) in only.items() if after < before} == {
        layer for layer in layers - set(net.head_convolutions) if not any(layer in tie for tie in ({1, 3, 6}, {8, 10}))
    }


def test_exclude_is_stronger_than_include_and_names_layers_of_the_uncut_network() -> None:
    net = network("residual")
    report = prune.prune(net, shortcuts=1, ratio=0.9, include="5-7,12-23", exclude="14").report
    assert list(report.removed_blocks) == [7]  # the only one all of whose layers are included
    assert report.layers[14] == (24, 24)
    assert report.layers[13][1] < 16
    assert report.layers[6] == (12, 0)
    rest = [widths for layer, widths in report.layers.items() if layer < 12 and layer not in (5, 6)]
    assert all(before == after for before, after in rest)


def test_a_block_with_an_excluded_layer_is_not_removed() -> None:
    net = network("residual")
    torch.nn.init.constant_(net.convolutions[6].bn.weight, 1e-3)
    assert list(prune.prune(net, shortcuts=1, ratio=0.1).report.removed_blocks) == [7]
    report = prune.prune(net, shortcuts=1, ratio=0.1, exclude="5").report
    assert 7 not in report.removed_blocks
    assert report.kept_blocks[7] == "holds an excluded layer"
    with pytest.raises(UserError, match="2 of 3 can be"):
        prune.prune(net, shortcuts=3, ratio=0.1, exclude="5")


def test_blocks_and_channels_compete_for_one_budget_by_one_threshold() -> None:
    net = network("residual")
    torch.nn.init.constant_(net.convolutions[6].bn.weight, 0.01)
    torch.nn.init.constant_(net.convolutions[10].bn.weight, 5.0)
    with torch.no_grad():
        net.convolutions[5].bn.weight[:] = 3.0  # the removed block's other channels do not matter
    for what in ("channels", "params", "flops"):
        report = prune.prune(net, shortcuts="auto", budget=f"{what}=0.8").report
        before, after = {"channels": report.channels, "params": report.params, "flops": report.macs}[what]
        assert 0.7 < after / before <= 0.8
        assert list(report.removed_blocks) == [7]
        assert set(report.kept_blocks) == {4, 11}
    light = prune.prune(net, shortcuts="auto", budget="params=1.0").report
    assert light.removed_blocks == {}
    assert light.removed == 0
    deep = prune.prune(net, shortcuts="auto", threshold=4.9).report
    assert sorted(deep.removed_blocks) == [4, 7]


def test_among_equal_scores_channels_go_before_blocks() -> None:
    net = models.Network(parse_cfg(TINY["residual"]))
    report = prune.prune(net, shortcuts="auto", budget="params=0.6").report
    assert report.removed_blocks == {}
    assert report.params[1] <= 0.6 * report.params[0]


def test_the_competition_needs_a_budget() -> None:
    with pytest.raises(UserError, match="budget"):
        prune.prune(network("residual"), shortcuts="auto")
    with pytest.raises(UserError, match="'many'"):
        prune.prune(network("residual"), shortcuts="many", ratio=0.5)


def test_the_report_says_for_each_layer_what_held_its_channels() -> None:
    report = prune.prune(network("residual"), shortcuts=1, ratio=0.7, layer_keep=0.3, round_to=4).report
    for name in ("fixed", "tied", "carried", "floored", "equalised", "rounded"):
        assert getattr(report, name) == sum(getattr(row, name) for row in report.held.values())
    layers = {int(name.split(".")[1]): row for name, row in report.held.items()}
    assert {number: (row.before, row.after) for number, row in layers.items()} == {
        number: pair for number, pair in report.layers.items() if pair[1]
    }
    assert report.floored + report.rounded > 0
    assert layers[15].fixed == 24
    for row in layers.values():  # nothing goes or stays without a reason
        assert row.before - row.after == row.asked + row.overruled - row.tied - row.carried - row.floored - row.rounded
    text = report.text(by_layer=True)
    assert "most held back" in text
    assert "layers.15.conv" in text
    plain = report.as_dict()
    assert plain["held"]["layers.15.conv"]["fixed"] == 24
    assert json.loads(json.dumps(plain))["params"] == list(report.params)


def test_the_report_says_why_channels_are_fixed() -> None:
    report = prune.channels(network("residual"), ratio=0.5, exclude="0").report
    assert report.fixed_by == {"head outputs": 48, "by include and exclude": report.layers[0][0]}
    assert f"fixed: 48 head outputs, {report.layers[0][0]} by include and exclude\n" in report.text()
    assert report.held["layers.15.conv"].fixed_by == {"head outputs": 24}


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
