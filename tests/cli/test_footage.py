"""Footage in the real commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import finetune_kd
import models
import train_prune
from tests.cli.material import NAMES, QUICK, command, in_process, killed, make_set
from tests.cli.test_finetune_kd import PAIR, rows
from tests.data.made import write_picture
from tests.data.test_footage import make_video
from tests.distill.material import tiny_network


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.yaml`, `thin.pt` and `fat.pt`."""
    folder = make_set(tmp_path_factory.mktemp("footage"))
    for name, width in (("thin", 8), ("fat", 16)):
        network = tiny_network(width, seed=width)
        network.names = list(NAMES)
        models.save(network, folder / f"{name}.pt")
    return folder


def test_footage_is_learnt_from_and_a_killed_run_goes_on_to_the_same_bits(material: Path) -> None:
    """A folder and a video; the killed run has decoded it and does not need it any more."""
    for number in range(3):
        write_picture(material / "footage" / f"{number}.png", np.full((64, 64, 3), 60 * number, np.uint8))
    film = make_video(material / "film.avi")
    options = ["--unlabelled", f"footage,{film.name}", "--unlabelled-every", "20", *QUICK, "--save-every", "1"]
    done = command("finetune_kd.py", material, *PAIR, "--name", "watched", *options)
    assert done.returncode == 0, done.stderr
    assert "5 pictures without labels beside 8 with labels" in done.stderr
    assert "also on 5 pictures without labels" in done.stdout
    runs = material / "runs" / "finetune_kd"
    assert [row["unlabelled/pictures"] for row in rows(runs / "watched")] == ["5", "5"]
    assert "5 pictures without labels beside 8 with" in (runs / "watched" / "report.html").read_text()
    killed("finetune_kd.py", material, "killed watched", 2, *PAIR, "--name", "killed watched", *options)
    film.unlink()
    again = command("finetune_kd.py", material, "--resume", "runs/finetune_kd/killed watched")
    assert again.returncode == 0, again.stderr
    one, other = (models.load(runs / name / "weights/last.pt").state_dict() for name in ("watched", "killed watched"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert models.load(runs / "watched" / "weights/best.pt").meta["unlabelled"] == {"pictures": 5, "as": "kd"}


def test_pseudo_labels_are_learnt_from_without_kd_terms(material: Path) -> None:
    for number in range(3):
        write_picture(material / "more" / f"{number}.png", np.full((64, 64, 3), 70 * number, np.uint8))
    flags = ["--kd", "none", "--unlabelled", "more", "--unlabelled-as", "labels", "--unlabelled-ratio", "0.5"]
    done = command("finetune_kd.py", material, *PAIR, "--name", "pseudo", *flags, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "stand for labels" in done.stderr
    assert [row["unlabelled/boxes"] != "" for row in rows(material / "runs/finetune_kd/pseudo")] == [True, True]


def test_grid_gathers_footage_once_and_rows_that_learn_nothing_from_it_go_without(
    material: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None
) -> None:
    write_picture(material / "few" / "0.png", np.full((64, 64, 3), 90, np.uint8))
    make_video(material / "few/film.avi")
    flags = ["--ablate", "none; scaled", "--seeds", "1", "--unlabelled", "few", "--name", "grid"]
    assert in_process(finetune_kd.main, monkeypatch, material, *PAIR, *flags, *QUICK) == 0
    run = material / "runs/ablate/grid"
    assert [path.parent for path in run.rglob("unlabelled")] == [run]
    columns = {name: rows(run / name / "seed0")[0] for name in ("none", "scaled")}
    assert columns["scaled"]["unlabelled/pictures"] == "4"
    assert "unlabelled/pictures" not in columns["none"]


def test_rows_may_have_footage_of_their_own(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    write_picture(material / "own" / "0.png", np.full((64, 64, 3), 30, np.uint8))
    flags = [*PAIR, *QUICK, "--seeds", "1", "--name", "rows", "--ablate"]
    grid = "none; scaled; scaled unlabelled=own; none unlabelled=own unlabelled_as=labels"
    assert in_process(finetune_kd.main, monkeypatch, material, *flags, grid) == 0
    run = material / "runs/ablate/rows"
    columns = {path.parent.name: "unlabelled/pictures" in rows(path)[0] for path in run.glob("*/seed0")}
    assert columns == {name: "unlabelled" in name for name in columns}
    assert len(columns) == 4
    assert [path.parent for path in run.rglob("unlabelled")] == [run], "gathered once for all cells"
    capsys.readouterr()
    assert in_process(finetune_kd.main, monkeypatch, material, *flags, "none; none unlabelled=own") == 2
    assert "nothing would be learnt" in capsys.readouterr().err


def test_line_of_stages_gathers_before_anything_is_trained_and_keeps_the_plain_student_plain(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    write_picture(material / "some" / "0.png", np.full((64, 64, 3), 120, np.uint8))
    line = ["--weights", "fat.pt", "--data", "data.yaml", "--prune", "params=0.5", "--unlabelled", "some", *QUICK]
    long = [*line, "--stages", "sparse,prune,student", "--kd", "bounded", "--name", "refused"]
    assert in_process(train_prune.main, monkeypatch, material, *long) == 2
    assert "nothing would be learnt" in capsys.readouterr().err
    assert not (material / "runs/train_prune/refused").exists()
    short = [*line, "--stages", "prune,student", "--kd", "scaled", "--compare-plain", "--name", "line"]
    assert in_process(train_prune.main, monkeypatch, material, *short) == 0
    run = material / "runs/train_prune/line"
    assert [path.parent for path in run.rglob("unlabelled")] == [run]
    assert rows(run / "student")[0]["unlabelled/pictures"] == "1"
    assert "unlabelled/pictures" not in rows(run / "plain")[0]
    assert "also on 1 pictures without labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--unlabelled", "images/test"], "2 of its 2 pictures are also in 'test'"),
        (["--unlabelled", "images/train", "--kd", "bounded"], "nothing would be learnt"),
        (["--unlabelled", "nowhere"], "no such file or folder"),
        (["--unlabelled", "images/train"], "all 8 pictures are in the training split"),
    ],
)
def test_footage_that_is_of_no_use_is_refused_without_a_trace(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert in_process(finetune_kd.main, monkeypatch, material, *PAIR, "--name", "refused", *flags, *QUICK) == 2
    assert words in capsys.readouterr().err
    assert not (material / "runs/finetune_kd/refused").exists()
