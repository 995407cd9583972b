"""The cut as the command line asks for it: rounds, what is measured for it, what is refused before."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

import models
import prune
from common.errors import UserError
from common.options import load_config
from data import load_spec
from data.spec import DataSpec
from export.description import describe
from export.formats import FORMATS
from export.latency import DeployedLatency
from models.network import Network
from pipeline.cut import Cutter, live_cut
from pipeline.prune_options import PruneConfig
from pipeline.show import layer_rows
from pipeline.start import without_heads
from reporting.card import write_card
from reporting.origin import network_facts
from tests import nets
from tests.alive import alive
from tests.cli.material import NAMES, make_set


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return load_spec(make_set(tmp_path_factory.mktemp("cut")) / "data.yaml")


@pytest.fixture
def net() -> Network:
    torch.manual_seed(0)
    cfg = models.parse_cfg(nets.RESIDUAL)
    models.network.adapt_classes(cfg, len(NAMES))
    return alive(Network(cfg, NAMES))


def options(**given: object) -> PruneConfig:
    small = {"imgsz": "64", "batch_size": 4, "workers": 0, "device": "cpu", "reconstruct": False}
    return PruneConfig(**{**small, **given})  # type: ignore[arg-type]


def test_rounds_reach_the_budget_by_equal_factors_and_the_lineage_composes(spec: DataSpec, net: Network) -> None:
    config = options(prune="params=0.4", rounds=2, shortcuts=3, layer_keep=0.0)
    cutter = Cutter(config, spec, net)
    half = cutter(net, "sparse", 1).network
    thin = cutter(half, "round 1", 2).network
    whole = models.parameters(net)
    assert models.parameters(half) / whole == pytest.approx(0.4**0.5, abs=0.04)
    assert 0.36 * whole < models.parameters(thin) <= 0.4 * whole
    assert [sum(s.kind == "shortcut" for s in each.cfg.layers) for each in (net, half, thin)] == [3, 2, 0]
    assert [entry["kind"] for entry in thin.lineage] == ["sparse", "round 1"]
    rows = layer_rows(net, thin, (64, 64))
    assert sum(row["channels after"] for row in rows) == sum(c.out_channels for c in thin.convolutions.values())
    assert sum(row["parameters before"] for row in rows) == whole
    assert sum(row["parameters after"] for row in rows) == models.parameters(thin)
    assert sum(row["MACs after"] for row in rows) == models.macs(thin, (64, 64))


@pytest.mark.parametrize(("kept", "warned"), [("0.9", True), ("0.2", False)])
def test_idle_channels_that_a_cut_leaves_are_named(
    spec: DataSpec, net: Network, kept: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hook = prune.AutoSparsity(net, target=0.6)
    with torch.no_grad():
        for gamma, mask in hook.gammas(net):
            gamma[mask.nonzero()[: int(0.6 * mask.sum())]] = 0.0
    assert prune.idle_channels(net)[0] > 0
    report = Cutter(options(prune=f"params={kept}"), spec, net)(net, "sparse").report
    assert (f"than --prune params={kept} takes" in caplog.text) == warned
    assert (f"than --prune params={kept} takes" in report.text()) == warned


def test_cut_through_channels_in_use_is_said_with_what_helps(spec: DataSpec, net: Network) -> None:
    report = Cutter(options(prune="params=0.5"), spec, net)(net, "input").report
    assert report.notes == [live_cut(report.alive, options(), "input")]
    assert "--stages sparse,prune" in report.text()
    assert "--reconstruct, which is off" in report.text()
    assert "--reconstruct" not in live_cut(report.alive, options(reconstruct=True), "input")
    assert "--sparse-epochs" in live_cut(report.alive, options(), "sparse")
    assert not live_cut(report.alive, options(max_drop=0.01), "sparse")
    gentle = {"optimizer": "adamw", "lr0": 0.001, "then_kd": True}
    said = live_cut(0.2, options(**gentle), "sparse")
    assert "comes next, at a higher rate if it has but some hundred steps (--finetune-lr0 0.0025; it is 0.001)" in said
    for enough in ({"finetune_lr0": 0.004}, {"lr0": 0.002}, {"optimizer": "sgd"}):
        assert "--finetune-lr0" not in live_cut(0.2, options(**{**gentle, **enough}), "sparse")
    with torch.no_grad():
        for gamma, mask in prune.Sparsity(net, 0.0, form="proximal").gammas(net):
            gamma[mask.nonzero()[: int(0.3 * mask.sum())]] = 0.0
    report = Cutter(options(prune="params=0.8"), spec, net)(net, "sparse").report
    assert report.gammas[0] < report.gammas[1]
    assert "in use" not in report.text()


def test_layer_table_says_what_held(spec: DataSpec, net: Network) -> None:
    result = Cutter(options(prune="params=0.5", layer_keep=0.5, shortcuts=1), spec, net)(net, "sparse")
    said = {row["layer"]: row["held back"] for row in layer_rows(net, result.network, (64, 64), result.report.held)}
    assert "fixed" in said[net.head_convolutions[0]]
    assert sum(words == "block removed" for words in said.values()) == 2
    assert any("by the floor" in words for words in said.values())
    for name, row in result.report.held.items():
        assert str(row.tied) in said[int(name.split(".")[1])] or not row.tied


@pytest.mark.parametrize("criterion", prune.CRITERIA)
def test_every_criterion_meets_the_budget_and_leaves_the_network_alone(
    spec: DataSpec, net: Network, criterion: str
) -> None:
    before = models.fingerprint(net)
    result = Cutter(options(prune="flops=0.5", criterion=criterion), spec, net)(net, "sparse")
    assert models.macs(result.network, (64, 64)) <= 0.5 * models.macs(net, (64, 64))
    assert models.fingerprint(net) == before
    assert all(parameter.grad is None for parameter in net.parameters())


def test_reestimated_statistics_are_those_of_the_thin_network(spec: DataSpec, net: Network) -> None:
    plain = Cutter(options(prune="params=0.5"), spec, net)(net, "sparse").network
    cutter = Cutter(options(prune="params=0.5", reestimate_bn=True), spec, net)
    measured = cutter(net, "sparse").network
    prune.reestimate(plain, cutter.batches)
    assert models.fingerprint(measured) == models.fingerprint(plain)
    assert sum(len(batch.images) for batch in cutter.batches) == 8, "all there are"


def test_largest_drop_is_searched_for_with_statistics_taken_anew(
    spec: DataSpec, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = models.parameters(net)
    seen: list[float] = []

    def score(self: Cutter, network: Network) -> float:
        seen.append(models.parameters(network) / whole)
        return 0.5 if seen[-1] > 0.6 else 0.1

    monkeypatch.setattr(Cutter, "score", score)
    result = Cutter(options(max_drop=0.01, layer_keep=0.0), spec, net)(net, "sparse")
    assert 0.6 < models.parameters(result.network) / whole < 0.68
    assert min(seen) < 0.6


@pytest.mark.parametrize("better", ["as cut", "anew"])
def test_score_keeps_the_statistics_that_detect_better(
    spec: DataSpec, net: Network, monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    cutter = Cutter(options(max_drop=0.01), spec, net)
    anew = copy.deepcopy(net)
    prune.reestimate(anew, cutter.batches)
    as_cut = copy.deepcopy(net)
    scores = iter([0.4, 0.3] if better == "as cut" else [0.3, 0.4])
    monkeypatch.setattr(Cutter, "val_score", lambda self, network: next(scores))
    assert cutter.score(net) == 0.4
    for name, kept in net.state_dict().items():
        wanted = (as_cut if better == "as cut" else anew).state_dict()[name]
        assert torch.allclose(kept, wanted), name
    assert not all(torch.allclose(a, b) for a, b in zip(as_cut.buffers(), anew.buffers()))


def test_score_is_the_map_on_val(spec: DataSpec, net: Network) -> None:
    assert 0 <= Cutter(options(max_drop=0.01), spec, net).score(net) <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prune": "1"}, "docs/migrating.md"),
        ({"prune": "none"}, "leave nothing to prune"),
        ({"prune": "none", "shortcuts": "auto"}, "leave nothing to prune"),
        ({"prune": "params=0.2", "max_drop": 0.01}, "leave one of the two out"),
        ({"max_drop": 0.01, "rounds": 2}, "--rounds 2"),
        ({"prune": "ratio=0.5", "rounds": 2}, "--rounds 2"),
        ({"prune": "ratio=much"}, "ratio=much"),
        ({"prune": "prams=0.2"}, "--prune prams=0.2 is not a share"),
        ({"prune": "params=2"}, "--prune params=2 is not a share"),
        ({"prune": "25%"}, "--prune 25% is not a share to keep of anything"),
        ({"shortcuts": "many"}, "many"),
        ({"drop_heads": "coarse"}, "coarse"),
    ],
)
def test_contradictions_are_refused_at_once(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        options(**given)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("PARAMS=0.25", "params=0.25"),
        ("parameters = 0.25", "params=0.25"),
        ("params: 25 %", "params=0.25"),
        ("macs=0.25", "flops=0.25"),
        ("GFLOPs=25%", "flops=0.25"),
        ("filters=0.25", "channels=0.25"),
    ],
)
def test_a_budget_may_be_called_and_written_as_people_do(given: str, meant: str) -> None:
    config = options(prune=given)
    assert (config.budget, config.plan.budget) == (meant, meant)


@pytest.mark.parametrize(
    "given",
    [{"prune": "params=0.001"}, {"prune": "params=0.0001", "rounds": 2}, {"shortcuts": 9}, {"exclude": ("99",)}],
    ids=str,
)
def test_rehearsal_finds_what_cannot_work(spec: DataSpec, net: Network, given: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Cutter(options(**given), spec, net).rehearse()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"max_drop": 0.1},
        {"criterion": "taylor"},
        {"prune": "latency=0.5"},
        {"prune": "ratio=0.7"},
        {"prune": "none", "shortcuts": 2},
        {"shortcuts": "auto"},
    ],
    ids=str,
)
def test_rehearsal_lets_pass_what_works_without_pictures_or_clock(
    spec: DataSpec, net: Network, given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cutter, "batches", None)
    monkeypatch.setattr(Cutter, "latency", None)
    Cutter(options(**given), spec, net).rehearse()


def test_idle_head_is_cut_off_and_the_rest_has_to_learn(spec: DataSpec, net: Network) -> None:
    """All boxes are 20 x 16: best met by 14 x 22 of the fine head."""
    net.meta["trained_for"] = list(NAMES)
    thin = without_heads(options(drop_heads="auto"), net, spec)
    assert [head.stride for head in thin.specs] == [8]
    assert thin.meta["dropped_heads"] == [16]
    assert "trained_for" not in thin.meta
    kept = without_heads(options(drop_heads="16", anchors="keep"), net, spec)
    assert [head.stride for head in kept.specs] == [8]
    assert kept.meta["trained_for"] == list(NAMES)
    assert without_heads(options(), net, spec) is net
    with pytest.raises(UserError, match="strides are 16, 8"):
        without_heads(options(drop_heads="32"), net, spec)
    with pytest.raises(UserError, match="--drop-heads 8,16 leaves no head"):
        without_heads(options(drop_heads="8,16"), net, spec)


def test_heads_of_one_kind_are_dropped_and_nothing_has_to_be_learnt_anew(spec: DataSpec, net: Network) -> None:
    both = alive(Network(models.parse_cfg(nets.dual(len(NAMES))), NAMES)).eval()
    both.meta["trained_for"] = list(NAMES)
    heads = both(torch.ones(1, 3, 64, 64))
    for kind, left in (("one-to-many", 1), ("one-to-one", 0)):
        thin = without_heads(options(drop_heads=kind), both, spec)
        assert [head.one_to_one for head in thin.specs] == [bool(left)] * 2
        assert all(
            torch.equal(*pair)
            for pair in zip(thin(torch.ones(1, 3, 64, 64)), heads[2 * left : 2 * left + 2], strict=True)
        )
        assert thin.meta["trained_for"] == list(NAMES)
        assert "dropped_heads" not in thin.meta
    with pytest.raises(UserError, match="--drop-heads one-to-one: there is no such head"):
        without_heads(options(drop_heads="one-to-one"), net, spec)
    with pytest.raises(UserError, match="has no one-to-one heads"):
        without_heads(options(drop_heads="one-to-many"), net, spec)


@pytest.mark.parametrize("gain", [0.1, -0.1])
def test_a_cut_is_solved_for_the_uncut_networks_answers_where_val_rises(
    spec: DataSpec, net: Network, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    plain = Cutter(options(prune="params=0.5"), spec, net)(net, "sparse")
    cutter = Cutter(options(prune="params=0.5", reconstruct=True), spec, net)
    scores = iter([0.5, 0.5 + gain])
    monkeypatch.setattr(Cutter, "val_score", lambda self, network: next(scores))
    solved = cutter(net, "sparse")
    assert (models.fingerprint(solved.network) != models.fingerprint(plain.network)) == (gain > 0)
    assert f"val mAP50-95 0.5000 -> {0.5 + gain:.4f}" in solved.report.text()
    assert ("taken back" in solved.report.text()) == (gain < 0)


def test_candidates_of_the_search_are_judged_solved(
    spec: DataSpec, net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cut every candidate is below the drop, solved it is within."""
    whole = models.parameters(net)

    def solve(thin: Network, ancestor: Network, images: object, score: object) -> prune.Reconstruction:
        assert ancestor is net
        assert images is cutter.batches
        return prune.Reconstruction(pictures=8, scores=(score(thin), 0.5))  # type: ignore[operator]

    monkeypatch.setattr("prune.search.reconstruct_if_better", solve)
    monkeypatch.setattr(Cutter, "val_score", lambda self, one: 0.5 if models.parameters(one) == whole else 0.1)
    cutter = Cutter(options(max_drop=0.01, layer_keep=0.0), spec, net)
    assert models.parameters(cutter(net, "sparse").network) == whole
    cutter = Cutter(options(max_drop=0.01, layer_keep=0.0, reconstruct=True), spec, net)
    result = cutter(net, "sparse")
    assert models.parameters(result.network) < 0.5 * whole
    assert "val mAP50-95 0.1000 -> 0.5000" in result.report.text()


@pytest.mark.parametrize("target", FORMATS)
def test_widths_are_those_of_where_the_network_will_run(target: str, tmp_path: Path) -> None:
    wanted = FORMATS[target].round_to
    config = options(deploy_to=target)
    assert config.plan.round_to == wanted
    assert options().plan.round_to == 1, "unchanged where nothing is said"
    assert [options(deploy_to=target, round_to=given).plan.round_to for given in (1, 4)] == [1, 4], "what is given wins"
    config.save(tmp_path / "args.yaml")
    assert load_config(PruneConfig, tmp_path) == config


def test_report_and_card_say_what_a_cut_was_made_for(spec: DataSpec, net: Network, tmp_path: Path) -> None:
    result = Cutter(options(prune="params=0.8", deploy_to="onnx", layer_keep=0.0), spec, net)(net, "sparse")
    wanted = FORMATS["onnx"].round_to
    assert all(after % wanted == 0 or after == before for before, after in result.report.layers.values())
    assert f"round_to={wanted}" in result.report.text()
    assert "deploy_to=onnx" in result.report.text()
    models.save(result.network, tmp_path / "thin.pt")
    facts = network_facts(models.load(tmp_path / "thin.pt"), tmp_path / "thin.pt", (64, 64))
    card = write_card(tmp_path / "thin.pt", describe(result.network), facts, {}).read_text()
    assert f"round_to={wanted}, " in card
    assert "deploy_to=onnx" in card
    assert "deploy_to" not in Cutter(options(prune="params=0.6"), spec, net)(net, "sparse").report.text()


@pytest.mark.parametrize(("target", "measured"), [("", "onnx"), ("int8", "int8"), ("ncnn", "ncnn")])
def test_a_latency_budget_is_measured_where_the_network_will_run(
    spec: DataSpec, net: Network, monkeypatch: pytest.MonkeyPatch, target: str, measured: str
) -> None:
    seen = []

    def clock(self: DeployedLatency, network: Network) -> float:
        seen.append(self.form.name)
        self.reference, self.runtime = self.reference or (lambda: None), "a clock"
        return models.macs(network, self.size) / 1e6

    monkeypatch.setattr(DeployedLatency, "__call__", clock)
    chosen = options(prune="latency=0.6", deploy_to=target, round_to=1, layer_keep=0.0)
    result = Cutter(chosen, spec, net)(net, "sparse")
    assert set(seen) == {measured}
    assert models.macs(result.network, (64, 64)) <= 0.6 * models.macs(net, (64, 64))
    assert f"latency: ms of {FORMATS[measured].title}, run by a clock" in result.report.text()


def test_a_program_that_is_not_there_is_told_before_anything_is_trained(
    spec: DataSpec, net: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(UserError, match="pip install ncnn"):
        Cutter(options(prune="latency=0.5", deploy_to="ncnn"), spec, net).rehearse()
    Cutter(options(prune="flops=0.5", deploy_to="ncnn", round_to=1), spec, net).rehearse()
    assert "cannot be tried there" in caplog.text
    assert "pip install ncnn" in caplog.text


def test_a_network_that_the_target_cannot_hold_is_told_before_anything_is_trained(
    spec: DataSpec, caplog: pytest.LogCaptureFixture
) -> None:
    free = alive(Network(models.parse_cfg(nets.dual(len(NAMES))), NAMES))
    with pytest.raises(UserError, match="has no Darknet word"):
        Cutter(options(prune="latency=0.5", deploy_to="darknet"), spec, free).rehearse()
    Cutter(options(prune="flops=0.5", deploy_to="darknet", round_to=1), spec, free).rehearse()
    assert "has no Darknet word" in caplog.text
