"""The sparsity stage: which pull the options ask for, and the mAP after the cut while it trains."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import data
import engine
import models
import prune
from common.errors import UserError
from common.options import read_yaml
from engine.objective import DetectionObjective
from models.network import Network
from pipeline.prune_options import PruneConfig
from pipeline.show import quantiles
from pipeline.sparsifying import PrunedScore, foreseen, make_sparsity, watched
from tests import nets
from tests.cli.material import NAMES, ROOT, make_set


def network() -> Network:
    torch.manual_seed(0)
    return models.init_weights(Network(models.parse_cfg(nets.RESIDUAL)))


def test_without_a_strength_the_target_decides() -> None:
    config = PruneConfig(target=0.4, tolerance=0.2, layer_keep=0.1)
    hook = make_sparsity(network(), config)
    assert config.sparsity == "auto"
    assert isinstance(hook, prune.AutoSparsity)
    assert (hook.target, hook.tolerance, hook.plan.layer_keep) == (0.4, 0.2, 0.1)


def test_target_zero_aims_at_the_cut() -> None:
    hook = make_sparsity(network(), PruneConfig(target=0, prune="params=0.3"))
    assert isinstance(hook, prune.AutoSparsity)
    assert hook.target == pytest.approx(0.7)
    assert "params" in hook.goal
    hook = make_sparsity(network(), PruneConfig(target=0, prune="none", shortcuts="1"))
    assert isinstance(hook, prune.AutoSparsity)
    assert (hook.target, hook.goal) == (0.7, "70% of the prunable channels")


@pytest.mark.parametrize(
    ("prune_", "target"),
    [
        ("params=0.3", 0.7),
        ("flops=0.2", 0.8),
        ("channels=0.4", 0.6),
        ("ratio=0.45", 0.45),
        ("auto", 0.75),
        ("latency=0.5", 0.7),
        ("none", 0.7),
        ("params=1", 0.7),
    ],
)
def test_the_target_follows_the_budget_where_that_can_be_computed(prune_: str, target: float) -> None:
    config = PruneConfig(prune=prune_, shortcuts="1")
    hook = make_sparsity(network(), config)
    assert isinstance(hook, prune.AutoSparsity)
    assert hook.target == pytest.approx(target)
    assert make_sparsity(network(), replace(config, target=0.5)).target == 0.5  # type: ignore[attr-defined]


def test_the_usual_target_stands_for_a_drop_that_is_searched_for() -> None:
    assert foreseen(PruneConfig(max_drop=0.01)).ratio == 0.7
    assert make_sparsity(network(), PruneConfig(max_drop=0.01)).target == 0.7  # type: ignore[attr-defined]


def test_no_recipe_asks_for_more_idle_channels_than_its_cut_takes() -> None:
    for path in sorted((ROOT / "cfg" / "hyp").glob("*.yaml")):
        if path.stem not in ("demo_kd", "small_data_kd"):
            assert read_yaml(PruneConfig, path).get("target", 0.0) == 0.0, path.name


def test_a_strength_alone_means_the_constant_schedule() -> None:
    config = PruneConfig(s=0.7, optimizer="adamw")
    hook = make_sparsity(network(), config)
    assert (config.sparsity, hook.schedule, hook.s, hook.form) == ("constant", "constant", 0.7, "proximal")
    assert not isinstance(hook, prune.AutoSparsity)


def test_a_schedule_without_a_strength_takes_the_usual_one() -> None:
    hook = make_sparsity(network(), PruneConfig(sparsity="local-decay"))
    assert (hook.schedule, hook.s, hook.form) == ("local-decay", 1e-3, "subgradient")


def test_auto_that_is_asked_for_wins_over_a_strength() -> None:
    assert isinstance(make_sparsity(network(), PruneConfig(sparsity="auto", s=0.7)), prune.AutoSparsity)


def test_form_can_be_chosen_but_not_what_cannot_work() -> None:
    assert make_sparsity(network(), PruneConfig(s=0.1, sparse_form="proximal")).form == "proximal"
    with pytest.raises(UserError, match="sub-gradient"):
        make_sparsity(network(), PruneConfig(s=0.1, sparse_form="subgradient", optimizer="adamw"))


def test_layers_that_have_to_stay_are_not_pushed() -> None:
    hook = make_sparsity(network(), PruneConfig(exclude=("2",)))
    assert "layers.2.bn" not in hook.masks
    assert "layers.5.bn" in hook.masks


def test_controller_sees_at_least_eight_validations() -> None:
    assert watched(PruneConfig(epochs=8, val_every=5)).val_every == 1
    assert watched(PruneConfig(epochs=80, val_every=5)).val_every == 5
    assert watched(PruneConfig(epochs=80, val_every=50)).val_every == 10
    assert watched(PruneConfig(epochs=8, val_every=5, s=0.1)).val_every == 5


def test_foreseen_cut_is_the_wanted_one_or_one_that_needs_no_measuring() -> None:
    assert foreseen(PruneConfig(prune="params=0.3")) == PruneConfig(prune="params=0.3").plan
    measured = foreseen(PruneConfig(prune="latency=0.3", target=0.6))
    assert measured.ratio == 0.6
    assert measured.budget is None
    assert foreseen(PruneConfig(prune="none", shortcuts="2")).asked == {"shortcuts": 2}


NO_SCORE: Any = None  # what the averaged weights reached does not matter here


def test_pruned_score_is_of_the_thin_network_and_changes_nothing() -> None:
    live, averaged = network(), network()
    with torch.no_grad():
        live.convolutions[2].bn.weight[:3] = 0
    before = copy.deepcopy(averaged.state_dict())
    scored: list[Network] = []

    def evaluate(net: Network) -> Any:
        scored.append(net)
        return SimpleNamespace(map50_95=0.25, map50=0.5, recall=1.0)

    hook = PrunedScore(lambda net: prune.channels(net, budget="channels=0.7").network)
    assert hook.after_validation(live, averaged, NO_SCORE, evaluate) == {"pruned/mAP50-95": 0.25, "pruned/mAP50": 0.5}
    assert models.parameters(scored[0]) < models.parameters(averaged)
    assert scored[0].convolutions[2].out_channels <= 3, "what is at zero goes first"
    assert all(torch.equal(tensor, before[name]) for name, tensor in averaged.state_dict().items())


def test_cut_that_is_impossible_ends_no_training() -> None:
    hook = PrunedScore(lambda net: prune.channels(net, budget="channels=0.001").network)
    assert hook.after_validation(network(), network(), NO_SCORE, lambda net: pytest.fail("nothing to score")) == {}


def test_training_logs_both_maps_and_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.trainer.plot_results", lambda *_: None)
    spec = data.load_spec(make_set(tmp_path) / "data.yaml")
    config = PruneConfig(
        data=str(tmp_path / "data.yaml"),
        imgsz="64",
        epochs=3,
        batch_size=4,
        nominal_batch=4,
        warmup_epochs=0.0,
        workers=0,
        device="cpu",
        ema_decay=0.0,
        target=0.5,
    )
    net = models.load(_cfg(tmp_path), names=NAMES)
    hook = make_sparsity(net, config)
    shown = PrunedScore(lambda averaged: prune.thin(averaged, foreseen(config)))
    trainer: Any = engine.Trainer(
        DetectionObjective(net, config.loss), spec, config, tmp_path / "run", hooks=[hook, shown], kind="sparse"
    )
    last = trainer.fit().history[-1]
    assert last["sparsity/at_zero"] >= 0.5 - 1e-9
    assert {"val/mAP50", "pruned/mAP50", "pruned/mAP50-95", "sparsity/share"} <= last.keys()
    header = (tmp_path / "run" / "results.csv").read_text().splitlines()[0]
    assert "pruned/mAP50" in header
    assert "sparsity/share" in header
    rows = quantiles(hook.history, hook.histograms)
    assert len(rows) == 3
    assert sum(rows[-1]["histogram"]["counts"]) == len(hook.values(net))


def _cfg(folder: Path) -> Path:
    (folder / "net.cfg").write_text(nets.RESIDUAL)
    return folder / "net.cfg"
