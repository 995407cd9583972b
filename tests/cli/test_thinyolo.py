"""The installed command, run as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import models
from engine.evaluate import score_pictures
from engine.metrics import PictureBoxes
from export.options import ExportOptions
from models.network import Network
from reporting.results import counted, footnote
from tests.engine.test_evaluate import TINY, write_set
from thinyolo.main import main
from thinyolo.val import score_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    net = Network(models.parse_cfg(TINY), ["square", "disc"])
    for number in net.head_convolutions:
        net.convolutions[number].conv.bias.data.fill_(-20)  # type: ignore[union-attr]
    models.save(net, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", [["0 .5 .5 .4 .6"], [], ["1 .6 .6 .3 .3"]])


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "thinyolo", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_check_counts_and_names_file_and_line(tmp_path, small_set, monkeypatch, capsys):
    monkeypatch.setenv("THINYOLO_CACHE", str(tmp_path / "cache"))
    assert main(["check", "--data", str(small_set)]) == 0
    assert "no errors" in capsys.readouterr().out
    label = next(path for path in sorted((tmp_path / "set").rglob("*.txt")) if path.read_text().strip())
    label.write_text("7 .5 .5 .2 .2\n")
    assert main(["check", "--data", str(small_set)]) == 2
    error = capsys.readouterr().err
    assert f"{label}:1: class out of range" in error
    assert "->" in error


def test_val_prints_a_table_and_writes_figures_and_json(tmp_path, weights, small_set):
    done = run("val", "--weights", weights, "--data", small_set, "--name", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mAP50-95" in done.stdout
    assert "disc" in done.stdout
    assert f"{weights} on val of {small_set}: 3 pictures at 64x64" in done.stdout
    assert "it detects nothing here" in done.stdout, "it is sure of nothing"
    folder = tmp_path / "runs/val/first"
    record = json.loads((folder / "score.json").read_text())
    assert (record["images"], record["boxes"], record["size"]) == (3, 2, [64, 64])
    assert {"PR_curve.png", "confusion_matrix.png", "predictions.jpg"} <= {path.name for path in folder.iterdir()}


def test_a_runs_folder_stands_for_its_network(tmp_path, weights, small_set, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_folder = Path("runs/train_prune/exp")
    (run_folder / "pruned").mkdir(parents=True)
    (run_folder / "args.yaml").touch()
    arguments = ["val", "--data", str(small_set), "--no-plots", "--model", str(run_folder)]
    assert main(arguments) == 2
    assert "without a network yet" in capsys.readouterr().err
    weights.rename(run_folder / "pruned/pruned.pt")
    assert main(arguments) == 0
    assert ExportOptions(weights=str(run_folder)).weights == str(run_folder / "pruned/pruned.pt")


def test_predict_writes_pictures_and_a_second_run_gets_its_own_folder(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", np.full((50, 70, 3), 99, np.uint8))
    for _ in range(2):
        assert main(["predict", "--weights", str(weights), "--source", "one.png", "--imgsz", "72x40"]) == 0
    assert "one.png" in capsys.readouterr().out
    assert sorted(path.name for path in Path("runs/predict").iterdir()) == ["exp", "exp2"]
    assert Path("runs/predict/exp/one.png").is_file()


def test_predict_says_how_long_it_took_and_by_its_status_that_a_picture_was_left_out(
    tmp_path, weights, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", np.full((50, 70, 3), 99, np.uint8))
    Path("two.png").write_bytes(b"broken")
    assert main(["predict", "--weights", str(weights), "--source", "*.png", "--threads", "1"]) == 1
    text = capsys.readouterr().out
    assert "ms a picture on CPU, 1 thread" in text
    assert "1 of 2 could not be read" in text
    assert main(["predict", "--weights", str(weights), "--source", "two.png"]) == 2
    assert sorted(path.name for path in Path("runs/predict").iterdir()) == ["exp"], "nothing was written: no folder"


def test_class_names_can_come_from_a_names_file(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my.names").write_text("cat\ndog\n")
    cv2.imwrite("one.png", np.full((64, 64, 3), 99, np.uint8))
    arguments = ["predict", "--weights", str(weights), "--source", "one.png", "--data", "my.names", "--conf", "0"]
    assert main(arguments) == 0
    assert {"cat", "dog"} & set(capsys.readouterr().out.replace(",", " ").split())
    Path("my.names").write_text("cat\ndog\ncow\n")
    assert main(arguments) == 2
    assert "3 class names, the network 2 classes" in capsys.readouterr().err


def test_compared_networks_may_have_other_classes(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", np.full((64, 64, 3), 99, np.uint8))
    thin = Network(models.parse_cfg(TINY), ["disc", "star"])
    models.save(thin, "thin.pt")
    arguments = ["predict", "--source", "one.png", "--conf", "0", "--compare", str(weights), "thin.pt"]
    assert main(arguments) == 0
    assert "tiny.pt and thin.pt have 1 of their 2 and 2 classes in common" in capsys.readouterr().err
    Path("more.names").write_text("disc\nsquare\nstar\n")
    assert main([*arguments, "--data", "more.names"]) == 2
    assert "leave --data out" in capsys.readouterr().err


def test_heads_of_a_cfg_follow_the_classes_of_the_data_and_untrained_heads_are_refused(
    tmp_path, weights, small_set, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    models.save_darknet(models.load(weights), "tiny.cfg", "tiny.weights")
    Path("stock.cfg").write_text(models.load("tiny.cfg", classes=5).cfg.text())
    arguments = ["--cfg", "stock.cfg", "--weights", "tiny.weights"]
    assert main(["val", *arguments, "--data", str(small_set), "--no-plots"]) == 0
    assert "mAP50-95" in capsys.readouterr().out
    cv2.imwrite("one.png", np.full((64, 64, 3), 99, np.uint8))
    assert main(["predict", *arguments, "--source", "one.png", "--data", str(small_set)]) == 0
    assert main(["predict", *arguments, "--source", "one.png"]) == 2
    said = capsys.readouterr().err
    assert "tiny.weights: detects 2 classes, and 5 are named" in said
    assert "the data set it was trained on" in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["val", "--model", "tiny.pt", "--data", "set.yaml", "--workers", "-1"], "-1 is not between 0 and 1024"),
        (["val", "--model", "tiny.pt", "--data", "set.yaml", "--batch-size", "0"], "0 is not between 1 and 65536"),
        (["predict", "--model", "tiny.pt", "--source", "set", "--max-det", "0"], "0 is not between 1 and 100000"),
        (["predict", "--model", "tiny.pt", "--source", "set", "--max-det", "many"], "whole number"),
    ],
)
def test_numbers_that_cannot_be_are_refused(capsys, arguments, said):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["val", "--weights", "absent.pt", "--data", "set/set.yaml"], "absent.pt does not exist"),
        (["val", "--weights", "tiny.pt", "--data", "absent.yaml"], "absent.yaml"),
        (["val", "--weights", "tiny.pt", "--data", "set/set.yaml", "--imgsz", "0"], "is no picture size"),
        (["predict", "--weights", "tiny.pt", "--source", "nowhere"], "nowhere does not exist"),
        (["predict", "--weights", "tiny.weights", "--source", "set"], "add --cfg"),
        (["report", "nowhere"], "not a run's folder"),
    ],
)
def test_mistakes_end_with_status_2_and_one_sentence(
    tmp_path, weights, small_set, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    Path("tiny.weights").write_bytes(b"")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "->" in error, "what to do is said too"
    assert not Path("runs").exists(), "nothing was begun"


def test_help_names_every_command_with_examples(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for command in ("check", "val", "predict", "convert", "report"):
        assert f"    {command} " in text
    assert "examples:" in text


def test_report_tells_where_it_is_and_the_last_scores(tmp_path, capsys):
    (tmp_path / "run/baseline").mkdir(parents=True)
    (tmp_path / "run/baseline/results.csv").write_text("epoch,train/box,val/mAP50\n0,2,0.1\n1,1,0.25\n")
    (tmp_path / "run/report.html").write_text("<html></html>")
    assert main(["report", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "val/mAP50 0.25" in text
    assert "report.html" in text


def test_report_of_one_training_of_an_ablation_names_the_page_of_all(tmp_path, capsys):
    cell = tmp_path / "grid/hinton/seed0"
    cell.mkdir(parents=True)
    (cell / "results.csv").write_text("epoch,val/mAP50\n0,0.1\n")
    assert main(["report", str(cell)]) == 0
    assert "when the run ends" in capsys.readouterr().out
    (cell / "cell.json").write_text("{}")
    assert main(["report", str(cell)]) == 0
    assert f"thinyolo report {tmp_path / 'grid'}" in capsys.readouterr().out


@pytest.mark.parametrize(("scored", "said"), [(100, "1 pictures have more: mAP stays low"), (130, "the 130 most")])
def test_the_table_names_the_cap_where_it_matters(scored, said):
    corners = np.array([[10.0 * number, 10, 10 * number + 8, 20] for number in range(120)])
    truth = np.concatenate((np.zeros((120, 1)), corners), 1)
    sure = np.concatenate((corners, np.full((120, 1), 0.9), np.zeros((120, 1))), 1)
    few = PictureBoxes(sure[:9], truth[:9], (1200, 1200))
    score = score_pictures([PictureBoxes(sure, truth, (1200, 1200)), few], ["square"], scored=scored)
    assert said in score_table(score)
    assert "scored: the" not in score_table(score_pictures([few], ["square"]))
    assert f"mAP counts the {scored} most confident boxes of a class in a picture (max_det)" in footnote(score)
    assert ("1 of the 2 pictures hold more" in footnote(score)) == (scored == 100)
    assert footnote(score_pictures([few], ["square"])) == ""
    assert "mAP counts the 100 most" in counted(score_pictures([few], ["square"]))
