"""A training that was killed and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import data
import models
from common.errors import UserError
from common.rundir import BEST, LAST, RESULTS
from engine import checkpoints
from engine.checkpoints import check_begun, finished
from engine.seams import Hooks
from tests.engine.job import PullingHook, make_network, make_trainer, state

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("no_plots")


def run_and_kill(run: Path, flags: list[str], step: int, unlabelled: Path | None = None) -> None:
    environment = {**os.environ, "THINYOLO_KILL_AT": str(step), "OMP_NUM_THREADS": "1"}
    if unlabelled:
        environment["THINYOLO_FOOTAGE"] = str(unlabelled)
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "tests.engine.job", str(run), *flags]
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert job.returncode == -signal.SIGKILL, job.stderr


def assert_equal_states(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


@pytest.mark.parametrize(
    "flags, workers",
    [
        ([], (0, 0)),
        # 22 pictures in batches of 3, two a step: the last batch and the last step of an epoch are short
        (["--batch-size=3", "--nominal-batch=6", "--save-every=1", "--multi-scale=0.5", "--mixup=0.5"], (2, 0)),
    ],
    ids=["from the epoch's end", "from within an epoch, accumulating, other workers"],
)
def test_killed_and_resumed_run_equals_an_uninterrupted_one(
    pictures: Path, tmp_path: Path, flags: list[str], workers: tuple[int, int]
) -> None:
    flags = [f"--data={pictures}", *flags]
    whole = make_trainer(tmp_path / "whole", flags)
    whole.fit()
    kill_at = random.SystemRandom().randrange(2, whole.total_steps + 1)

    run = tmp_path / f"killed in step {kill_at}"
    run_and_kill(run, [*flags, f"--workers={workers[0]}"], kill_at)
    assert finished(run) is None
    resumed = make_trainer(run, [*flags, f"--workers={workers[1]}"])
    went_on = resumed.resume()
    assert went_on == (run / LAST).exists()
    if "--save-every=1" in flags:
        assert resumed.progress.step == kill_at - 1
    resumed.fit()

    assert_equal_states(state(tmp_path / "whole"), state(run))
    best = [models.read_checkpoint(each / BEST)["state"] for each in (tmp_path / "whole", run)]
    assert_equal_states(*best)
    rows = [(each / "results.csv").read_text().splitlines() for each in (tmp_path / "whole", run)]
    assert [row.rsplit(",", 2)[0] for row in rows[0]] == [row.rsplit(",", 2)[0] for row in rows[1]]


def test_killed_and_resumed_run_with_footage_equals_an_uninterrupted_one(pictures: Path, tmp_path: Path) -> None:
    """22 pictures beside 6 companions, three for two: passes end within epochs, batches and steps are uneven."""
    flags = [f"--data={pictures}", "--batch-size=3", "--nominal-batch=6", "--save-every=1"]
    unlabelled = pictures.parent / "images/val"
    make_trainer(tmp_path / "whole", flags, unlabelled=unlabelled).fit()
    run_and_kill(tmp_path / "killed", [*flags, "--workers=2"], 6, unlabelled)
    resumed = make_trainer(tmp_path / "killed", flags, unlabelled=unlabelled)
    assert resumed.resume()
    assert resumed.progress.step == 5
    resumed.fit()
    assert_equal_states(state(tmp_path / "whole"), state(tmp_path / "killed"))
    make_trainer(tmp_path / "without", flags).fit()
    with pytest.raises(AssertionError):
        assert_equal_states(state(tmp_path / "whole"), state(tmp_path / "without"))
    assert models.read_checkpoint(tmp_path / "without" / LAST)["extra"]["training"]["progress"]["step"] == 12


def test_states_of_different_runs_differ(pictures: Path, tmp_path: Path) -> None:
    """The comparison above can fail: another seed gives other bits."""
    flags = [f"--data={pictures}", "--epochs=1"]
    for name, seed in (("a", 3), ("b", 4)):
        make_trainer(tmp_path / name, [*flags, f"--seed={seed}"]).fit()
    with pytest.raises(AssertionError):
        assert_equal_states(state(tmp_path / "a"), state(tmp_path / "b"))


def test_finished_run_is_recognised_and_not_trained_again(pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"])
    result = trainer.fit()
    assert finished(tmp_path) == result
    before = (tmp_path / LAST).read_bytes()
    again = make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"])
    assert again.resume()
    again.fit()
    assert (tmp_path / LAST).read_bytes() == before


def test_checkpoints_hold_the_averaged_network_and_no_adapter(pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"])
    result = trainer.fit()
    for path in (result.best, result.last):
        loaded = models.load(path).state_dict()
        assert loaded.keys() == trainer.network.state_dict().keys()
    last = models.load(result.last).state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in trainer.ema.module.state_dict().items())
    assert any(not torch.equal(last[name], tensor) for name, tensor in trainer.network.state_dict().items())


def test_nothing_to_resume_starts_from_the_beginning(pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}"])
    assert not trainer.resume()
    assert trainer.progress.step == 0


def test_batch_that_memory_chose_is_kept(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [f"--data={pictures}", "--epochs=1", "--batch-size=-1", "--nominal-batch=8"]
    monkeypatch.setattr("engine.feed.fitting_batch", lambda *_, **__: 3)
    make_trainer(tmp_path, flags).fit()
    monkeypatch.setattr("engine.feed.fitting_batch", lambda *_, **__: 5)
    resumed = make_trainer(tmp_path, flags, resume=tmp_path)
    assert resumed.resume()
    assert (resumed.batch, resumed.accumulate) == (3, 3)
    assert make_trainer(tmp_path, flags).batch == 5, "another training"


def test_resuming_with_other_hooks_or_another_network_is_refused(pictures: Path, tmp_path: Path) -> None:
    flags = [f"--data={pictures}", "--epochs=1"]
    make_trainer(tmp_path, flags).fit()
    with pytest.raises(UserError, match="1 hooks, this training has 0"):
        make_trainer(tmp_path, flags, plain=True).resume()

    trainer = make_trainer(tmp_path, flags, plain=True)
    trainer.hooks = (PullingHook(),)
    with pytest.raises(UserError, match="does not fit this training"):
        trainer.resume()


def test_hooks_without_a_state_may_come_and_go(pictures: Path, tmp_path: Path) -> None:
    flags = [f"--data={pictures}", "--epochs=1"]
    make_trainer(tmp_path, flags).fit()
    trainer = make_trainer(tmp_path, flags)
    trainer.hooks = (Hooks(), *trainer.hooks)
    assert trainer.resume()
    assert trainer.hooks[1].state_dict()["steps"] == trainer.progress.step > 0


def test_a_plain_checkpoint_cannot_be_resumed(pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}"])
    models.save(make_network(), tmp_path / LAST)
    with pytest.raises(UserError, match="no state of a training"):
        trainer.resume()
    shutil.rmtree(tmp_path / "weights")


def test_other_labels_than_at_the_beginning_are_refused(pictures: Path, tmp_path: Path) -> None:
    make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"]).fit()
    label = next(path for path in sorted((pictures.parent / "labels/train").iterdir()) if path.read_text().strip())
    before = label.read_text()
    assert make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"]).resume()
    try:
        label.write_text("0 .3 .3 .1 .1\n")
        with pytest.raises(UserError, match="labels, or the sizes, of the pictures to train on have changed"):
            make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"]).resume()
    finally:
        label.write_text(before)


def test_other_pictures_than_at_the_beginning_are_refused_with_the_numbers(pictures: Path, tmp_path: Path) -> None:
    spec = data.load_spec(pictures)
    kept = checkpoints.pictures_of(spec)
    checkpoints.check_pictures(kept, spec, tmp_path)
    checkpoints.check_pictures(None, spec, tmp_path)  # of an earlier version
    fewer = replace(spec, splits={**spec.splits, "train": spec.splits["train"][:-2]})
    with pytest.raises(UserError, match="train had 22 pictures and has 20"):
        checkpoints.check_pictures(kept, fewer, tmp_path)
    others = replace(spec, splits={**spec.splits, "val": tuple(Path(f"{path}x") for path in spec.splits["val"])})
    with pytest.raises(UserError, match="val has other 6 pictures"):
        checkpoints.check_pictures(kept, others, tmp_path)
    with pytest.raises(UserError, match=r"classes are not those this run began with: .* then, other, "):
        checkpoints.check_pictures(kept, replace(spec, names=("other", *spec.names[1:])), tmp_path)
    older = {name: value for name, value in kept.items() if name != checkpoints.READING}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"max_det": 300}, "`max_det` was 100 and is 300"),
        ({"pixel_range": (0.0, 4095.0)}, r"`pixel_range` was not given and is \[0.0, 4095.0\]"),
        ({"keypoints": (17, 3)}, r"`kpt_shape` was not given and is \[17, 3\]"),
    ]
    for change, said in changes:
        checkpoints.check_pictures(older, replace(spec, **change), tmp_path)
        with pytest.raises(UserError, match=said):
            checkpoints.check_pictures(kept, replace(spec, **change), tmp_path)
    make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"]).fit()
    training = checkpoints.read_last(tmp_path)
    assert training is not None
    assert training["pictures"] == kept


@pytest.mark.parametrize("part", ["network", "ema", "hooks", "optimizer", "precision", "progress", "adapters", "batch"])
def test_an_incomplete_state_of_a_training_is_told(part: str, pictures: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"])
    trainer._save_last()
    sound = models.read_checkpoint(tmp_path / LAST)
    for value in ("absent", None, {} if part not in ("precision", "batch", "adapters") else "x"):
        training = dict(sound["extra"]["training"])
        if value == "absent":
            del training[part]
        else:
            training[part] = value
        torch.save({**sound, "extra": {"training": training}}, tmp_path / LAST)
        with pytest.raises(UserError, match=str(tmp_path / LAST)):
            trainer.resume()


@pytest.mark.parametrize("ends", [None, (0.0, 4095.0)])
def test_checkpoints_say_how_deep_pictures_were_read(
    ends: tuple[float, float] | None, pictures: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, [f"--data={pictures}", "--epochs=1"])
    trainer.network.meta["pixel_range"] = [1.0, 2.0]  # of what it was trained on before
    trainer.spec = replace(trainer.spec, pixel_range=ends)
    trainer._save_last()
    kept = models.load(tmp_path / LAST).meta
    assert kept["pixel_range"] == (list(ends) if ends else None)
    assert kept["trained_at"] == "64"


def test_a_class_of_two_words_is_no_epoch(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("epoch,step,student/AP50-95/traffic light,student/AP50-95/hot dog\n1,9,0.1,0.2\n")
    check_begun(tmp_path)
    with open(tmp_path / RESULTS, "a") as handle:
        handle.write("2,18,0.1,0.2\n")
    with pytest.raises(UserError, match="tells of 2 epochs"):
        check_begun(tmp_path)
