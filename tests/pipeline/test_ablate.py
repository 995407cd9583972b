"""The grid of an ablation and its table, without training anything."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.errors import UserError
from common.log import log
from common.options import to_dict
from distill import MODES, KDConfig, Teacher
from distill.modes import Bounded
from models.spec import Outputs
from pipeline.ablate import COLUMNS, _cell, _digest, _once_each, _possible, _train
from pipeline.ablate_cell import Cell
from pipeline.ablate_grid import parse_seeds, parse_variants
from pipeline.ablate_table import Table, publish
from pipeline.distil_options import AblateConfig
from pipeline.executor import NICENESS, run_all
from pipeline.step_cost import measure_steps, random_batch
from tests import nets
from tests.distill.material import free_network, tiny_network


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [0, 1, 2]), ("5-9", [5, 6, 7, 8, 9]), ("0,3, 7", [0, 3, 7]), ("4-4", [4]), ("1,5-6", [1, 5, 6])],
)
def test_seeds_are_a_number_a_range_or_a_list(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "", "a", "9-5", "1,1", "-3", "1.5"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--seeds"):
        parse_seeds(text)


def test_rows_are_modes_with_weights_and_options_and_none_is_first() -> None:
    rows = parse_variants(
        "hinton; hinton,bounded:0.3 ; hinton kd_temperature=4 kd-ramp=0.5", KDConfig(bounded=Bounded(margin=0.1))
    )
    assert [row.text for row in rows] == ["none", "hinton", "hinton,bounded:0.3", "hinton kd_temperature=4 kd-ramp=0.5"]
    assert [list(row.kd.modes()) for row in rows] == [[], ["hinton"], ["hinton", "bounded"], ["hinton"]]
    assert rows[2].kd.modes()["bounded"] == 0.3
    assert (rows[3].kd.hinton.temperature, rows[3].kd.kd_ramp, rows[1].kd.hinton.temperature) == (4, 0.5, 1)
    assert {row.kd.bounded.margin for row in rows} == {0.1}
    assert len({row.folder for row in rows}) == 4
    assert all(row.folder == Path(row.folder).name for row in rows)


def test_all_leaves_out_what_does_not_work_between_families_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    student = tiny_network(8)
    teacher, rows = Teacher(free_network(nets.detect(2)), student), parse_variants("all", KDConfig())
    log.addHandler(caplog.handler)  # the project's log does not propagate once an entry point shows it
    try:
        possible = [row.text for row in _possible(rows, student, teacher, asked_for_all=True)]
    finally:
        log.removeHandler(caplog.handler)
    gone = ["hinton", "gap", "ld", "aligned"]
    assert [row.text for row in rows if row.text not in possible] == gone
    assert all(f"{mode} is left out: " in caplog.text for mode in gone)
    with pytest.raises(UserError, match="--kd gap"):
        _possible(parse_variants("none; gap", KDConfig()), student, teacher, asked_for_all=False)


def test_rows_may_differ_in_options_that_leave_the_steps_as_many() -> None:
    rows = parse_variants(
        "none; none reconstruct=sparse.pt; hinton kd_temperature=4 reconstruct=teacher; hinton", KDConfig(), COLUMNS
    )
    assert [dict(row.options) for row in rows] == [
        {},
        {"reconstruct": "sparse.pt"},
        {"reconstruct": "teacher"},
        {},
    ]
    assert [list(row.kd.modes()) for row in rows] == [[], [], ["hinton"], ["hinton"]]
    assert rows[2].kd.hinton.temperature == 4
    assert rows[1].kd == rows[0].kd
    assert len({row.folder for row in rows}) == 4
    long = parse_variants(f"hinton reconstruct={'a' * 200}.pt; hinton reconstruct={'a' * 200}b.pt", KDConfig(), COLUMNS)
    assert len({row.folder for row in long}) == 3
    assert all(len(row.folder) <= 120 for row in long)
    for option in ("epochs=3", "batch_size=2", "nominal_batch=1", "imgsz=32"):
        with pytest.raises(UserError, match=f"unknown option '{option.split('=')[0]}'"):
            parse_variants(f"hinton {option}", KDConfig(), COLUMNS)


def test_a_value_may_have_blanks_and_an_option_needs_one() -> None:
    rows = parse_variants("hinton , bounded reconstruct='my runs/a.pt'; hinton reconstruct = b.pt", KDConfig(), COLUMNS)
    assert [row.options.get("reconstruct") for row in rows] == [None, "my runs/a.pt", "b.pt"]
    assert list(rows[1].kd.modes()) == ["hinton", "bounded"]
    for text, todo in (("scaled reconstruct", "reconstruct=VALUE"), ("scaled reconstruct=my runs/a.pt", "WITH BLANKS")):
        with pytest.raises(UserError, match=todo):
            parse_variants(text, KDConfig(), COLUMNS)


def test_cells_key_holds_only_the_options_that_are_not_at_their_default(tmp_path: Path) -> None:
    """So that cells of before an option was there stay valid."""
    config = AblateConfig()
    plain, off, solved, elsewhere = (
        parse_variants(f"none; hinton{said}", KDConfig(), COLUMNS)[1]
        for said in ("", " reconstruct=off", " reconstruct=a.pt", " reconstruct=b.pt")
    )
    start = SimpleNamespace(path=Path("solved-1.pt"), changed=True)
    starts: Any = {"a.pt": start, "b.pt": start}
    cells = [_cell(config, tmp_path, row, 0, "key", starts) for row in (plain, off, solved, elsewhere)]
    assert cells[0].key == "key" + _digest([to_dict(plain.kd), 0])
    assert cells[1].key == cells[0].key
    assert cells[2].key != cells[0].key
    assert cells[3].key == cells[2].key, "the same network under another name"
    assert cells[2].config.weights == "solved-1.pt"
    start.changed = False
    assert _cell(config, tmp_path, solved, 0, "key", starts).key == cells[0].key, "solving it changed nothing"
    assert [cell.folder for cell in _once_each(cells)] == [cells[place].folder for place in (0, 0, 2, 2)]


def test_all_is_every_mode_alone() -> None:
    rows = parse_variants("all; hinton,bounded", KDConfig())
    assert [row.text for row in rows] == ["none", "hinton,bounded", *MODES]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("none; hintn", "hintn"),
        ("hinton; hinton", "'hinton' is there twice"),
        ("none", "nothing to compare"),
        ("hinton kd_temprature=2", "kd_temprature"),
        ("hinton kd_temperature=hot", "hot"),
        ("kd_temperature=2", "no KD mode"),
    ],
)
def test_rows_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_variants(text, KDConfig())


def cell(score: float, gate: float | None = None) -> dict[str, Any]:
    return {"scores": {"test": {"mAP50-95": score, "mAP50": score + 0.2}}, "gate_rate": gate, "seconds": 5.0}


def table(scores: dict[str, list[float]], **more: Any) -> Table:
    seeds = list(range(len(scores["none"])))
    cells = {(name, seed): cell(value) for name, values in scores.items() for seed, value in enumerate(values)}
    reference = {"teacher": {"test": {"mAP50-95": 0.6, "mAP50": 0.8}}}
    return Table(list(scores), seeds, cells, more.pop("failed", {}), reference, {}, "test", "the seeds", **more)


NONE = [0.50, 0.52, 0.51, 0.49, 0.53]


def test_verdict_follows_the_pairs_not_the_spread() -> None:
    """+0.01 with every seed is shown although the seeds themselves differ by 0.04; the same values shuffled are not."""
    better = [value + 0.01 + wobble for value, wobble in zip(NONE, (0.0, 0.001, -0.001, 0.0005, 0.0))]
    worse = [value - 0.02 - wobble for value, wobble in zip(NONE, (0.001, 0.0, -0.001, 0.0, 0.0005))]
    lines = {line.name: line for line in table({"none": NONE, "a": better, "b": worse, "c": better[::-1]}).lines}
    assert {name: line.verdict for name, line in lines.items()} == {
        "teacher": "",
        "none": "",
        "a": "helps",
        "b": "hurts",
        "c": "not shown",
    }
    difference = lines["a"].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.0101)
    assert lines["a"].jointly is not None
    assert lines["a"].jointly[0] < difference.low < difference.mean < difference.high < lines["a"].jointly[1]


def test_correction_grows_with_the_number_of_modes() -> None:
    """Shown alone (p about .03), and no longer as one of ten."""
    lucky = [value + step for value, step in zip(NONE, (0.02, 0.01, 0.015, 0.0, 0.012))]
    useless = {f"m{number}": [value + (-1) ** seed * 0.01 for seed, value in enumerate(NONE)] for number in range(9)}
    alone = {line.name: line for line in table({"none": NONE, "lucky": lucky}).lines}["lucky"]
    among = {line.name: line for line in table({"none": NONE, "lucky": lucky, **useless}).lines}["lucky"]
    assert alone.verdict == "helps"
    assert among.verdict == "not shown"
    assert among.p == pytest.approx(10 * alone.p)


def test_missing_and_failed_runs_are_counted_and_compared_where_both_are() -> None:
    found = table({"none": NONE[:3], "a": [0.6, 0.6]}, failed={("a", 2): "out of memory"})
    line = {line.name: line for line in found.lines}["a"]
    assert line.difference is not None
    assert (line.difference.n, line.failed) == (2, 1)
    assert line.difference.mean == pytest.approx(0.6 - 0.51)
    assert "2 (1 failed)" in found.text()
    assert "a, seed 2 failed: out of memory" in found.text()


def test_luck_among_many_is_only_said_where_there_are_many() -> None:
    several = {"none": NONE, "a": [value + 0.01 for value in NONE], "b": NONE}
    assert "Of 2 modes that change nothing the best looks good by chance" in table(several).text()
    assert "by chance" not in table({name: several[name] for name in ("none", "a")}).text()


def test_one_seed_says_that_it_shows_nothing() -> None:
    found = table({"none": [0.5], "a": [0.7]})
    assert {line.name: line.verdict for line in found.lines}["a"] == "one seed"
    assert "One seed shows nothing" in found.text()


def test_table_is_published_in_every_form(tmp_path: Path) -> None:
    found = table({"none": NONE, "a<b": [value + 0.01 for value in NONE]})
    text = publish(found, AblateConfig(wandb="off"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "table.txt",
        "table.csv",
        "table.json",
        "ablation.png",
        "report.html",
    }
    assert (tmp_path / "table.txt").read_text().strip() in text
    content = json.loads((tmp_path / "table.json").read_text())
    with open(tmp_path / "table.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["mode"] for row in rows] == [row["mode"] for row in content["rows"]] == ["teacher", "none", "a<b"]
    assert float(rows[1]["mAP50-95 mean"]) == content["rows"][1]["mAP50-95 mean"] == pytest.approx(0.51)
    assert content["rows"][0]["difference"] is None
    assert len(content["runs"]) == 10
    page = (tmp_path / "report.html").read_text()
    assert "a&lt;b" in page
    assert "data:image/png" in page
    assert not any(math.isnan(value) for row in content["rows"] for value in row.values() if isinstance(value, float))


def cells_of_classes(values: dict[str, dict[str, list[float]]]) -> dict[tuple[str, int], Any]:
    """mode -> class -> a value a seed, as cells whose mAP50-95 is the mean over classes."""
    cells = {}
    for mode, classes in values.items():
        for seed, found in enumerate(zip(*classes.values())):
            by_class = {f"AP50-95/{name}": value for name, value in zip(classes, found)}
            mean = sum(found) / len(found)
            cells[mode, seed] = {"scores": {"test": {"mAP50-95": mean, "mAP50": mean, **by_class}}}
    return cells


def test_a_gain_that_a_rare_class_hides_is_seen_by_class(tmp_path: Path) -> None:
    """+.01 on the class of 300 objects with every seed; the one of 15 goes up and down by .1 and decides mAP."""
    many, swing = [0.5, 0.51, 0.49], [0.1, -0.1, 0.03]
    better = [value + 0.01 + step for value, step in zip(many, (0.001, 0.0, -0.001))]
    cells = cells_of_classes(
        {
            "none": {"rare": [0.2] * 3, "often": many},
            "a": {"rare": [0.2 + step for step in swing], "often": better},
        }
    )
    objects = {"rare": 15, "often": 300, "never": 0}
    found = Table(["none", "a"], [0, 1, 2], cells, {}, {}, {}, "test", "the seeds", objects)
    assert found.lines[1].verdict == "not shown"
    rows = {(row.mode, row.name): row for row in found.classes}
    assert list(rows) == [("none", "rare"), ("none", "often"), ("a", "rare"), ("a", "often")]
    low, high = rows["a", "often"].low, rows["a", "often"].high
    assert low is not None
    assert high is not None
    assert (low + high) / 2 == pytest.approx(rows["a", "often"].mean) == pytest.approx(0.01)
    assert high - low == pytest.approx(2 * 4.303 * 0.001 / math.sqrt(3), rel=1e-3)  # t of 2 degrees, sd .001
    text = publish(found, AblateConfig(wandb="off"), tmp_path)
    lines = [line.split() for line in text.splitlines()]
    assert ["by", "class", "often", "rare"] in lines
    assert ["objects", "in", "test", "300", "15"] in lines
    assert ["none", "0.500", "0.200"] in lines
    assert ["a", "+0.010", "+-0.002", "+0.010", "+-0.252"] in lines
    assert "Few objects: rare (15). Such a class moves mAP as much as often (300)" in text
    with open(tmp_path / "classes.csv", newline="") as handle:
        kept = list(csv.DictReader(handle))
    assert [(row["mode"], row["name"], row["objects"], row["runs"]) for row in kept] == [
        ("none", "rare", "15", "3"),
        ("none", "often", "300", "3"),
        ("a", "rare", "15", "3"),
        ("a", "often", "300", "3"),
    ]
    assert json.loads((tmp_path / "table.json").read_text())["classes"][0]["low"] is None
    assert "<td>objects in test</td>" in (tmp_path / "report.html").read_text()


def test_terminal_has_room_for_eight_classes_and_the_file_for_all(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(11)]
    cells = cells_of_classes({mode: {name: [0.5, 0.4] for name in names} for mode in ("none", "a")})
    objects = {name: 100 + number for number, name in enumerate(names)}
    found = Table(["none", "a"], [0, 1], cells, {}, {}, {}, "test", "the seeds", objects)
    text = publish(found, AblateConfig(wandb="off"), tmp_path)
    heads = next(line for line in text.splitlines() if line.startswith("by class  "))
    assert heads.split()[2:] == names[:2:-1]
    assert "all 11 are in classes.csv" in text
    assert "Few objects" not in text
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 1 + 22


def test_one_class_is_the_whole_table(tmp_path: Path) -> None:
    found = Table(
        ["none", "a"],
        [0],
        cells_of_classes({"none": {"hand": [0.5]}, "a": {"hand": [0.6]}}),
        {},
        {},
        {},
        "test",
        "the seeds",
        {"hand": 40},
    )
    assert found.classes == []
    assert "by class" not in publish(found, AblateConfig(wandb="off"), tmp_path)
    assert not (tmp_path / "classes.csv").exists()


def test_terms_that_were_not_trained_are_said_below_the_table() -> None:
    found = table({"none": NONE, "a": NONE})
    for seed in (0, 3):
        found.cells["a", seed]["reported"] = [["odd", "constant"]]  # type: ignore[index]
    assert any(
        "a: for a time at least the KD term 'odd' was constant" in note and "in 2 of" in note for note in found.notes()
    )


def test_nothing_of_an_earlier_grid_stays_in_the_folder(tmp_path: Path) -> None:
    cells = cells_of_classes({mode: {"x": [0.5, 0.4], "y": [0.5, 0.4]} for mode in ("none", "a")})
    publish(
        Table(["none", "a"], [0, 1], cells, {}, {}, {}, "test", "", {"x": 9, "y": 9}),
        AblateConfig(wandb="off"),
        tmp_path,
    )
    publish(Table(["none"], [0, 1], cells, {}, {}, {}, "test", "", {"x": 9}), AblateConfig(wandb="off"), tmp_path)
    assert not (tmp_path / "classes.csv").exists()
    assert not (tmp_path / "ablation.png").exists()


def test_under_torchrun_one_failure_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(cell: Cell) -> dict[str, Any]:
        raise UserError("cannot read a.jpg")

    monkeypatch.setattr("pipeline.ablate.attempt_cell", refused)
    cell = Cell("none", 0, AblateConfig(), tmp_path, "grid", {}, "key")
    assert _train([cell], AblateConfig()) == {tmp_path: "cannot read a.jpg"}
    monkeypatch.setattr("engine.distributed.world", lambda: 2)
    with pytest.raises(UserError, match=r"cannot read a\.jpg"):
        _train([cell], AblateConfig())


def test_on_ray_a_cell_takes_the_gpu_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def on_cluster(function: Any, cells: Any, executor: str, **_: Any) -> list:
        asked.extend(cell.config.device for cell in cells)
        return []

    monkeypatch.setattr("pipeline.ablate.run_all", on_cluster)
    for device in ("1", "cpu"):
        config = AblateConfig(device=device, executor="ray")
        _train([Cell("none", 0, config, tmp_path, "grid", {}, "key")], config)
    assert asked == ["", "cpu"]


def test_step_is_measured_in_the_precision_of_the_training_and_without_what_is_frozen() -> None:
    student, teacher = tiny_network(8), tiny_network(16, seed=1)
    seen = []

    def watching(module: Any, inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            seen.append((output.dtype, module.weight.requires_grad, module.training))

    first = next(module for module in student.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(watching)
    config = AblateConfig(amp="native", freeze="1")
    batch = random_batch(student, (64, 64), 2)
    measure_steps(student, Teacher(teacher, student), {"a": KDConfig(kd="hinton")}, batch, rounds=1, config=config)
    assert seen
    assert set(seen) == {(torch.bfloat16, False, False)}


def test_step_is_measured_with_its_terms_on_even_if_they_go_off_early(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = Teacher.__call__

    def counted(self: Teacher, *arguments: Any) -> Outputs:
        asked.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Teacher, "__call__", counted)
    student, teacher = tiny_network(8), tiny_network(16)
    kd = KDConfig(kd="hinton", kd_off=0.9)
    measure_steps(student, Teacher(teacher, student), {"a": kd}, random_batch(student, (64, 64), 2), rounds=1)
    assert len(asked) == 2, "the first step, which is not measured, and one round"


def test_cells_too_large_for_every_machine_of_the_cluster_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray itself waits without a word."""

    class Remote:
        def remote(self, folder: str, function: Any, task: int) -> int:
            return function(task)

    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    cluster = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 2.0},
        nodes=lambda: nodes,
        get=lambda it: it,
        remote=lambda **_: lambda function: Remote(),
        wait=lambda running, num_returns: (running[:1], running[1:]),
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    monkeypatch.setattr(log, "propagate", True)
    assert list(run_all(abs, [-3], "ray", threads=2)) == [(-3, 3)]
    assert "no machine has" not in caplog.text
    list(run_all(abs, [-3], "ray", threads=3))
    assert "no machine has the 3 CPUs" in caplog.text


@pytest.mark.parametrize(("given", "used"), [("", "0"), ("7", "7")])
def test_workers_of_a_cluster_begun_here_have_the_priority_of_other_programs(
    monkeypatch: pytest.MonkeyPatch, given: str, used: str
) -> None:
    """Ray's default of 15 leaves a cell nothing on a machine that does anything else."""
    monkeypatch.setenv(NICENESS, given)
    if not given:
        monkeypatch.delenv(NICENESS)
    seen: list[str] = []
    cluster = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_: seen.append(os.environ[NICENESS]),
        cluster_resources=lambda: {"CPU": 2.0},
        nodes=list,
        remote=lambda **_: lambda function: function,
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    assert list(run_all(abs, [], "ray")) == []
    assert seen == [used]
