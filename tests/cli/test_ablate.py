"""An ablation by its real command: killed, resumed, grown, and on a Ray cluster."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import finetune_kd
import models
import prune
from common.command_line import parse_config
from common.errors import UserError
from data.batch import Batch
from engine.objective import DetectionObjective
from engine.trainer import Trainer
from models.network import Network
from pipeline.ablate_cell import Cell, attempt_cell, run_cell
from pipeline.distil_options import AblateConfig
from pipeline.executor import run_all
from pipeline.step_cost import measure_steps
from tests.cli.material import NAMES, QUICK, ROOT, command, in_process, killed, make_set, surroundings
from tests.distill.material import tiny_network
from tests.tracked import history, recorded, start_of

GRID = ("--weights", "thin.pt", "--t_weights", "fat.pt", "--data", "data.yaml", "--ablate", "none; bounded", "--seeds")
GRID += ("2", *QUICK)
CELLS = [(mode, f"seed{seed}") for mode in ("none", "bounded") for seed in (0, 1)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.yaml`, `thin.pt` and `fat.pt`."""
    folder = make_set(tmp_path_factory.mktemp("grid"))
    for name, width in (("thin", 8), ("fat", 16)):
        network = tiny_network(width, seed=width)
        network.names = list(NAMES)
        models.save(network, folder / f"{name}.pt")
    return folder


Seen = dict[tuple[str, str], list[float]]


@pytest.fixture(scope="module")
def steps() -> Iterator[Seen]:
    """(mode, seed) -> a number from the pictures of each optimiser step that was taken, in order."""
    seen: Seen = {}
    original = Trainer._step

    def recorded(self: Trainer, batches: Sequence[Batch]) -> None:
        seen.setdefault((self.run_dir.parent.name, self.run_dir.name), []).append(
            sum(float(batch.images.double().mean()) for batch in batches)
        )
        original(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", recorded)
        patch.setattr("engine.trainer.plot_results", lambda *_: None)
        yield seen


@pytest.fixture(scope="module")
def whole(material: Path, steps: Seen) -> tuple[Path, Seen]:
    """An uninterrupted ablation, and the pictures it saw."""
    with pytest.MonkeyPatch.context() as patch:
        assert in_process(finetune_kd.main, patch, material, *GRID, "--name", "whole") == 0
    taken, seen = dict(steps), steps
    seen.clear()
    return material / "runs" / "ablate" / "whole", taken


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "table.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_cell_is_a_run_and_the_table_has_all_rows(whole: tuple[Path, Seen]) -> None:
    run, _ = whole
    for mode, seed in CELLS:
        assert all((run / mode / seed / name).is_file() for name in ("args.yaml", "results.csv", "weights/best.pt"))
        content = json.loads((run / mode / seed / "cell.json").read_text())
        assert set(content["scores"]) == {"val", "test"}
        assert (content["gate_rate"] is not None) == (mode == "bounded")
    assert [row["mode"] for row in rows(run)] == ["teacher", "not fine-tuned", "none", "bounded"]
    assert [row["runs"] for row in rows(run)][2:] == ["2", "2"]
    assert float(rows(run)[3]["step by none"]) > 0
    assert "best.pt chosen on val" in (run / "table.txt").read_text()
    with open(run / "classes.csv", newline="") as handle:
        by_class = list(csv.DictReader(handle))
    assert {row["name"] for row in by_class} == set(NAMES)
    assert all(int(row["objects"]) > 0 for row in by_class)
    assert [row["mode"] for row in by_class] == ["none"] * len(NAMES) + ["bounded"] * len(NAMES)


def test_runs_of_a_seed_see_the_same_pictures_and_runs_of_two_do_not(whole: tuple[Path, Seen]) -> None:
    _, seen = whole
    assert {len(pictures) for pictures in seen.values()} == {4}, "equal budgets"
    for seed in ("seed0", "seed1"):
        assert seen["none", seed] == seen["bounded", seed]
    assert seen["none", "seed0"] != seen["none", "seed1"]


def same_weights(one: Path, other: Path) -> bool:
    states = [models.read_checkpoint(path)["state"] for path in (one, other)]
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_killed_grid_goes_on_in_the_middle_of_its_cell_and_ends_with_the_same_bits(
    material: Path, whole: tuple[Path, Seen], steps: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = material / "runs" / "ablate" / "broken"
    killed("finetune_kd.py", material, "seed1", 3, *GRID, "--name", "broken", "--save-every", "1")
    kept = (broken / "none" / "seed0" / "weights" / "best.pt").stat().st_mtime_ns
    steps.clear()
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(broken)) == 0
    assert {cell: len(taken) for cell, taken in steps.items()} == {
        ("none", "seed1"): 2,
        ("bounded", "seed0"): 4,
        ("bounded", "seed1"): 4,
    }
    assert (broken / "none" / "seed0" / "weights" / "best.pt").stat().st_mtime_ns == kept
    for mode, seed in CELLS:
        assert same_weights(*(run / mode / seed / "weights" / "last.pt" for run in (whole[0], broken)))
    scores = [
        [{key: row[key] for key in ("mode", "mAP50-95 mean", "mAP50-95 sd", "difference")} for row in rows(run)]
        for run in (whole[0], broken)
    ]
    assert scores[0] == scores[1]


def test_finished_grid_grows_by_modes_and_seeds_and_trains_only_those(
    material: Path, whole: tuple[Path, Seen], steps: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.clear()
    more = ["--resume", str(whole[0]), "--seeds", "0,1,5", "--ablate", "none; bounded; hinton"]
    assert in_process(finetune_kd.main, monkeypatch, material, *more) == 0
    new = {("none", "seed5"), ("bounded", "seed5"), *(("hinton", f"seed{seed}") for seed in (0, 1, 5))}
    assert set(steps) == new
    assert [row["runs"] for row in rows(whole[0])][2:] == ["3", "3", "3"]


def test_other_settings_in_a_reused_folder_are_trained_anew(
    material: Path, whole: tuple[Path, Seen], steps: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [*GRID, "--name", "reused", "--exist-ok", "--seeds", "1", "--epochs", "1"]
    run = material / "runs" / "ablate" / "reused"
    costs = []
    for rate, trained in (("0.002", 2), ("0.002", 0), ("0.004", 2)):
        steps.clear()
        assert in_process(finetune_kd.main, monkeypatch, material, *again, "--lr0", rate) == 0
        assert len(steps) == trained
        costs.append(json.loads((run / "step_cost.json").read_text()))
        (run / "none" / "seed0" / "wandb-id.txt").write_text("ofbefore")
    assert costs[0] == costs[1]
    assert costs[0]["keys"] != costs[2]["keys"]
    assert costs[0]["steps"] != costs[2]["steps"], "measured anew"


def test_cell_of_other_settings_begins_a_wandb_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that goes on stays in its own."""
    left: list[bool] = []

    def stopped(config: AblateConfig, run: Path, **_: Any) -> None:
        left.append((run / "wandb-id.txt").exists())
        raise UserError("far enough")

    monkeypatch.setattr("pipeline.ablate_cell.finetune", stopped)
    for key in ("a", "a", "b"):
        cell = Cell("none", 0, AblateConfig(), tmp_path / "cell", "grid", {}, key)
        with pytest.raises(UserError, match="far enough"):
            run_cell(cell)
        (cell.folder / "wandb-id.txt").write_text("known")
    assert left == [False, True, False]


def test_grid_is_a_tracked_group_with_a_run_a_cell(material: Path) -> None:
    chosen = [*GRID, "--name", "tracked", "--seeds", "1", "--epochs", "1", "--wandb", "offline"]
    done = command("finetune_kd.py", material, *chosen)
    assert done.returncode == 0, done.stderr
    run = material / "runs" / "ablate" / "tracked"
    names = ("none/seed0", "bounded/seed0", ".")
    folders = {name: next((run / name / "wandb").glob("offline-run-*")) for name in names}
    starts = {name: start_of(folder) for name, folder in folders.items()}
    assert {start.run_group for start in starts.values()} == {"tracked"}
    assert {name: (start.display_name, start.job_type) for name, start in starts.items()} == {
        "none/seed0": ("tracked-none-seed0", "ablation"),
        "bounded/seed0": ("tracked-bounded-seed0", "ablation"),
        ".": ("tracked-report", "report"),
    }
    assert len({start.run_id for start in starts.values()}) == 3
    for mode in ("none", "bounded"):
        assert {item.key: item.value_json for item in starts[f"{mode}/seed0"].config.update}["kd"] == f'"{mode}"'
        epoch = next(row for row in history(folders[f"{mode}/seed0"], 1) if "epoch" in row)
        assert (recorded(epoch, "train/bounded") is not None) == (mode == "bounded")
        student, teacher, gap = (recorded(epoch, name) for name in ("student/mAP50-95", "teacher/mAP50-95", "gap"))
        assert gap == pytest.approx(teacher - student, abs=1e-5)
    end = history(folders["."], 1)[0]
    assert (end["ablation"]["nrows"], end["differences"]["count"]) == (4, 1)


def test_rows_begin_with_a_student_that_is_solved_once_for_each_ancestor(
    material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.save(prune.prune(models.load(material / "fat.pt"), budget="params=0.4").network, material / "cut.pt")
    began: dict[str, str] = {}
    measured: list[set[str]] = []
    step, measure = Trainer._step, measure_steps

    def recorded(self: Trainer, batches: Sequence[Batch]) -> None:
        began.setdefault(self.run_dir.parent.name, models.fingerprint(self.objective.network))
        step(self, batches)

    def counted(student: Network, teacher: Any, variants: dict[str, Any], *rest: Any, **more: Any) -> Any:
        measured.append(set(variants))
        return measure(student, teacher, variants, *rest, **more)

    monkeypatch.setattr(Trainer, "_step", recorded)
    monkeypatch.setattr("pipeline.ablate.measure_steps", counted)
    chosen = [*GRID, "--weights", "cut.pt", "--name", "columns", "--epochs", "1", "--seeds", "1", "--ablate"]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen, "none; bounded") == 0
    assert set(began) == {"none", "bounded"}
    began.clear()
    run = material / "runs" / "ablate" / "columns"
    more = "none; bounded; none reconstruct=fat.pt; bounded reconstruct=teacher"
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run), "--ablate", more) == 0
    (start,) = run.glob("solved-*.pt")
    solved, cut = (models.fingerprint(models.load(path)) for path in (start, material / "cut.pt"))
    assert began == {"none_reconstruct=fat.pt": solved, "bounded_reconstruct=teacher": solved}, "only the new ones"
    assert solved != cut
    assert measured[1:] == [{"bounded"}], "solving changes no step"
    table = rows(run)
    first = ["teacher", "not fine-tuned", "not fine-tuned, reconstruct=fat.pt", "not fine-tuned, reconstruct=teacher"]
    assert [row["mode"] for row in table] == first + more.split("; ")
    by_name = {row["mode"]: row for row in table}
    assert by_name["bounded"]["step ms"] == by_name["bounded reconstruct=teacher"]["step ms"] != ""
    assert by_name["none"]["step ms"] == by_name["none reconstruct=fat.pt"]["step ms"] != ""
    assert by_name["none reconstruct=fat.pt"]["difference"] != ""
    kept = start.stat().st_mtime_ns
    began.clear()
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run)) == 0
    assert not began
    assert start.stat().st_mtime_ns == kept


def test_rows_that_solving_leaves_alone_are_not_trained_twice(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sparse = models.load(material / "fat.pt")
    for norm in (each for each in sparse.modules() if isinstance(each, nn.BatchNorm2d)):
        with torch.no_grad():
            norm.weight[::2] = norm.bias[::2] = 0
    models.save(sparse, material / "dead.pt")
    models.save(prune.prune(models.load(material / "dead.pt"), budget="params=0.9").network, material / "free.pt")
    chosen = [*GRID, "--weights", "free.pt", "--name", "alike", "--epochs", "1", "--seeds", "1", "--ablate"]
    grid = "none; bounded; none reconstruct=dead.pt; bounded reconstruct=dead.pt"
    run = material / "runs" / "ablate" / "alike"

    def wrong(self: Trainer, began: float) -> None:
        raise UserError("of all things")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_close_epoch", wrong)
        assert in_process(finetune_kd.main, patch, material, *chosen, grid) == 1
    assert [row["failed"] for row in rows(run) if row["mode"] in grid.split("; ")] == ["1"] * 4
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run)) == 0
    assert {path.parents[1].name for path in run.glob("*/seed0/cell.json")} == {"none", "bounded"}
    assert "changes nothing in this student" in capsys.readouterr().err
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen, grid, "--exist-ok") == 0, "begun again"
    by_name = {row["mode"]: row for row in rows(run)}
    for mode in ("none", "bounded"):
        assert by_name[mode]["mAP50-95 mean"] == by_name[f"{mode} reconstruct=dead.pt"]["mAP50-95 mean"] != ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ablate", "none; hintn"], "hintn"),
        (["--ablate", "none; bounded; none reconstruct=fat.pt"], "fat.pt: --reconstruct fat.pt: this network"),
        (["--ablate", "none; aligned"], "ancestor"),
        (["--ablate", "none; bounded; aligned kd_aligned_layers=all"], "ancestor"),
        (["--seeds", "many"], "many"),
        (["--batch-size", "-1"], "smaller batches"),
        (["--anchors", "fit"], "every seed would fit its own"),
        (["--patience", "3"], "unequally long"),
    ],
    ids=[
        "unknown mode",
        "no ancestor",
        "mode without its needs",
        "an option that is called all",
        "seeds",
        "batches",
        "anchors",
        "patience",
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    material: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    steps: Seen,
    arguments: list[str],
    said: str,
) -> None:
    steps.clear()
    assert in_process(finetune_kd.main, monkeypatch, material, *GRID, "--name", "wrong", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not steps


def test_without_a_teacher_there_is_nothing_to_compare(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = ["--weights", "thin.pt", "--data", "data.yaml", "--kd", "none", "--ablate", "none; bounded", *QUICK]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen) == 2
    assert "there is none" in capsys.readouterr().err


def in_trouble(number: int) -> int:
    if number == 1:
        raise UserError("too large", todo="less")
    return 10 * number


def test_a_cell_that_fails_does_not_stop_the_others() -> None:
    found = dict(run_all(in_trouble, [0, 1, 2], "local"))
    assert (found[0], found[2]) == (0, 20)
    assert isinstance(found[1], UserError)


def test_cell_with_a_bug_is_recorded_with_its_traceback_and_the_others_go_on(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, steps: Seen
) -> None:
    run = material / "runs" / "ablate" / "bug"
    original = Trainer._close_epoch

    def wrong(self: Trainer, began: float) -> None:
        if self.run_dir == Path("runs/ablate/bug/none/seed0"):
            raise ZeroDivisionError("of all things")
        original(self, began)

    chosen = [*GRID, "--name", "bug", "--epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_close_epoch", wrong)
        assert in_process(finetune_kd.main, patch, material, *chosen) == 1
    assert "ZeroDivisionError: of all things" in capsys.readouterr().out
    assert "in wrong" in (run / "none" / "seed0" / "error.txt").read_text()
    assert [(row["runs"], row["failed"]) for row in rows(run)[2:]] == [("1", "1"), ("2", "0")]
    steps.clear()
    assert in_process(finetune_kd.main, monkeypatch, material, "--resume", str(run)) == 0
    assert set(steps) == {("none", "seed0")}
    assert not (run / "none" / "seed0" / "error.txt").exists()
    assert [(row["runs"], row["failed"]) for row in rows(run)[2:]] == [("2", "0"), ("2", "0")]


def test_trainings_that_are_done_have_their_table_whatever_measuring_a_step_does(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("pipeline.ablate.measure_steps", wrong)
    chosen = [*GRID, "--name", "unmeasured", "--epochs", "1", "--seeds", "1"]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen) == 0
    assert "the costs of a step are missing in the table: RuntimeError: out of memory" in capsys.readouterr().err
    assert [(row["runs"], row["step by none"]) for row in rows(material / "runs" / "ablate" / "unmeasured")[2:]] == [
        ("1", ""),
        ("1", ""),
    ]


def test_cells_count_by_what_networks_are_not_by_what_files_are_called(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, steps: Seen
) -> None:
    """Renamed weights are the same; other weights under the old name are not, also where --cfg brings them."""
    for name in ("student.pt", "renamed.pt"):
        shutil.copy(material / "thin.pt", material / name)
    chosen = [
        "--t_weights",
        "fat.pt",
        "--data",
        "data.yaml",
        "--ablate",
        "none; bounded",
        *QUICK,
        "--name",
        "names",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--exist-ok",
    ]

    def trained(*student: str) -> set:
        steps.clear()
        assert in_process(finetune_kd.main, monkeypatch, material, *chosen, *student) == 0
        return set(steps)

    both = {("none", "seed0"), ("bounded", "seed0")}
    assert trained("--cfg", "student.pt") == both
    assert "The seeds vary the order" in (material / "runs" / "ablate" / "names" / "table.txt").read_text()
    assert trained("--weights", "renamed.pt") == set()
    network = tiny_network(8, seed=5)
    network.names = list(NAMES)
    models.save(network, material / "student.pt")
    assert trained("--cfg", "student.pt") == both


def test_rows_that_a_table_no_longer_has_are_said(
    material: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chosen = [*GRID, "--name", "fewer", "--epochs", "1"]
    assert in_process(finetune_kd.main, monkeypatch, material, *chosen) == 0
    assert "not in the table" not in capsys.readouterr().err
    run = str(material / "runs" / "ablate" / "fewer")
    fewer = ["--resume", run, "--seeds", "1", "--ablate", "hinton"]
    assert in_process(finetune_kd.main, monkeypatch, material, *fewer) == 0
    said = capsys.readouterr().err
    assert "3 finished trainings" in said
    assert "bounded; none" in said


@pytest.mark.parametrize("kind", [MemoryError, UserError])
def test_failure_keeps_nothing_of_the_cell_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """The memory of a cell that ran out of it is there for the next one."""

    class Large:
        pass

    left: list[weakref.ref[Large]] = []

    def out_of_memory(*_: Any, **__: Any) -> None:
        held = Large()
        left.append(weakref.ref(held))
        raise kind("too much")

    monkeypatch.setattr("pipeline.ablate_cell.finetune", out_of_memory)
    cell = Cell("none", 0, AblateConfig(), tmp_path / "cell", "grid", {}, "key")
    [(_, error)] = run_all(attempt_cell, [cell], "local")
    assert isinstance(error, UserError)
    assert left[0]() is None


def test_grid_of_two_processes_has_its_table_and_step_costs(material: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    chosen = [*GRID, "--name", "two", "--seeds", "1", "--epochs", "1", "--ablate", "none; fitnets,hinton"]
    done = subprocess.run(
        [*launch, str(ROOT / "finetune_kd.py"), *chosen],
        cwd=material,
        capture_output=True,
        text=True,
        timeout=300,
        env=surroundings(material),
    )
    assert done.returncode == 0, done.stderr
    table = rows(material / "runs" / "ablate" / "two")
    assert [row["runs"] for row in table[2:]] == ["1", "1"]
    assert all(float(row["step by none"]) > 0 for row in table[2:])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_adapters_and_masks_shift_neither_pictures_nor_boxes(
    material: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """With everything that is drawn: order, mosaic, mixup, colours and the size of a step."""
    seen: dict[str, list[torch.Tensor]] = {}
    begin = DetectionObjective.begin_step

    def recorded(self: DetectionObjective, batches: Sequence[Batch]) -> None:
        for batch in batches:
            seen.setdefault("+".join(self.modes), []).extend([batch.images.clone(), batch.targets.clone()])
        begin(self, batches)

    monkeypatch.setattr(DetectionObjective, "begin_step", recorded)
    chosen = [*GRID, "--name", f"drawn{workers}", "--seeds", "1", "--ablate", "none; mgd; fgd,hinton"]
    chosen += ["--mosaic", "0.7", "--mixup", "0.5", "--multi-scale", "0.5", "--nominal-batch", "8"]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ablate.measure_steps", lambda *_, **__: {})
        assert in_process(finetune_kd.main, patch, material, *chosen, "--workers", workers) == 0
    assert set(seen) == {"", "mgd", "fgd+hinton"}
    assert len(seen[""]) == 8, "two epochs of two batches, pictures and boxes"
    for mode in ("mgd", "fgd+hinton"):
        assert all(torch.equal(*pair) for pair in zip(seen[""], seen[mode], strict=True))
    assert not torch.equal(seen[""][0], seen[""][4])


def dying_cell(cell: Cell) -> dict[str, Any]:
    """A cell whose worker is killed the first time it gets to step 3."""
    original, mark = Trainer._step, cell.folder / "killed"

    def lethal(self: Trainer, batches: Sequence[Batch]) -> None:
        original(self, batches)
        if self.progress.step == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._step = lethal  # type: ignore[method-assign]
    return run_cell(cell)


def test_worker_killed_on_ray_loses_only_what_came_after_its_last_checkpoint(
    material: Path, whole: tuple[Path, Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    monkeypatch.chdir(material)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    run = whole[0]
    config = parse_config(AblateConfig, [*GRID, "--save-every", "1", "--kd", "bounded"])
    from data import load_spec
    from reporting.results import scores

    thin, fat = models.load("thin.pt"), models.load("fat.pt")
    spec = load_spec(config.data)
    known = {name: scores(net, spec, config) for name, net in (("start", thin), ("teacher", fat))}
    cell = Cell("bounded", 0, config, Path("ray") / "bounded" / "seed0", "ray", known, "key")
    (cell.folder).mkdir(parents=True)
    [(_, result)] = run_all(dying_cell, [cell], "ray", threads=1, device="cpu")
    assert not isinstance(result, UserError), result
    assert (cell.folder / "killed").exists()
    assert same_weights(run / "bounded" / "seed0" / "weights" / "last.pt", cell.folder / "weights" / "last.pt")
