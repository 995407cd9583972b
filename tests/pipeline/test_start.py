"""What a run begins with, and which stages it goes through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
from common.errors import UserError
from data import load_spec
from data.spec import DataSpec
from export.opening import open_model
from pipeline.prune_options import PruneConfig
from pipeline.stage import check_options
from pipeline.start import chosen_stages, first_network
from tests import nets
from tests.cli.material import NAMES, make_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`net.cfg`; `mine.pt` and `mine.weights` with the data set's classes; those with others; a run of others."""
    folder = make_set(tmp_path_factory.mktemp("stages"))
    (folder / "net.cfg").write_text(nets.RESIDUAL)
    named = {"mine": NAMES, "others": ("cat", "dog"), "swapped": NAMES[::-1], "three": ("red", "blue", "green")}
    named["more"] = ("cat", "dog", "red")
    for name, names in named.items():
        models.save(models.load(folder / "net.cfg", names=names), folder / f"{name}.pt")
    (folder / "run/weights").mkdir(parents=True)
    models.save(models.load(folder / "others.pt"), folder / "run/weights/best.pt")
    models.save_darknet(models.load(folder / "mine.pt"), folder / "mine.cfg", folder / "mine.weights")
    models.save_darknet(models.load(folder / "swapped.pt"), folder / "swapped.cfg", folder / "swapped.weights")
    (folder / "swapped.names").write_text("".join(f"{name}\n" for name in NAMES[::-1]))
    return folder


@pytest.fixture(scope="module")
def spec(folder: Path) -> DataSpec:
    return load_spec(folder / "data.yaml")


def begin(folder: Path, spec: DataSpec, cfg: str = "", weights: str = "", **options: object) -> list[str]:
    config = PruneConfig(
        cfg=str(folder / cfg) if cfg else "", weights=str(folder / weights) if weights else "", **options
    )
    start = first_network(config, spec)
    assert (start.classes, start.names) == (len(spec.names), list(spec.names)), "whatever it was, it fits the data set"
    return chosen_stages(config, start, spec)


@pytest.mark.parametrize(
    ("cfg", "weights"),
    [
        ("", "mine.pt"),
        ("mine.cfg", "mine.weights"),
        ("mine.cfg", "mine.pt"),
        ("", "swapped.pt"),
    ],
    ids=["file", "Darknet", "weights of a cfg", "other order"],
)
def test_weights_of_these_classes_need_no_baseline(folder: Path, spec: DataSpec, cfg: str, weights: str) -> None:
    assert begin(folder, spec, cfg, weights) == ["sparse", "prune"]


@pytest.mark.parametrize(
    ("cfg", "weights"),
    [
        ("net.cfg", ""),
        ("", "others.pt"),
        ("", "run"),
        ("", "more.pt"),
        ("net.cfg", "more.pt"),
        ("", "three.pt"),
        ("net.cfg", "three.pt"),
    ],
    ids=["random", "other names", "a run of other names", "another number", "heads left out", "among more", "of more"],
)
def test_anything_else_is_trained_first(folder: Path, spec: DataSpec, cfg: str, weights: str) -> None:
    assert begin(folder, spec, cfg, weights) == ["baseline", "sparse", "prune"]


def test_names_beside_darknet_weights_say_which_class_is_which(folder: Path, spec: DataSpec) -> None:
    named = first_network(PruneConfig(weights=str(folder / "swapped.pt")), spec)
    cfg, weights = str(folder / "swapped.cfg"), str(folder / "swapped.weights")
    assert begin(folder, spec, "swapped.cfg", "swapped.weights") == ["sparse", "prune"]
    beside = first_network(PruneConfig(cfg=cfg, weights=weights), spec)
    for number in named.head_convolutions:
        assert torch.equal(beside.convolutions[number].conv.weight, named.convolutions[number].conv.weight)
    own = models.load(folder / "swapped.pt")
    number = own.head_convolutions[0]
    assert not torch.equal(own.convolutions[number].conv.weight, named.convolutions[number].conv.weight)
    opened = open_model(weights, cfg, names=list(NAMES))
    assert opened.names == list(NAMES[::-1])


def test_what_an_earlier_run_noted_in_the_weights_is_not_trusted(folder: Path, spec: DataSpec) -> None:
    retrained = models.load(folder / "others.pt")
    retrained.meta["trained_for"] = list(NAMES)
    models.save(retrained, folder / "retrained.pt")
    assert "baseline" in begin(folder, spec, weights="retrained.pt")


def test_student_comes_with_then_kd(folder: Path, spec: DataSpec) -> None:
    assert begin(folder, spec, weights="mine.pt", then_kd=True) == ["sparse", "prune", "student"]
    assert begin(folder, spec, weights="mine.pt", then_kd=True, stages="prune") == ["prune", "student"]
    assert begin(folder, spec, weights="mine.pt", then_kd=True, stages="sparse") == ["sparse"]


def test_named_stages_override_and_run_in_the_order_of_the_line(folder: Path, spec: DataSpec) -> None:
    assert begin(folder, spec, weights="mine.pt", stages="prune, baseline") == ["baseline", "prune"]


@pytest.mark.parametrize(("stages", "said"), [("prune,polish", "polish"), (" , ", "' , '")])
def test_stages_that_are_none_are_named(folder: Path, spec: DataSpec, stages: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        begin(folder, spec, weights="mine.pt", stages=stages)


def test_random_weights_follow_from_the_seed_alone(folder: Path, spec: DataSpec) -> None:
    prints = []
    for seed in (0, 0, 1):
        torch.rand(7)  # whatever has been drawn before
        prints.append(models.fingerprint(first_network(PruneConfig(cfg=str(folder / "net.cfg"), seed=seed), spec)))
    assert prints[0] == prints[1] != prints[2]


def test_stage_has_its_own_length_and_rate_where_given() -> None:
    config = PruneConfig(epochs=30, lr0=0.01, warmup_epochs=3)
    assert config.for_stage(0, 0.0) == config
    short = config.for_stage(10, 0.001)
    assert (short.epochs, short.lr0, short.warmup_epochs) == (10, 0.001, 1)


def test_unknown_terms_and_budgets_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="weight=3"):
        PruneConfig(prune="weight=3")
    config = PruneConfig()
    config.distil.kd = "hintn"
    with pytest.raises(UserError, match="hintn"):
        config.for_stage(1, 0.1)


@pytest.mark.parametrize("size", ["33", "64x40"])
def test_a_size_that_the_network_cannot_take_is_refused_with_the_next(folder: Path, spec: DataSpec, size: str) -> None:
    config = PruneConfig(cfg=str(folder / "net.cfg"), imgsz=size)
    network = first_network(config, spec)
    with pytest.raises(
        UserError, match=f"--imgsz {size}: sides have to be multiples of {network.max_stride}"
    ) as caught:
        check_options(network, config)
    fits = PruneConfig(imgsz=str(caught.value.todo).removeprefix("--imgsz "))
    check_options(network, fits)
