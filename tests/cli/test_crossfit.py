"""Cross-fitted teachers in the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import finetune_kd
import models
import train_prune
from tests.cli.material import NAMES, QUICK, command, in_process, killed, make_set
from tests.distill.material import tiny_network


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.yaml` and `start.pt`, a network that has seen other classes."""
    folder = make_set(tmp_path_factory.mktemp("crossfit"))
    network = tiny_network(16, seed=3)
    network.names = [f"other {name}" for name in NAMES]
    models.save(network, folder / "start.pt")
    return folder


LINE = ("--weights", "start.pt", "--data", "data.yaml", "--stages", "baseline,prune,student", "--prune", "params=0.6")
FOLDS = ("--finetune-epochs", "1", "--no-compare-plain", "--cross-fit")


def test_line_trains_a_teacher_a_fold_and_a_killed_one_goes_on_to_the_same_bits(material: Path) -> None:
    done = command("train_prune.py", material, *LINE, *FOLDS, *QUICK, "--name", "whole")
    assert done.returncode == 0, done.stderr
    assert "2 more baselines, of 4 epochs each on 50 % of the training pictures" in done.stderr
    killed("train_prune.py", material, "fold2", 2, *LINE, *FOLDS, *QUICK, "--save-every", "1", "--name", "cut off")
    again = command("train_prune.py", material, "--resume", "runs/train_prune/cut off")
    assert again.returncode == 0, again.stderr
    for stage in ("fold1", "fold2", "student"):
        one, other = (
            models.load(material / "runs/train_prune" / name / stage / "weights/last.pt").state_dict()
            for name in ("whole", "cut off")
        )
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), stage
    assert "cross-fit teachers" in (material / "runs/train_prune/whole/report.html").read_text()


def test_teachers_of_a_run_teach_a_fine_tune(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    for seed in (1, 2):
        network = tiny_network(16, seed=seed)
        network.names = list(NAMES)
        models.save(network, material / f"fold{seed}.pt")
    flags = ["--weights", "fold1.pt", "--data", "data.yaml", "--kd", "scaled", "--cross-fit", *QUICK]
    both = ["--t_weights", "fold1.pt+fold2.pt", "--name", "both"]
    assert in_process(finetune_kd.main, monkeypatch, material, *flags, *both) == 0
    capsys.readouterr()
    assert in_process(finetune_kd.main, monkeypatch, material, *flags, "--t_weights", "fold1.pt") == 2
    assert "--cross-fit 2 with 1 teacher" in capsys.readouterr().err


def test_a_start_that_has_seen_everything_cannot_be_cross_fitted(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--weights", "start.pt", "--data", "data.yaml", "--stages", "prune,student", "--prune", "params=0.6"]
    assert in_process(train_prune.main, monkeypatch, material, *flags, "--cross-fit", "2", *QUICK) == 2
    assert "what this run begins with has seen all pictures" in capsys.readouterr().err


def test_teachers_that_nobody_would_ask_are_not_trained(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--weights", "start.pt", "--data", "data.yaml", "--then-kd", "--kd", "none", "--prune", "params=0.6"]
    assert in_process(train_prune.main, monkeypatch, material, *flags, "--cross-fit", "2", *QUICK) == 2
    assert "--cross-fit 2 with --kd none" in capsys.readouterr().err


def test_more_folds_than_pictures_are_refused_before_the_baseline(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(train_prune.main, monkeypatch, material, *LINE, *FOLDS, "9", *QUICK) == 2
    err = capsys.readouterr().err
    assert "8 pictures do not make 9 folds" in err
    assert "epoch 1/" not in err
