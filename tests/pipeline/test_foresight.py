"""What is said before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from common.errors import UserError
from models.network import Network
from pipeline.foresight import check_target, check_trained, check_used, cut_share
from pipeline.prune_options import PruneConfig
from prune.candidates import Candidates
from prune.plan import CutPlan
from tests import nets

ALL = ("baseline", "sparse", "prune", "student")


def network() -> Network:
    torch.manual_seed(0)
    return models.init_weights(Network(models.parse_cfg(nets.RESIDUAL)))


def candidates(**options: object) -> Candidates:
    return Candidates(network(), CutPlan(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"t_weights": "fat.pt"}, {"t_cfg": "fat.cfg", "t_weights": "fat.weights"}], ids=str)
def test_a_teacher_without_a_student_is_refused(given: dict[str, str]) -> None:
    config = PruneConfig(**given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--t_weights: the run has no student .*sparse, prune") as caught:
        check_used(config, ("sparse", "prune"))
    assert "--then-kd" in caught.value.todo
    check_used(config, ALL)


def test_options_of_a_missing_stage_are_named(caplog: pytest.LogCaptureFixture) -> None:
    config = PruneConfig(compare_plain=True, finetune_epochs=3, target=0.4, prune="params=0.5", stages="baseline")
    config.distil.kd = "hinton"
    check_used(config, ("baseline",))
    assert [record.getMessage() for record in caplog.records] == [
        "not used: --compare-plain, --finetune-epochs, --kd; the run has no stage 'student' (--then-kd adds it)",
        "not used: --prune; the run has no stage 'prune' (--stages ...,prune adds it)",
        "not used: --target; the run has no stage 'sparse' (--stages sparse,... adds it)",
    ]
    caplog.clear()
    check_used(config, ALL)
    check_used(PruneConfig(drop_heads="auto", epochs=3), ("baseline",))
    check_used(PruneConfig(finetune_lr0=0.1, rounds=2), ("prune",))
    assert not caplog.records


def test_a_recipe_may_hold_more_than_a_run_needs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text("t_weights: fat.pt\ncompare_plain: true\n")
    check_used(PruneConfig(hyp=str(tmp_path / "mine.yaml"), t_weights="fat.pt", compare_plain=True), ("prune",))
    check_used(PruneConfig(resume="runs/train_prune/exp", t_weights="fat.pt"), ("prune",))
    assert not caplog.records


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (("prune",), "what is left detects nothing"),
        (("sparse", "prune"), "sparsity training begins with them"),
        (("sparse", "prune", "student"), "the student's teacher is untrained"),
    ],
)
def test_random_weights_in_the_place_of_a_trained_network_are_named(
    stages: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_trained(PruneConfig(cfg="net.cfg"), stages)
    assert "the weights of net.cfg are random" in caplog.text
    assert said in caplog.text
    caplog.clear()
    check_trained(PruneConfig(cfg="net.cfg", weights="mine.pt"), stages)
    check_trained(PruneConfig(cfg="net.cfg"), ("baseline", *stages))
    assert not caplog.records


def test_a_target_below_the_cut_is_told_with_both_numbers(caplog: pytest.LogCaptureFixture) -> None:
    deep = candidates(budget="params=0.05")
    share = cut_share(deep)
    assert 0.7 < share < 1
    config = PruneConfig(prune="params=0.05", target=0.7)
    check_target(config, deep, ALL)
    said = f"--target 0.7 silences fewer channels than --prune params=0.05 takes, which is about {share:.2f}"
    assert said in caplog.text
    assert "--target 0, the default, goes as far" in caplog.text


@pytest.mark.parametrize(
    ("given", "budget", "stages"),
    [
        ({"prune": "params=0.5", "target": 0.7}, "params=0.5", ALL),
        ({"prune": "params=0.05"}, "params=0.05", ALL),
        ({"prune": "params=0.05", "target": 0.7, "s": 0.001}, "params=0.05", ALL),
        ({"prune": "params=0.05", "target": 0.7}, "params=0.05", ("prune",)),
        ({"prune": "latency=0.1", "target": 0.7}, "params=0.05", ALL),
    ],
    ids=str,
)
def test_other_targets_are_not_complained_about(
    given: dict[str, object], budget: str, stages: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    check_target(PruneConfig(**given), candidates(budget=budget), stages)  # type: ignore[arg-type]
    assert not caplog.records


def test_the_share_of_a_cut_by_ratio_is_the_ratio() -> None:
    assert cut_share(candidates(ratio=0.5, strategy="union", layer_keep=0.0)) == pytest.approx(0.5, abs=0.2)
    assert cut_share(candidates(budget="params=1")) == 0
