"""The real command on a tiny network and a tiny data set."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finetune_kd
import models
import pipeline.finetune
import prune
from engine.evaluate import Score
from engine.trainer import Trainer
from pipeline.distil_options import AblateConfig
from pipeline.teaching import teacher_scores
from reporting.record import read_record
from tests.cli.material import NAMES, QUICK, command, in_process, killed, make_set, way
from tests.distill.material import tiny_network
from tests.tracked import artifacts, history, recorded

PAIR = ["--weights", "thin.pt", "--t_weights", "fat.pt", "--data", "data.yaml"]
AS_SAID = ["--kd-limit", "0"]  # the weights are what they are said to be


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.yaml`, `thin.pt`, `fat.pt`, and the fat one as `fat.cfg` and `fat.weights`."""
    folder = make_set(tmp_path_factory.mktemp("kd"))
    thin, fat = tiny_network(8), tiny_network(16, seed=1)
    for network in (thin, fat):
        network.names = list(NAMES)
    models.save(thin, folder / "thin.pt")
    models.save(fat, folder / "fat.pt")
    models.save_darknet(fat, folder / "fat.cfg", folder / "fat.weights")
    return folder


@pytest.fixture(scope="module")
def done(material: Path) -> subprocess.CompletedProcess[str]:
    return command("finetune_kd.py", material, *PAIR, "--name", "kd", *QUICK, *AS_SAID, "--wandb", "offline")


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "results.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_command_succeeds_and_measures_the_teacher_first(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stderr.index("teacher on val: mAP50-95 ") < done.stderr.index("epoch ")
    assert "student against teacher: " in done.stdout


def test_run_holds_what_a_user_looks_for(material: Path, done: subprocess.CompletedProcess[str]) -> None:
    run = material / "runs" / "finetune_kd" / "kd"
    wanted = ["args.yaml", "results.csv", "results.png", "report.html", "weights/best.pt", "weights/last.pt"]
    wanted += [f"{who}/{split}/predictions.jpg" for who in ("student", "teacher") for split in ("val", "test")]
    assert [name for name in wanted if not (run / name).is_file()] == []


def test_results_have_student_teacher_gap_and_every_term(
    material: Path, done: subprocess.CompletedProcess[str]
) -> None:
    table = rows(material / "runs" / "finetune_kd" / "kd")
    assert len(table) == 2
    for row in table:
        for name in ("box", "obj", "cls", "scaled_obj", "scaled_cls", "scaled_box", "bounded", "gate_rate", "total"):
            assert np.isfinite(float(row[f"train/{name}"])), name
        gap = float(row["teacher/mAP50-95"]) - float(row["student/mAP50-95"])
        assert float(row["gap"]) == pytest.approx(gap, abs=1e-5)
        assert row["student/mAP50-95"] == row["val/mAP50-95"]
        for name in NAMES:
            student, teacher, gap = (float(row[f"{who}/AP50-95/{name}"]) for who in ("student", "teacher", "gap"))
            assert gap == pytest.approx(teacher - student, abs=1e-5)
    assert table[0]["teacher/mAP50-95"] == table[1]["teacher/mAP50-95"]


def test_shares_are_of_the_weighted_total(material: Path, done: subprocess.CompletedProcess[str]) -> None:
    """Two steps an epoch: the mean of the steps' shares lies near the share of the means."""
    for row in rows(material / "runs" / "finetune_kd" / "kd"):
        share = 5 * float(row["train/bounded"]) / float(row["train/total"])
        assert float(row["train/share_bounded"]) == pytest.approx(share, rel=0.2)


def test_epochs_line_tells_the_teachers_score_and_the_gap(done: subprocess.CompletedProcess[str]) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch 1/2: ")]
    assert len(lines) == 1
    assert ", teacher mAP50-95 " in lines[0]
    assert ", gap " in lines[0]
    assert "share_" not in lines[0]


def test_total_is_the_weighted_sum_of_all_terms(material: Path, done: subprocess.CompletedProcess[str]) -> None:
    weights = {
        "box": 10,
        "obj": 100,
        "cls": 1,
        "scaled_obj": 0.5,
        "scaled_cls": 0.5,
        "scaled_box": 0.5 * 10,
        "bounded": 0.5 * 10,
    }
    for row in rows(material / "runs" / "finetune_kd" / "kd"):
        total = sum(weight * float(row[f"train/{name}"]) for name, weight in weights.items())
        assert float(row["train/total"]) == pytest.approx(total, rel=1e-3)


def test_tracked_run_has_terms_gap_classes_and_an_artifact_that_names_the_teacher(
    material: Path, done: subprocess.CompletedProcess[str]
) -> None:
    folder = next((material / "runs" / "finetune_kd" / "kd" / "wandb").glob("offline-run-*"))
    epochs = [row for row in history(folder, 2) if "epoch" in row]
    assert len(epochs) == 2
    for row in epochs:
        for name in ("student/mAP50-95", "teacher/mAP50-95", "gap", "train/bounded", "train/gate_rate"):
            assert recorded(row, name) is not None, name
        for name in NAMES:
            mine, theirs, gap = (recorded(row, f"{who}/AP50-95/{name}") for who in ("student", "teacher", "gap"))
            assert gap == pytest.approx(theirs - mine, abs=1e-5), name
    student = artifacts(folder)["kd-student"]
    assert models.fingerprint(models.load(material / "fat.pt")) in student.metadata


def test_checkpoint_is_the_student_alone_and_names_its_teacher(
    material: Path, done: subprocess.CompletedProcess[str]
) -> None:
    run = material / "runs" / "finetune_kd" / "kd"
    thin, fat = models.load(material / "thin.pt"), models.load(material / "fat.pt")
    for name in ("best.pt", "last.pt"):
        content = models.read_checkpoint(run / "weights" / name)
        assert set(content["state"]) == set(thin.state_dict())
        assert content["meta"]["teacher"] == {"source": "fat.pt", "sha256": models.fingerprint(fat)}
    trained = models.load(run / "weights" / "last.pt")
    assert models.parameters(trained) == models.parameters(thin)
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), thin.parameters()))


@pytest.mark.usefixtures("no_plots")
def test_killed_run_resumes_to_the_bits_of_the_uninterrupted_one(
    material: Path, done: subprocess.CompletedProcess[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = material / "runs" / "finetune_kd"
    chosen = [*PAIR, "--name", "killed", *QUICK, *AS_SAID, "--save-every", "1"]
    killed("finetune_kd.py", material, "killed", 3, *chosen)
    stopped_at = models.read_checkpoint(runs / "killed" / "weights" / "last.pt")["extra"]["training"]["progress"]
    assert (stopped_at["step"], stopped_at["finished"]) == (2, False)
    again = ["--resume", "runs/finetune_kd/killed", "--wandb", "off"]
    assert in_process(finetune_kd.main, monkeypatch, material, *again) == 0
    whole, resumed = (models.read_checkpoint(runs / name / "weights" / "last.pt") for name in ("kd", "killed"))
    assert all(torch.equal(tensor, resumed["state"][name]) for name, tensor in whole["state"].items())


@pytest.fixture
def worse_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every teacher is measured below every student."""

    def measured(*arguments: Any) -> dict[str, Score]:
        return {split: replace(score, map50_95=-0.01) for split, score in teacher_scores(*arguments).items()}

    monkeypatch.setattr("pipeline.finetune.teacher_scores", measured)


@pytest.mark.usefixtures("no_plots")
def test_teacher_is_scored_by_name_wherever_its_score_stands(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At smaller inputs too: the same labels, the classes numbered in another order, or one of them alone."""
    chosen = ["--weights", "thin.pt", "--t_weights", "fat.pt", *QUICK, "--epochs", "1", "--files", "none"]
    found = {}
    for name, numbers in (("same", ["0", "1"]), ("turned", ["1", "0"]), ("alone", ["0", ""])):
        shutil.copytree(material / "images", tmp_path / name / "images")
        shutil.copytree(material / "labels", tmp_path / name / "labels")
        for path in (tmp_path / name / "labels").rglob("*.txt"):
            lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
            path.write_text("".join(f"{new} {rest}\n" for old, rest in lines if (new := numbers[int(old)])))
        names = sorted((number, label) for number, label in zip(numbers, NAMES) if number)
        text = f"train: images/train\nval: images/val\nnames: [{', '.join(label for _, label in names)}]\n"
        (tmp_path / name / "data.yaml").write_text(text)
        data = ["--data", str(tmp_path / name / "data.yaml"), "--name", f"by-name-{name}"]
        assert in_process(finetune_kd.main, monkeypatch, material, *chosen, *data) == 0
        points = read_record(material / "runs" / "finetune_kd" / f"by-name-{name}")["points"]
        found[name] = [point["map50_95"] for point in points if point["kind"] != "cut"]
    assert found["same"] == pytest.approx(found["turned"], abs=1e-6)
    assert len(found["alone"]) == len(found["same"]) > 1


@pytest.mark.usefixtures("no_plots", "good_start")
def test_student_worse_than_what_it_began_with_is_told_and_not_shipped(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = material / "runs" / "finetune_kd" / "unhelped"
    monkeypatch.setattr("reporting.speed.LEAST_SHARE", 0.0)  # a busy machine withholds nothing
    assert in_process(finetune_kd.main, monkeypatch, material, *PAIR, *QUICK, *AS_SAID, "--name", "unhelped") == 0
    shown = capsys.readouterr()
    assert "Fine-tuning did not help: the network it began with scored mAP50-95 0.5000 on val before" in shown.err
    said = "Fine-tuning did not help: thin.pt scored mAP50-95 0.5000 on val before the first step, "
    assert said in shown.out
    record = read_record(run)
    assert said in record["verdict"]
    point = record["points"][record["ship"] or 0]
    assert (point["name"], point["file"]) == ("thin.pt", "thin.pt")
    assert record["ship_why"].endswith("thinyolo export --weights thin.pt --to onnx,int8 --data data.yaml")
    assert "Use thin.pt as it is" in (run / "report.html").read_text()

    def measures(*_: Any, **__: Any) -> None:
        raise AssertionError("what is measured is kept")

    monkeypatch.setattr("reporting.speed.round_times", measures)
    monkeypatch.setattr("pipeline.measured.call_rounds", measures)
    monkeypatch.setattr("reporting.speed.LEAST_SHARE", 2.0)  # of a machine that is busy now
    with pytest.raises(AssertionError, match="what is measured is kept"):  # another run measures
        in_process(finetune_kd.main, monkeypatch, material, *PAIR, *QUICK, *AS_SAID, "--name", "unhelped2")
    monkeypatch.setattr("reporting.speed.LEAST_SHARE", 0.0)
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run)) == 0
    assert [row["cpu_ms"] for row in read_record(run)["rows"]] == [row["cpu_ms"] for row in record["rows"]]
    assert read_record(run)["points"] == record["points"]


@pytest.fixture
def good_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every student is measured as good before its first step."""
    real = pipeline.finetune.scores

    def measured(*arguments: Any, **keys: Any) -> dict[str, Score]:
        found = real(*arguments, **keys)
        return {"val": replace(found["val"], map50_95=0.5)} if keys.get("splits") == ("val",) else found

    monkeypatch.setattr("pipeline.finetune.scores", measured)


@pytest.mark.usefixtures("no_plots")
def test_student_that_is_its_own_teacher_is_told(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    same = ["--weights", "thin.pt", "--t_weights", "thin.pt", "--data", "data.yaml", "--kd", "bounded"]
    assert in_process(finetune_kd.main, monkeypatch, material, *same, *QUICK, "--name", "same") == 0
    shown = capsys.readouterr()
    assert "teacher and student are the same network: every weight is equal." in shown.err
    assert "as fast (" in shown.out or "the machine was busy" in shown.out


@pytest.mark.usefixtures("no_plots", "worse_teacher")
def test_teacher_below_its_student_does_not_teach_where_nobody_chose_the_modes(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    runs = material / "runs" / "finetune_kd"
    assert in_process(finetune_kd.main, monkeypatch, material, *PAIR, *QUICK, "--name", "off") == 0
    shown = capsys.readouterr()
    said = "KD off: the teacher (val mAP50-95 -0.0100) was below the student (0.0000) before its first step"
    assert shown.err.count(said) == 1
    assert said in shown.out
    assert said in (runs / "off" / "report.html").read_text()
    plain = ["--weights", "thin.pt", "--kd", "none", "--data", "data.yaml", *QUICK, "--name", "none"]
    assert in_process(finetune_kd.main, monkeypatch, material, *plain) == 0
    ours, theirs = (models.read_checkpoint(runs / name / "weights" / "last.pt") for name in ("off", "none"))
    assert all(torch.equal(tensor, theirs["state"][name]) for name, tensor in ours["state"].items())
    assert ours["meta"]["kd_off"] == said
    assert "teacher" not in ours["meta"]

    chosen = [*PAIR, "--kd", "scaled,bounded", *QUICK, "--name", "on"]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen) == 0
    assert "train/bounded" in rows(runs / "on")[0]
    assert "it has little to teach" in capsys.readouterr().err


@pytest.mark.usefixtures("no_plots")
def test_resumed_fine_tune_keeps_what_was_decided_about_its_teacher(
    material: Path, monkeypatch: pytest.MonkeyPatch, worse_teacher: None
) -> None:
    """Measured again elsewhere, teacher and student could come out the other way round."""
    run = material / "runs" / "finetune_kd" / "decided"
    close = Trainer._close_epoch

    def stopped(self: Trainer, began: float) -> None:
        close(self, began)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_close_epoch", stopped)
        assert in_process(finetune_kd.main, patch, material, *PAIR, *QUICK, "--name", "decided") == 130
    monkeypatch.setattr("pipeline.finetune.teacher_scores", teacher_scores)
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run)) == 0
    assert [sorted(row) for row in rows(run)] == [sorted(rows(run)[0])] * 2
    assert "train/bounded" not in rows(run)[0]
    assert models.read_checkpoint(run / "weights" / "best.pt")["meta"]["kd_off"].startswith("KD off")


@pytest.mark.usefixtures("no_plots")
def test_darknet_teacher_and_no_terms_is_plain_fine_tuning(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["--weights", "thin.pt", "--t_cfg", "fat.cfg", "--t_weights", "fat.weights", "--kd", "none"]
    chosen += ["--data", "data.yaml", "--name", "plain"]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen, *QUICK, "--epochs", "1") == 0
    row = rows(material / "runs" / "finetune_kd" / "plain")[0]
    assert "train/bounded" not in row
    assert "teacher/mAP50-95" in row


@pytest.mark.usefixtures("no_plots")
def test_chain_trains_the_assistant_first_and_resumes_in_either(
    material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--weights", "thin.pt", "--t_weights", "fat.pt,thin.pt", "--data", "data.yaml", *QUICK]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen, "--name", "chain", "--epochs", "1") == 0
    run = material / "runs" / "finetune_kd" / "chain"
    assistant, student = (models.load(folder / "weights" / "best.pt") for folder in (run / "assistant1", run))
    assert assistant.meta["teacher"]["sha256"] == models.fingerprint(models.load(material / "fat.pt"))
    assert student.meta["teacher"]["sha256"] == models.fingerprint(assistant)
    before = (run / "assistant1" / "weights" / "best.pt").stat().st_mtime_ns
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run)) == 0
    assert (run / "assistant1" / "weights" / "best.pt").stat().st_mtime_ns == before


@pytest.mark.usefixtures("no_plots")
def test_two_teachers_are_one_row_and_score_as_their_average(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = ["--weights", "thin.pt", "--t_weights", "fat.pt+fat.pt", "--data", "data.yaml", *QUICK, "--epochs", "1"]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen, "--name", "two", "--kd-off", "0.5") == 0
    shown = capsys.readouterr().out
    assert "2 teachers, averaged" in shown
    assert f"{2 * models.parameters(models.load(material / 'fat.pt')):,}" in shown
    assert "peak memory: " in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "thin.pt"], "needs a teacher"),
        (["--weights", "thin.pt", "--t_weights", "fat.pt", "--kd", "hintn"], "'hintn'"),
        (["--t_weights", "fat.pt"], "no network"),
        (["--weights", "thin.pt", "--t_cfg", "fat.cfg"], "needs trained weights"),
        (["--weights", "thin.pt", "--t_weights", "fat.pt+fat.pt", "--kd", "pkd"], "the average of 2 teachers"),
        (["--weights", "thin.pt", "--t_weights", "fat.pt", "--kd", "aligned"], "ancestor"),
        (["--weights", "thin.pt", "--t_weights", "none.pt"], "none.pt: does not exist"),
        (["--weights", "thin.pt", "--kd", "none", "--freeze", "99", "--wandb", "offline"], "--freeze 99"),
    ],
    ids=[
        "no teacher",
        "unknown term",
        "no student",
        "cfg without weights",
        "averaged features",
        "no lineage",
        "no such file",
        "too many layers",
    ],
)
def test_mistakes_end_with_a_sentence_and_status_2(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], said: str
) -> None:
    arguments = [*QUICK, *arguments, "--data", "data.yaml", "--name", "wrong"]
    assert in_process(finetune_kd.main, monkeypatch, material, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not list((material / "runs").glob("*/wrong*")), "no folder is left"


def test_list_modes_names_every_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert in_process(finetune_kd.main, monkeypatch, tmp_path, "--list-modes") == 0
    shown = capsys.readouterr().out
    assert "hinton" in shown
    assert "NeurIPS 2017" in shown


@pytest.mark.usefixtures("no_plots")
def test_student_is_solved_for_its_ancestor_before_the_first_step_and_once(
    material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fat = models.load(material / "fat.pt")
    models.save(prune.prune(fat, budget="params=0.4").network, material / "cut.pt")
    chosen = ["--weights", "cut.pt", "--reconstruct", "fat.pt", "--data", "data.yaml", "--kd", "none", *QUICK]
    runs = material / "runs" / "finetune_kd"
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen, "--name", "solved") == 0
    assert "solved on 8 pictures" in (runs / "solved" / "report.html").read_text()
    start, cut = models.load(runs / "solved" / "solved.pt"), models.load(material / "cut.pt")
    assert models.fingerprint(start) != models.fingerprint(cut)
    best = models.load(runs / "solved" / "weights" / "best.pt")
    assert way(start, best) < 0.3 * way(cut, best)

    killed("finetune_kd.py", material, "broken", 3, *chosen, "--name", "broken", "--save-every", "1")
    monkeypatch.setattr("pipeline.solved.solve_start", None)
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(runs / "broken")) == 0
    states = [models.read_checkpoint(runs / name / "weights" / "last.pt")["state"] for name in ("solved", "broken")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert "solved on 8 pictures" in (runs / "broken" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reconstruct", "thin.pt"], "thin.pt: --reconstruct thin.pt: this network"),
        (["--reconstruct", "none.pt"], "none.pt"),
        (["--reconstruct"], "--reconstruct means the teacher, and there is none"),
        (["--reconstruct", "--t_weights", "fat.pt"], "fat.pt: --reconstruct teacher: this network"),
        (["--reconstruct", "--t_weights", "fat.pt+fat.pt"], "there are several"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_solving_for_what_is_no_ancestor_is_refused(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], said: str
) -> None:
    chosen = ["--weights", "thin.pt", "--data", "data.yaml", "--kd", "none", *QUICK, "--name", "wrong", *arguments]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen) == 2
    assert said in capsys.readouterr().err
    assert not (material / "runs" / "finetune_kd" / "wrong").exists()


def test_reconstruct_is_a_file_or_a_yes_or_a_no() -> None:
    for said, meant in (("off", ""), ("No", ""), ("true", "teacher"), ("a/sparse.pt", "a/sparse.pt")):
        assert AblateConfig(reconstruct=said).reconstruct == meant


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--freeze=99", "the network has layers 0 to"),
        ("--freeze=abc", "is neither a number nor"),
        ("--amp=apex", "Apex"),
    ],
)
def test_what_the_training_would_refuse_is_refused_before_anything_is_scored(
    option: str, said: str, material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(finetune_kd.main, monkeypatch, material, *PAIR, *QUICK, option) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "mAP50-95" not in err
