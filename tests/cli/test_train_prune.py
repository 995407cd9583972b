"""The whole line by its real command: a tiny network and a tiny data set."""

from __future__ import annotations

import csv
import html
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import models
import pipeline.finetune
import train_prune
from common.options import load_config
from engine.evaluate import Score
from pipeline.prune_options import PruneConfig
from reporting.record import read_matches, read_record
from reporting.report import EPOCHS
from tests import nets
from tests.cli.material import (
    NAMES,
    QUICK,
    command,
    in_process,
    killed,
    make_set,
    two_processes,
    way,
)
from tests.engine.job import state
from tests.engine.test_resume import assert_equal_states
from tests.tracked import artifacts, history, start_of

LINE = ("--cfg", "net.cfg", "--data", "data.yaml", *QUICK, "--prune", "params=0.5", "--shortcuts", "1", "-sr", "--s")
LINE += ("0.05", "--then-kd", "--compare-plain", "--equal-baseline")
STAGES = ("baseline", "sparse", "longer", "student", "plain")
NETWORKS = ["baseline", "sparse", "pruned", "baseline, trained on", "plain fine-tune", "student"]

FIGURES = ["F1_curve.png", "PR_curve.png", "confusion_matrix.png", "predictions.jpg"]
TRAINED = ["results.csv", "results.png", "weights/best.pt", "weights/last.pt", "train_batch0.jpg", "train_batch1.jpg"]
FILES = {
    "args.yaml",
    "start.pt",
    "report.html",
    "channels.png",
    "gammas.png",
    "labels.png",
    *(f"report/{name}" for name in ("record.json", "matches.npz", "0.jpg", "1.jpg")),
    "sparse/weights/sparse.pt",
    *(f"pruned/{name}" for name in ("channels.csv", "pruned.cfg", "pruned.pt", "pruned.weights", "report.txt")),
    *(f"{stage}/{name}" for stage in STAGES for name in TRAINED),
    *(
        f"{who}/{split}/{name}"
        for who in ("plain/student", "student/student", "student/teacher")
        for split in ("val", "test")
        for name in FIGURES
    ),
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.yaml` and `net.cfg`, a network of two heads with shortcut blocks."""
    folder = make_set(tmp_path_factory.mktemp("line"))
    (folder / "net.cfg").write_text(nets.RESIDUAL)
    return folder


@pytest.fixture(scope="module")
def done(material: Path) -> subprocess.CompletedProcess[str]:
    return command("train_prune.py", material, *LINE, "--name", "whole", "--wandb", "offline")


@pytest.fixture(scope="module")
def run(material: Path, done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 0, done.stderr
    return material / "runs" / "train_prune" / "whole"


@pytest.fixture(scope="module")
def trained(material: Path) -> Path:
    """`mine.pt`: a network with the data set's classes, as somebody may have trained it; `three.pt` has three."""
    torch.manual_seed(0)
    models.save(models.load(material / "net.cfg", names=NAMES), material / "mine.pt")
    models.save(models.load(material / "net.cfg"), material / "three.pt")
    return material / "mine.pt"


def files(run: Path) -> set[str]:
    """All files of a run but W&B's own."""
    found = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return {str(path) for path in found if "wandb" not in path.parts and path.name != "wandb-id.txt"}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_whole_line_writes_these_files_and_no_others(run: Path) -> None:
    assert files(run) == FILES


def test_table_names_every_network_in_order_and_ends_with_the_verdict(
    run: Path, done: subprocess.CompletedProcess[str]
) -> None:
    shown = [line for line in done.stdout.splitlines() if line.strip()]
    ruler = next(number for number, line in enumerate(shown) if set(line) == {"-"})
    names = [line.split("  ")[0] for line in shown[ruler + 1 : -7]]
    assert names == NETWORKS
    assert shown[-7] == "mAP: on the 2 pictures of test, at 64x64"
    assert shown[-6].startswith("CPU (ms): ")
    assert shown[-5] == EPOCHS
    assert shown[-4].startswith("student against baseline: ")
    assert "Epochs of training in this run: baseline 2, student 6 (2 + 2 + 2)." in shown[-4]
    assert shown[-3].startswith("student against baseline, trained on: ")
    assert "2 pictures are too few for an interval" in shown[-3]
    assert shown[-2].startswith("student against plain fine-tune: ")
    assert shown[-1].startswith("report: ")
    words = "\n".join(shown[-4:])
    assert "better" not in words
    assert "worse" not in words


def test_stages_come_in_order_and_the_teacher_is_measured_before_the_student_learns(
    run: Path, done: subprocess.CompletedProcess[str]
) -> None:
    said = [f"{stage}: {4 if stage == 'longer' else 2} epochs" for stage in STAGES]
    said.insert(0, "--equal-baseline: the uncut baseline is trained on for 4 epochs")
    said.insert(3, "more of the cut: ")
    said.insert(5, "teacher on val: mAP50-95 ")
    assert sorted(said, key=done.stderr.index) == said


def test_report_holds_the_table_the_verdict_the_layers_and_the_pictures(
    run: Path, done: subprocess.CompletedProcess[str]
) -> None:
    page = (run / "report.html").read_text()
    for name in NETWORKS:
        assert f"<td><bdi>{name}</bdi></td>" in page
    for part in ("student against baseline: ", "Layer by layer", "3x3 stride 2", "1x1 head", "quantiles of |gamma|"):
        assert part in page, part
    told = (run / "pruned/report.txt").read_text().rstrip()
    assert told in html.unescape(page), "what was asked and what held the rest"
    assert page.count('<figure class="shot">') == 2, "one a test picture"
    assert "Of the 2 objects in test, both find" in page
    assert "Asked for: at most 50 % of the parameters to be left, and 1 shortcut block to go." in page
    ancestors = [page.index(f"<li>{kind}: sha256") for kind in ("baseline", "sparse")]
    assert ancestors == sorted(ancestors)


def test_channel_table_tells_what_the_cut_left(run: Path) -> None:
    before, after = models.load(run / "sparse/weights/sparse.pt"), models.load(run / "pruned/pruned.pt")
    table = rows(run / "pruned/channels.csv")
    assert list(table[0]) == [
        "layer",
        "kind",
        "channels before",
        "channels after",
        "share",
        "parameters before",
        "parameters after",
        "MACs before",
        "MACs after",
        "held back",
    ]
    assert [int(row["layer"]) for row in table] == list(before.convolutions)
    assert [int(row["channels before"]) for row in table] == [c.out_channels for c in before.convolutions.values()]
    left = [int(row["channels after"]) for row in table if row["channels after"] != "0"]
    assert left == [conv.out_channels for conv in after.convolutions.values()]
    assert len(left) == len(table) - 2, "one block of two convolutions went"
    pruning = models.read_checkpoint(run / "pruned/pruned.pt")["extra"]["pruning"]
    assert pruning["channels"] == (sum(c.out_channels for c in before.convolutions.values()), sum(left))


def test_thin_network_is_within_the_budget_and_equal_in_every_form(run: Path) -> None:
    thin, fat = models.load(run / "pruned/pruned.pt"), models.load(run / "baseline/weights/best.pt")
    assert models.parameters(thin) <= 0.5 * models.parameters(fat)
    again = models.load(run / "pruned/pruned.cfg", weights=run / "pruned/pruned.weights")
    assert models.fingerprint(again) == models.fingerprint(thin)
    student = models.load(run / "student/weights/best.pt")
    assert models.parameters(student) == models.parameters(thin)
    assert [entry["kind"] for entry in student.lineage] == ["baseline", "sparse"]
    assert student.lineage[0]["sha256"] == student.meta["teacher"]["sha256"] == models.fingerprint(fat)
    assert "teacher" not in models.load(run / "plain/weights/best.pt").meta


def test_old_spelling_of_sparsity_is_understood(run: Path) -> None:
    config = load_config(PruneConfig, run)
    assert (config.sparsity, config.s) == ("constant", 0.05)


def tracked(run: Path, stage: str) -> Path:
    return next((run / stage / "wandb").glob("offline-run-*"))


def value(row: dict[str, Any], name: str) -> Any:
    """An entry of a committed row; the client nests names with a slash or leaves them as they are."""
    parent, _, last = name.partition("/")
    return row[name] if name in row else row[parent][last]


def test_every_stage_is_a_tracked_run_of_one_group(run: Path) -> None:
    stages = {"baseline": "baseline", "sparse": "sparse", "pruned": "prune", "plain": "plain", "student": "student"}
    for folder, kind in {**stages, ".": "report"}.items():
        start = start_of(tracked(run, folder))
        assert (start.run_group, start.display_name, start.job_type) == ("whole", f"whole-{kind}", kind)
        assert {"epochs", "prune", "kd", "seed"} <= {item.key for item in start.config.update}


def test_each_epoch_is_one_commit_with_what_the_stage_is_about(run: Path) -> None:
    both = ("train/box", "train/total", "val/mAP50-95", "lr")
    told = {
        "baseline": both,
        "sparse": (*both, "gammas", "gamma/q50", "gamma/below_1e-2"),
        "student": (*both, "student/mAP50-95", "teacher/mAP50-95", "gap", "train/bounded", "train/gate_rate"),
    }
    for stage, names in told.items():
        epochs = [row for row in history(tracked(run, stage), 2) if "epoch" in row]
        assert [(row["epoch"], row["_step"]) for row in epochs] == [(1, 1), (2, 2)], stage
        for name in names:
            assert all(value(row, name) is not None for row in epochs), name
    graph_masks = sum(sum(row["gammas"]["values"]) for row in history(tracked(run, "sparse"), 2)) / 2
    sparse = models.load(run / "sparse/weights/sparse.pt")
    assert 0 < graph_masks <= sum(conv.out_channels for conv in sparse.convolutions.values() if conv.bn is not None)


def test_tracked_cut_student_and_end_hold_tables_pictures_and_the_artifact(run: Path) -> None:
    channels = history(tracked(run, "pruned"), 1)[0]["channels"]
    assert (channels["_type"], channels["nrows"]) == ("table-file", len(rows(run / "pruned/channels.csv")))
    assert value(history(tracked(run, "student"), 3)[-1], "predictions/test")["_type"] == "images/separated"
    end = history(tracked(run, "."), 1)[0]
    assert end["networks"]["nrows"] == len(NETWORKS)
    assert end["predictions"]["count"] == 2
    assert end["channels"]["count"] == 1
    best = artifacts(tracked(run, "student"))["whole-student"]
    assert models.fingerprint(models.load(run / "baseline/weights/best.pt")) in best.metadata
    assert "whole-plain" in artifacts(tracked(run, "plain"))


@pytest.mark.usefixtures("no_plots")
def test_line_killed_in_every_stage_resumes_to_the_bits_of_the_uninterrupted_one(
    material: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    broken = material / "runs" / "train_prune" / "broken"
    arguments: tuple[str, ...] = (*LINE, "--name", "broken", "--save-every", "1")
    for stage in STAGES:
        killed("train_prune.py", material, stage, 3, *arguments)
        progress = models.read_checkpoint(broken / stage / "weights/last.pt")["extra"]["training"]["progress"]
        assert (progress["step"], progress["finished"]) == (2, False), "step 3 is lost, and nothing else"
        arguments = ("--resume", str(broken))
    assert in_process(train_prune.main, monkeypatch, material, *arguments) == 0

    for name in sorted(name for name in FILES if name.endswith(".pt")):
        whole, resumed = (models.read_checkpoint(each / name) for each in (run, broken))
        assert whole["cfg"] == resumed["cfg"], name
        assert whole["lineage"] == resumed["lineage"], name
        assert whole["state"].keys() == resumed["state"].keys()
        assert all(torch.equal(tensor, resumed["state"][key]) for key, tensor in whole["state"].items()), name
    for stage in STAGES:
        tables = [rows(each / stage / "results.csv") for each in (run, broken)]
        for row in (row for table in tables for row in table):
            del row["seconds"], row["memory_gb"]
        assert tables[0] == tables[1]
    again = models.read_checkpoint(run / "sparse/weights/last.pt")
    start = models.read_checkpoint(run / "start.pt")
    assert any(not torch.equal(tensor, start["state"][key]) for key, tensor in again["state"].items())

    capsys.readouterr()
    assert in_process(train_prune.main, monkeypatch, material, *arguments) == 0
    assert "student against baseline: " in capsys.readouterr().out, "a finished run only shows its table again"


@pytest.fixture(scope="module")
def sparse(material: Path, trained: Path) -> tuple[Path, tuple[str, ...]]:
    """An uninterrupted run of automatic sparsity training alone, five epochs of two steps; and its command line."""
    line = ("--weights", "mine.pt", "--data", "data.yaml", *QUICK, "--epochs", "5", "--stages", "sparse")
    line += ("--prune", "params=0.4", "--ema-decay", "0.5", "--save-every", "1")
    whole = command("train_prune.py", material, *line, "--name", "whole_sparse")
    assert whole.returncode == 0, whole.stderr
    return material / "runs" / "train_prune" / "whole_sparse", line


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("step", "after"), [(4, "_save_last"), (4, "_validate"), (4, "_publish"), (10, "_save_last"), (10, "_publish")]
)
def test_sparsity_killed_at_any_instant_after_the_last_step_resumes_to_the_bits_of_the_uninterrupted_one(
    material: Path, sparse: tuple[Path, tuple[str, ...]], step: int, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is saved, the epoch is not closed: nothing may have been set up in a step, or wait for the next."""
    run, line = sparse
    broken = run.parent / f"sparse{after}_{step}"
    killed("train_prune.py", material, "sparse", step, *line, "--name", broken.name, after=after)
    assert in_process(train_prune.main, monkeypatch, material, "--resume", str(broken)) == 0
    assert_equal_states(state(run / "sparse"), state(broken / "sparse"))
    settled = [models.read_checkpoint(each / "sparse/weights/sparse.pt")["state"] for each in (run, broken)]
    assert_equal_states(*settled)
    tables = [rows(each / "sparse" / "results.csv") for each in (run, broken)]
    for row in (row for table in tables for row in table):
        del row["seconds"], row["memory_gb"]
    assert tables[0] == tables[1]
    assert all(float(row["gamma/q95"]) > 0 and row["sparsity/at_zero"] for row in tables[1]), "none was passed over"


@pytest.mark.usefixtures("no_plots")
def test_own_weights_with_the_classes_skip_the_baseline(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "mine", *QUICK, "--epochs", "1"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen, "--prune", "channels=0.6") == 0
    run = material / "runs" / "train_prune" / "mine"
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"sparse", "pruned", "report"}
    assert "\npruned " in capsys.readouterr().out
    thin = models.load(run / "pruned/pruned.pt")
    assert thin.lineage[0]["sha256"] == models.fingerprint(models.load(trained))


@pytest.mark.usefixtures("no_plots")
def test_files_of_the_last_network_are_scored_timed_and_one_is_recommended(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "files", *QUICK, "--stages", "prune"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen, "--files", "onnx,int8") == 0
    run = material / "runs" / "train_prune" / "files"
    record = read_record(run)
    names = [point["name"] for point in record["points"]]
    assert names == ["input", "input at 48x48", "input at 32x32", "pruned", "pruned, ONNX, INT8"]
    assert [point["file"] for point in record["points"][3:]] == [
        "pruned/export/pruned.onnx",
        "pruned/export/pruned-int8.onnx",
    ]
    assert all((run / point["file"]).is_file() for point in record["points"][3:])
    assert record["ship"] in (3, 4)
    assert {point["runtime"] for point in record["points"]} == {"onnxruntime"}
    assert set(read_matches(run)) == set(names)
    assert record["rivals"][0].startswith("input at 48x48 against pruned: ")
    page = (run / "report.html").read_text()
    assert f"<bdi>{record['points'][record['ship']]['file']}</bdi></strong>" in page


def test_a_format_that_nobody_knows_is_refused_before_any_work(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = ["--cfg", "net.cfg", "--data", "data.yaml", *QUICK, "--name", "unknown", "--files", "onnx,int9"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 2
    assert "--files onnx,int9: there is no format 'int9'" in capsys.readouterr().err
    assert not (material / "runs/train_prune/unknown").exists()


@pytest.mark.usefixtures("no_plots")
def test_stages_overrides(material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "cut", *QUICK, "--stages", "prune"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 0
    run = material / "runs" / "train_prune" / "cut"
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"pruned", "report"}
    assert [entry["kind"] for entry in models.load(run / "pruned/pruned.pt").lineage] == ["input"]
    page = (run / "report.html").read_text()
    assert "<td><bdi>input</bdi></td>" in page, "nobody knows what it is"
    assert "pruned against input: " in page
    assert "baseline" not in page.partition("<h2>Settings</h2>")[0].partition("</style>")[2]
    assert "channels were alive" in page


@pytest.mark.usefixtures("no_plots")
def test_student_worse_than_the_cut_it_began_with_is_not_shipped(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = pipeline.finetune.scores

    def measured(*arguments: Any, **keys: Any) -> dict[str, Score]:  # every student as good before its first step
        found = real(*arguments, **keys)
        return {"val": replace(found["val"], map50_95=0.5)} if keys.get("splits") == ("val",) else found

    monkeypatch.setattr("pipeline.finetune.scores", measured)
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "unhelped", *QUICK, "--epochs", "1"]
    chosen += ["--stages", "prune,student", "--kd", "none"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 0
    said = "Fine-tuning did not help: pruned scored mAP50-95 0.5000 on val before the first step, "
    assert f"\n{said}" in capsys.readouterr().out
    run = material / "runs/train_prune/unhelped"
    record = read_record(run)
    point = record["points"][record["ship"] or 0]
    assert (point["name"], point["file"]) == ("pruned", "pruned/pruned.pt")
    assert said in record["ship_why"]
    assert "unhelped/pruned/pruned.pt --to onnx,int8 --data data.yaml" in record["ship_why"]
    page = (run / "report.html").read_text()
    assert "<bdi>pruned/pruned.pt</bdi></strong>" in page
    assert page.count("Use pruned as it is") >= 2


@pytest.mark.usefixtures("no_plots")
def test_where_nobody_teaches_the_student_is_the_plain_fine_tune_and_nothing_is_trained_twice(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "alone", *QUICK, "--epochs", "1"]
    chosen += ["--stages", "prune,student", "--kd", "none", "--compare-plain"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 0
    told = capsys.readouterr()
    assert not (material / "runs/train_prune/alone/plain").exists()
    assert "the student is the plain fine-tune (KD off: --kd none)" in told.err
    assert "\nplain fine-tune: it is the student, and was not trained twice. KD off: --kd none\n" in told.out
    assert "\nstudent against input: " in told.out
    assert "Epochs of training in this run: input 0, student 1." in told.out
    assert "came with --weights" in told.out
    assert "baseline" not in told.out


@pytest.mark.usefixtures("no_plots")
def test_cut_in_rounds_resumes_after_a_kill_between_two_cuts(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", *QUICK, "--stages", "prune", "--prune", "params=0.3"]
    chosen += ["--rounds", "2", "--round-epochs", "1", "--criterion", "taylor", "--reestimate-bn", "--freeze", "1"]
    chosen += ["--no-reconstruct"]
    runs = material / "runs" / "train_prune"
    assert in_process(train_prune.main, monkeypatch, material, *chosen, "--name", "rounds") == 0
    killed("train_prune.py", material, "round1", 2, *chosen, "--name", "stopped", "--save-every", "1")
    cut = runs / "stopped" / "round1" / "cut" / "pruned.pt"
    written = cut.stat().st_mtime_ns
    assert in_process(train_prune.main, monkeypatch, material, "--resume", str(runs / "stopped")) == 0
    assert cut.stat().st_mtime_ns == written, "the first cut is found, not made again"
    for name in ("round1/cut/pruned.pt", "round1/weights/best.pt", "pruned/pruned.pt"):
        whole, resumed = (models.read_checkpoint(runs / run / name) for run in ("rounds", "stopped"))
        assert all(torch.equal(tensor, resumed["state"][key]) for key, tensor in whole["state"].items()), name
    start, thin = models.load(trained), models.load(runs / "rounds" / "pruned" / "pruned.pt")
    assert models.parameters(thin) <= 0.3 * models.parameters(start)
    assert [entry["kind"] for entry in thin.lineage] == ["input", "round 1"]
    assert thin.lineage[0]["sha256"] == models.fingerprint(start)
    kept = thin.lineage[0]["layers"]["0"]["kept"]
    assert torch.equal(thin.convolutions[0].conv.weight, start.convolutions[0].conv.weight[kept]), "frozen throughout"
    page = (runs / "rounds" / "report.html").read_text()
    assert page.index("cut 1 of 2") < page.index("cut 2 of 2")
    assert ">round 1<" in page


@pytest.mark.usefixtures("no_plots")
def test_idle_heads_go_before_the_baseline_and_the_deepest_cut_within_a_drop_is_found(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "fine", *QUICK, "--epochs", "1"]
    chosen += ["--stages", "baseline,prune", "--drop-heads", "auto", "--max-drop", "1"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 0
    run = material / "runs" / "train_prune" / "fine"
    fat, thin = models.load(run / "baseline/weights/best.pt"), models.load(run / "pruned/pruned.pt")
    assert [head.stride for head in thin.specs] == [head.stride for head in fat.specs] == [8]
    assert fat.specs[0].anchors != models.load(trained).specs[1].anchors, "fitted to the boxes anew"
    assert models.parameters(thin) < 0.5 * models.parameters(fat), "every score is within 1"
    assert "the heads of stride 16" in (run / "report.html").read_text()


@pytest.mark.usefixtures("no_plots")
def test_reused_folder_takes_nothing_from_the_run_before(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--data", "data.yaml", "--name", "reused", "--exist-ok", *QUICK, "--stages", "prune"]
    for first in (["--cfg", "net.cfg", "--seed", "1"], ["--weights", "mine.pt"]):
        assert in_process(train_prune.main, monkeypatch, material, *first, *chosen) == 0
    start = models.load(material / "runs/train_prune/reused/start.pt")
    assert models.fingerprint(start) == models.fingerprint(models.load(trained))


def test_two_processes_go_through_the_line_as_one(material: Path, trained: Path) -> None:
    chosen = ["--weights", "mine.pt", "--data", "data.yaml", "--name", "two", *QUICK, "--epochs", "1"]
    done = two_processes("train_prune.py", material, *chosen)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pruned against baseline: ") == 1, "one of them speaks"
    assert (material / "runs/train_prune/two/report.html").is_file()
    assert not (material / "runs/train_prune/two2").exists()


@pytest.mark.usefixtures("no_plots")
def test_two_processes_solve_what_one_does_and_go_on_from_it(
    material: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 alone cuts and solves, and both train the student from its file."""
    cut = ["--weights", "mine.pt", "--data", "data.yaml", "--prune", "params=0.5"]
    chosen = [*cut, *QUICK, "--epochs", "1", "--stages"]
    done = two_processes("train_prune.py", material, *chosen, "prune,student", "--name", "both")
    assert done.returncode == 0, done.stderr
    assert in_process(train_prune.main, monkeypatch, material, *chosen, "prune", "--name", "one") == 0
    runs = material / "runs/train_prune"
    both, one = (models.load(runs / name / "pruned/pruned.pt") for name in ("both", "one"))
    assert models.fingerprint(both) == models.fingerprint(one)
    assert "solved on 8 pictures" in (runs / "both/pruned/report.txt").read_text()
    student = models.load(runs / "both/student/weights/best.pt")
    assert 0 < way(both, student) < 0.05, "an epoch away from the solved network"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "data.yaml"], "no network"),
        (["--cfg", "net.cfg", "--data", "absent.yaml"], "absent.yaml"),
        (["--cfg", "nett.cfg", "--data", "data.yaml"], "nett.cfg"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--stages", "prune,polish"], "polish"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--prune", "params=2"], "--prune params=2"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--prune", "weight=.5"], "--prune weight=.5"),
        (["--cfg", "net.cfg", "--data", "data.yaml", "--shortcuts", "9"], "9"),
        (["--cfg", "net.cfg", "--data", "data.yaml", "--prune", "params=0.0001"], "0.0001"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--sparsity", "linear"], "linear"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--drop-heads", "64"], "strides are 16, 8"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--drop-heads", "16", "--stages", "prune"], "--drop-heads"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--exclude", "99"], "99"),
        (["--weights", "mine.pt", "--data", "data.yaml", "-sr", "--s", "much"], "much"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--then-kd", "--kd", "hintn"], "hintn"),
        (["--cfg", "net.cfg", "--data", "data.yaml", "--then-kd", "--t_weights", "three.pt"], "3 classes"),
        (
            ["--weights", "mine.pt", "--data", "data.yaml", "--then-kd", "--t_weights", "none.pt"],
            "none.pt: does not exist",
        ),
        (["--weights", "mine.pt", "--data", "data.yaml", "--t_weights", "three.pt"], "add --then-kd"),
        (["--weights", "mine.pt", "--data", "data.yaml", "--freeze", "99", "--wandb", "offline"], "--freeze 99"),
        (
            [
                "--weights",
                "mine.pt",
                "--data",
                "data.yaml",
                "--sparse-form",
                "subgradient",
                "--s",
                "0.1",
                "--optimizer",
                "adamw",
                "--wandb",
                "offline",
            ],
            "sub-gradient",
        ),
        (["--resume", "runs/train_prune/nobody"], "nobody"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_end_with_a_sentence_and_status_2(
    material: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    said: str,
) -> None:
    chosen = arguments if "--resume" in arguments else [*QUICK, *arguments, "--name", "wrong"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert "epoch 1" not in error, "nothing is trained before it is said"
    assert not list((material / "runs").glob("*/wrong*")), "and no folder is left"


def test_list_modes_is_answered_here_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert in_process(train_prune.main, monkeypatch, tmp_path, "--list-modes") == 0
    assert "hinton" in capsys.readouterr().out


@pytest.mark.usefixtures("no_plots")
def test_cut_of_random_weights_says_so_and_goes_on(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = ["--cfg", "net.cfg", "--data", "data.yaml", "--name", "random", *QUICK]
    chosen += ["--stages", "prune", "--kd", "none"]
    assert in_process(train_prune.main, monkeypatch, material, *chosen) == 0
    said = capsys.readouterr().err
    assert "the weights of net.cfg are random" in said
    assert "not used: --kd" in said
