"""The training loop: what a step computes, what an epoch leaves behind, and how it refuses."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

import data
import models
from common.command_line import parse_config
from common.errors import UserError
from common.rundir import BEST, LAST
from data.batch import Batch
from engine.batchsize import fitting_batch, with_nominal_batch
from engine.checkpoints import Progress, finished
from engine.config import TrainConfig
from engine.evaluate import Score
from engine.feed import make_feed
from engine.objective import DetectionObjective
from engine.seams import Hooks, Terms
from engine.trainer import Trainer
from models.options import LossConfig
from tests.engine.job import COMMON, AdaptedObjective, make_network, make_pictures, make_trainer

pytestmark = pytest.mark.usefixtures("no_plots")


def train(run: Path, pictures: Path, *flags: str, objective: Any = None, **more: Any) -> Trainer:
    """A finished plain training."""
    config = parse_config(TrainConfig, [*COMMON, f"--data={pictures}", *flags])
    trainer = Trainer(
        objective or DetectionObjective(make_network(), config.loss), data.load_spec(config.data), config, run, **more
    )
    trainer.fit()
    return trainer


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="--batch-size 0 trains on nothing"):
        parse_config(TrainConfig, ["--batch-size=0"])


@pytest.mark.parametrize(
    ("world", "batch", "own"), [(2, 64, 11), (4, 64, 5), (2, 4, 2)], ids=["fewer pictures", "an odd rest", "as typed"]
)
def test_what_a_process_gets_where_there_are_fewer_pictures_than_the_batch(
    world: int, batch: int, own: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.distributed.world", lambda: world)
    monkeypatch.setattr("engine.distributed.broadcast", lambda value: value)
    config = parse_config(TrainConfig, [*COMMON, f"--data={pictures}", f"--batch-size={batch}"])
    objective, spec = DetectionObjective(make_network(), config.loss), data.load_spec(config.data)
    assert make_feed(objective, spec, config, tmp_path, None, 1).batch == own
    wrong = parse_config(TrainConfig, [*COMMON, f"--data={pictures}", f"--batch-size={batch + 1}"])
    with pytest.raises(UserError, match=f"--batch-size {batch + 1} does not divide among {world} processes"):
        make_feed(objective, spec, wrong, tmp_path, None, 1)
    monkeypatch.setattr("engine.distributed.world", lambda: 64)
    many = parse_config(TrainConfig, [*COMMON, f"--data={pictures}", "--batch-size=64"])
    with pytest.raises(UserError, match="22 training pictures do not give each of 64 processes one"):
        make_feed(objective, spec, many, tmp_path, None, 1)


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def test_result_does_not_depend_on_how_the_nominal_batch_is_split(pictures: Path, tmp_path: Path) -> None:
    """22 pictures in steps of 8, 8, 6: as one batch, as batches of 4 and of 2. BatchNorm statistics are held."""
    flags = ["--epochs=2", "--nominal-batch=8", "--freeze-bn", "--clip=5", "--lr0=0.002", "--ema-decay=0"]
    whole, halves, quarters = (
        train(
            tmp_path / str(size),
            pictures,
            *flags,
            f"--batch-size={size}",
            objective=DetectionObjective(make_network(living=True)),
        )
        for size in (8, 4, 2)
    )
    start = dict(make_network(living=True).named_parameters())
    for split in (halves, quarters):
        assert split.progress.step == whole.progress.step == 6
        theirs = dict(split.network.named_parameters())
        for name, parameter in whole.network.named_parameters():
            moved = (parameter - start[name]).norm()
            assert moved > 1e-4
            assert (theirs[name] - parameter).norm() < 1e-2 * moved, name
        for ours, theirs in zip(split.progress.history, whole.progress.history):
            assert ours["train/total"] == pytest.approx(theirs["train/total"], rel=1e-3)


def test_batch_larger_than_nominal_steps_on_every_batch(pictures: Path, tmp_path: Path) -> None:
    trainer = train(tmp_path, pictures, "--epochs=1", "--batch-size=8", "--nominal-batch=4")
    assert trainer.progress.step == 3


@pytest.mark.parametrize(
    ("pictures", "batch", "nominal"),
    [
        (118_000, 16, 64),
        (1600, 16, 64),
        (1599, 16, 32),
        (800, 16, 32),
        (500, 16, 16),
        (205, 16, 16),
        (205, 8, 8),
        (30, 1, 1),
        (205, 24, 24),
        (205, -1, 16),
        (1600, 128, 128),
    ],
)
def test_pictures_a_step_follow_the_data_where_nobody_says_them(pictures: int, batch: int, nominal: int) -> None:
    config = with_nominal_batch(TrainConfig(batch_size=batch), pictures)
    assert config.nominal_batch == nominal
    assert TrainConfig().nominal_batch == 0


def test_steps_by_the_data_are_said_and_a_given_number_is_kept(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "thinyolo")
    trainer = train(tmp_path, pictures, "--epochs=1", "--nominal-batch=0", "--batch-size=3")
    assert (trainer.accumulate, trainer.progress.step) == (1, 8)
    assert "--nominal-batch by the data: 3 of the 22 training pictures a step, 8 steps in all; a smaller" in caplog.text
    caplog.clear()
    trainer = train(tmp_path, pictures, "--epochs=1", "--nominal-batch=64", "--batch-size=4")
    assert trainer.progress.step == 1
    assert "by the data" not in caplog.text


def test_logged_total_is_the_weighted_sum_of_every_logged_term(pictures: Path, tmp_path: Path) -> None:
    objective = AdaptedObjective(make_network(), LossConfig(box=2, obj=30, cls=0.5))
    trainer = train(tmp_path, pictures, "--epochs=1", objective=objective)
    row = trainer.progress.history[0]
    expected = 2 * row["train/box"] + 30 * row["train/obj"] + 0.5 * row["train/cls"] + 0.1 * row["train/colour"]
    assert row["train/total"] == pytest.approx(expected, rel=1e-5)
    assert row["train/colour"] > 0
    assert "train/redness" in row


class Recorder(Hooks):
    """Writes down what happens around a step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self.rows: list[dict[str, float]] = []

    def before_step(self, network: models.Network, progress: float) -> None:
        squares = [each.grad.square().sum() for each in network.parameters() if each.grad is not None]
        self.calls.append(("before", float(torch.stack(squares).sum().sqrt())))
        self.weight = network.layers[0].conv.weight.detach().clone()

    def after_step(self, network: models.Network, lr: float, progress: float) -> None:
        assert not torch.equal(network.layers[0].conv.weight, self.weight)
        self.calls.append(("after", lr))

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        self.rows.append(metrics)
        return {"hook/answer": 42.0}


def test_hooks_see_clipped_gradients_before_a_step_and_its_rate_after_it(pictures: Path, tmp_path: Path) -> None:
    hook = Recorder()
    trainer = train(tmp_path, pictures, "--epochs=1", "--clip=0.01", hooks=[hook])
    assert [name for name, _ in hook.calls] == ["before", "after"] * trainer.progress.step
    assert all(norm <= 0.0101 for name, norm in hook.calls if name == "before")
    rates = [lr for name, lr in hook.calls if name == "after"]
    assert rates[-1] == trainer.progress.history[0]["lr"]
    assert "val/mAP50-95" in hook.rows[0]
    assert trainer.progress.history[0]["hook/answer"] == 42.0


class Complete(Hooks):
    """Its goal is reached after `since` epochs; the validations' mAPs are given."""

    def __init__(self, since: int, scores: tuple[float, ...]):
        self.since, self.scores = since, list(scores)

    def after_validation(self, network: Any, averaged: Any, score: Score, evaluate: Any) -> dict[str, float]:
        return {"val/mAP50-95": self.scores.pop(0)}

    def may_be_best(self, metrics: dict[str, float], is_last: bool) -> bool:
        return metrics["epoch"] > self.since


@pytest.mark.parametrize(
    ("since", "best", "epochs"), [(0, 1, 2), (2, 4, 5), (9, None, 6)], ids=["at once", "later", "never"]
)
def test_best_and_patience_look_only_at_epochs_that_a_hook_calls_complete(
    since: int, best: int | None, epochs: int, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / BEST).write_text("of an older run in the same folder")
    hook = Complete(since, (0.9, 0.8, 0.1, 0.3, 0.2, 0.2))
    trainer = train(tmp_path, pictures, "--epochs=6", "--patience=1", hooks=[hook])
    assert len(trainer.progress.history) == epochs
    result = finished(tmp_path)
    assert result is not None
    if best is None:
        assert (result.best, (tmp_path / BEST).exists()) == (tmp_path / LAST, False)
    else:
        assert models.read_checkpoint(result.best)["extra"]["epoch"] == best


class Tracking:
    def __init__(self) -> None:
        self.epochs: list[tuple[int, dict[str, float]]] = []

    def log_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self.epochs.append((epoch, dict(values)))


class Gap(Hooks):
    """What there is to win, with every validation."""

    def after_validation(self, network: Any, averaged: Any, score: Score, evaluate: Any) -> dict[str, float]:
        assert evaluate(averaged).as_dict() == score.as_dict(), "it scores as the trainer does"
        return {"gap": 1 - float(score.map50_95)}


def test_csv_history_and_tracker_use_the_same_names(pictures: Path, tmp_path: Path) -> None:
    tracker = Tracking()
    trainer = train(
        tmp_path,
        pictures,
        "--val-every=2",
        tracker=tracker,
        hooks=[Gap()],
    )
    with open(tmp_path / "results.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [epoch for epoch, _ in tracker.epochs] == [1, 2, 3]
    for row, (_, values), kept in zip(rows, tracker.epochs, trainer.progress.history, strict=True):
        assert {name for name, text in row.items() if text} == values.keys() == kept.keys()
        assert float(row["train/box"]) == pytest.approx(values["train/box"], rel=1e-5)
    # --val-every 2 of 3 epochs: the second, and the last in any case
    assert [bool(row["val/mAP50"]) for row in rows] == [False, True, True]
    assert [bool(row["gap"]) for row in rows] == [False, True, True]


def test_training_learns(pictures: Path, tmp_path: Path) -> None:
    unvaried = ["--mosaic=0", "--scale=0", "--translate=0", "--fliplr=0", "--hsv-h=0", "--hsv-s=0", "--hsv-v=0"]
    flags = ["--epochs=15", "--optimizer=adamw", "--lr0=0.01", "--val-every=15"]
    trainer = train(tmp_path, pictures, *flags, *unvaried)
    first, last = trainer.progress.history[0], trainer.progress.history[-1]
    assert last["train/total"] < 0.7 * first["train/total"]


class Exploding(DetectionObjective):
    """Its class term stops being a number at some step."""

    steps = 0

    def forward(self, batch: Batch, progress: float) -> Terms:
        terms = super().forward(batch, progress)
        self.steps += 1
        return terms | Terms({"cls": terms.values["cls"] * float("inf")}) if self.steps == 8 else terms


def test_loss_that_is_not_finite_stops_before_the_weights_are_touched(pictures: Path, tmp_path: Path) -> None:
    config = parse_config(TrainConfig, [*COMMON, f"--data={pictures}"])
    trainer = Trainer(Exploding(make_network()), data.load_spec(config.data), config, tmp_path)
    with pytest.raises(UserError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert "'cls' became inf" in text
    assert "epoch 2, step 7" in text
    assert "--lr0" in text
    assert all(parameter.isfinite().all() for parameter in trainer.network.parameters())
    assert models.read_checkpoint(tmp_path / LAST)["extra"]["training"]["progress"]["epoch"] == 1


class Blowing(DetectionObjective):
    """A finite loss of which the gradient is not."""

    def forward(self, batch: Batch, progress: float) -> Terms:
        terms = super().forward(batch, progress)
        return terms | Terms({"root": (terms.values["box"] * 0).sqrt()})


def test_gradient_that_is_not_finite_stops_before_the_weights_are_touched(pictures: Path, tmp_path: Path) -> None:
    config = parse_config(TrainConfig, [*COMMON, f"--data={pictures}"])
    trainer = Trainer(Blowing(make_network()), data.load_spec(config.data), config, tmp_path)
    before = weights(trainer).clone()
    with pytest.raises(UserError, match="the gradient became nan"):
        trainer.fit()
    assert torch.equal(weights(trainer), before)


def test_the_first_three_batches_are_drawn_as_the_network_gets_them(pictures: Path, tmp_path: Path) -> None:
    train(tmp_path, pictures, "--epochs=2")
    drawn = sorted(path.name for path in tmp_path.glob("train_batch*"))
    assert drawn == [f"train_batch{number}.jpg" for number in range(3)]
    image = cv2.imread(str(tmp_path / drawn[0]))
    assert (image.max(axis=2).astype(int) - image.min(axis=2) > 60).any(), "there are boxes of a class's colour"


def test_epochs_have_one_numbering_wherever_they_are_told(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "thinyolo"):
        trainer = train(tmp_path, pictures, "--epochs=2")
    assert "epoch 1/2: " in caplog.text
    assert "epoch 2/2: " in caplog.text
    assert "epoch 0" not in caplog.text
    with open(tmp_path / "results.csv", newline="") as handle:
        assert [row["epoch"] for row in csv.DictReader(handle)] == ["1", "2"]
    assert [row["epoch"] for row in trainer.progress.history] == [1, 2]
    older = asdict(trainer.progress) | {"history": [{"epoch": 0, "step": 3}, {"epoch": 1, "step": 6}]}
    assert Progress.of(older).history == [{"epoch": 1, "step": 3}, {"epoch": 2, "step": 6}]


def test_patience_ends_a_training_that_gets_no_better(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    monkeypatch.setattr(Trainer, "_validate", lambda _: {"val/mAP50-95": next(scores)})
    trainer = train(tmp_path, pictures, "--epochs=5", "--patience=2")
    assert len(trainer.progress.history) == 4
    assert (trainer.progress.best_epoch, trainer.progress.best_score) == (1, 0.3)
    best = models.read_checkpoint(tmp_path / "weights" / "best.pt")["extra"]
    assert (best["epoch"], best["metrics"]["val/mAP50-95"]) == (2, 0.3)


def test_frozen_layers_keep_every_bit(pictures: Path, tmp_path: Path) -> None:
    trainer = train(tmp_path, pictures, "--epochs=1", "--freeze=3")
    fresh = make_network().state_dict()
    for name, tensor in trainer.network.state_dict().items():
        if name.startswith(("layers.0.", "layers.1.", "layers.2.")):
            assert torch.equal(tensor, fresh[name]), name
    assert not torch.equal(trainer.network.state_dict()["layers.3.conv.weight"], fresh["layers.3.conv.weight"])


def test_multi_scale_sizes_fit_the_network_keep_the_aspect_and_follow_from_seed_and_step(
    pictures: Path, tmp_path: Path
) -> None:
    flags = [f"--data={pictures}", "--imgsz=512x256", "--multi-scale=0.5"]
    one, other = make_trainer(tmp_path, flags), make_trainer(tmp_path, [*flags, "--seed=4"])
    sizes = []
    for trainer in (one, one, other):
        drawn = []
        for step in range(30):
            trainer.progress.step = step
            drawn.append(trainer._input_size())
        sizes.append(drawn)
    assert sizes[0] == sizes[1] != sizes[2]
    assert len(set(sizes[0])) > 5
    stride = one.network.max_stride
    for height, width in sizes[0]:
        assert height % stride == width % stride == 0
        assert 128 <= height <= 384
        assert abs(width - 2 * height) <= stride


def test_rectangular_input_trains(pictures: Path, tmp_path: Path) -> None:
    trainer = train(tmp_path, pictures, "--epochs=1", "--imgsz=96x64")
    assert trainer.progress.finished


def test_checkpoints_say_the_size_they_were_trained_for(pictures: Path, tmp_path: Path) -> None:
    assert make_network().image_size != (64, 96)
    train(tmp_path, pictures, "--epochs=1", "--imgsz=96x64")
    for file in (BEST, LAST):
        net = models.load(tmp_path / file)
        assert net.image_size == (64, 96)
        assert (net.cfg.net.int("width"), net.cfg.net.int("height")) == (96, 64)


def test_gradients_are_cleared_as_under_apex_whose_function_takes_no_arguments(pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"])
    plain = trainer.optimizer.zero_grad
    trainer.optimizer.zero_grad = lambda: plain()  # type: ignore[method-assign,misc]
    trainer.fit()
    assert all(parameter.grad is None for parameter in trainer.network.parameters())


def test_last_epochs_are_without_mosaic(pictures: Path, tmp_path: Path) -> None:
    for flags, first in ((["--epochs=30"], 29), (["--epochs=3", "--close-mosaic=10"], 2)):
        assert make_trainer(tmp_path, [f"--data={pictures}", *flags]).feed.train_set.close_mosaic_from == first


def test_size_that_does_not_fit_the_network_is_refused_with_one_that_does(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_trainer(tmp_path, [f"--data={pictures}", "--imgsz=100x64"])
    assert "--imgsz 112x64" in caught.value.todo


def test_data_set_with_other_classes_is_refused(pictures: Path, tmp_path: Path) -> None:
    config = parse_config(TrainConfig, [*COMMON, f"--data={pictures}"])
    spec = data.load_spec(config.data, single_cls=True)
    with pytest.raises(UserError, match="3 classes, the data set 1"):
        Trainer(DetectionObjective(make_network()), spec, config, tmp_path)


def test_validation_without_a_box_is_refused_before_training(tmp_path: Path) -> None:
    yaml = make_pictures(tmp_path / "set", train=6, val=2)
    for path in (tmp_path / "set" / "labels" / "val").iterdir():
        path.write_text("")
    with pytest.raises(UserError, match="has a box"):
        make_trainer(tmp_path / "run", [f"--data={yaml}"])


def test_automatic_batch_on_a_cpu_falls_with_the_input_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.batchsize.free_memory", lambda: 8_000_000_000)
    objective = DetectionObjective(make_network())
    sizes = [
        fitting_batch(objective, TrainConfig(imgsz=size, batch_size=-1), torch.device("cpu"))
        for size in ("64", "416", "640", "1280", "4096")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (16, 1)
