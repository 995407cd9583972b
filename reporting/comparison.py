"""Several runs on one page: what was asked of each, what came of it, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from engine.bootstrap import Interval, Matches, paired_interval
from engine.checkpoints import NAMES, READING, other_readings
from export.formats import runtime_title
from reporting.charts import accuracy_and_cost
from reporting.html import rendered, short, write_page
from reporting.record import RECORD, Point, Record, read_matches, read_record
from reporting.report import Row
from reporting.tables import short_names
from reporting.verdict import short_verdict

PAGE = "comparison.html"
ABLATION = "table.json"
"""What an ablation leaves in its folder, and no run does."""
PIXELS = "pixel_range"
"""The one key of `engine.checkpoints.reading_of` that changes what a network sees, and not what is counted as right."""


@dataclass(frozen=True)
class Run:
    """A run of the comparison.

    Attributes:
        name: the shortest that tells it from the others.
        row: of its last network, under the run's name; `fat` that of the network its cut is compared with.
        point: where its last network is in the figure; None where it was not timed.
        matches: what its last network got right, where that is known.
    """

    name: str
    folder: Path
    record: Record
    row: Row
    fat: Row | None
    point: Point | None
    matches: Matches | None

    @property
    def size(self) -> str:
        """Of its input, as WIDTHxHEIGHT."""
        height, width = self.record["size"]
        return f"{width}x{height}"


def compare_runs(folders: Sequence[Path], page: Path) -> str:
    """Write the page that compares runs with the first of them; the verdict.

    Raises:
        UserError: a run has no record, or was scored on other data than the first.
    """
    runs = [_run(name, folder) for name, folder in zip(short_names(folders), folders)]
    for run in runs[1:]:
        _check_data(runs[0], run)
    intervals = [None, *(_interval(runs[0], run) for run in runs[1:])]
    said = verdicts(runs, intervals)
    record, split = runs[0].record, runs[0].record["split"]
    scored = record["data"]["pictures"][split]
    points = [point for number, run in enumerate(runs) for point in _points(run, number)]
    write_page(
        page,
        rendered(
            "comparison.html.j2",
            title=f"{len(runs)} runs on {short(record['data']['name'])}",
            split=split,
            facts=[("Data", short(record["data"]["name"])), ("Scored on", f"{scored} pictures of {split}")],
            verdicts=said,
            runs=[_cells(run, runs[0], interval) for run, interval in zip(runs, intervals)],
            accuracy=accuracy_and_cost(points),
            by_time=all(each["ms"] is not None for each in points),
            machines=list(dict.fromkeys(run.record.get("machine", "") for run in runs)),
        ),
        "name another file by --html",
    )
    return "\n".join(said)


def _run(name: str, folder: Path) -> Run:
    if (folder / ABLATION).exists() and not (folder / RECORD).exists():
        todo = "name runs of train_prune.py or finetune_kd.py; what the ablation compares is in its report.html"
        raise UserError("is an ablation's folder, many runs and not one", where=folder, todo=todo)
    record = read_record(folder)
    try:
        rows = {each["name"]: Row(**each) for each in record["rows"]}
        last, fat = rows[record["last"]], rows.get(record["baseline"])
        point = next((each for each in record.get("points", ()) if each["name"] == record["last"]), None)
        matches = read_matches(folder).get(last.name)
        named = replace(last, name=name)
        return Run(name, folder, record, named, fat if fat is not last else None, point, matches)
    except (KeyError, TypeError, AttributeError) as error:
        problem = f"is damaged: {type(error).__name__}: {str(error)[:200]}"
        raise UserError(problem, where=folder / RECORD, todo="--resume of the run writes it anew") from None


def _check_data(first: Run, run: Run) -> None:
    """Refuse a run of other data: a difference would be one of the pictures.

    Raises:
        UserError: in which way they are others.
    """
    one, other = (each.record["data"] for each in (first, run))
    theirs, mine = one["identity"], other["identity"]
    split = first.record["split"]
    if theirs[NAMES] != mine[NAMES]:
        here, there = (short(", ".join(names), 80) for names in (mine[NAMES], theirs[NAMES]))
        what = f"its classes are {here}, those of {first.name} {there}"
    elif run.record["split"] != split:
        what = f"it was scored on {run.record['split']}, {first.name} on {split}"
    elif (keys := other_readings(theirs.get(READING), mine.get(READING))) and keys != [PIXELS]:
        key = next(each for each in keys if each != PIXELS)
        here, there = (each[READING][key] for each in (mine, theirs))
        what = f"its data set's yaml has {key} {_given(here)}, that of {first.name} {_given(there)}"
    elif mine[split] == theirs[split]:
        return
    elif mine[split]["count"] != theirs[split]["count"]:
        what = f"its {split} has {mine[split]['count']} pictures, that of {first.name} {theirs[split]['count']}"
    else:
        changed = [name for name in ("sha256", "contents", "labels") if mine[split][name] != theirs[split][name]]
        said = {"sha256": "names of the pictures", "contents": "pictures", "labels": "labels"}
        what = f"the {said[changed[0]]} of its {split} are others than those of {first.name}"
    raise UserError(
        f"{run.folder} is a run of other data: {what}",
        todo="compare runs that were scored on the same pictures; thinyolo val scores a network on others",
    )


def _given(value: Any) -> str:
    return "not given" if value is None else short(str(value), 40)


def unlike(first: Run, run: Run) -> str:
    """What two runs of the same pictures did not do alike before a network saw them, in a sentence; "" for nothing."""
    found = [("input", run.size, first.size)]
    mine, theirs = (each.record.get("resize") for each in (run, first))
    if mine and theirs:
        found.append(("pictures brought to it by", mine, theirs))
    mine, theirs = (each.record["data"]["identity"].get(READING) for each in (run, first))
    if PIXELS in other_readings(mine, theirs):
        found.append((PIXELS, _given(mine[PIXELS]), _given(theirs[PIXELS])))
    said = "; ".join(f"{what} {here}, there {there}" for what, here, there in found if here != there)
    return f"The networks are not all that differs between {run.name} and {first.name}: {said}." if said else ""


def _interval(first: Run, run: Run) -> Interval | None:
    return paired_interval(first.matches, run.matches) if first.matches and run.matches else None


def verdicts(runs: Sequence[Run], intervals: Sequence[Interval | None]) -> list[str]:
    """A sentence on which run to take, then one on each against the first."""
    first = runs[0]
    said = []
    for run, interval in zip(runs[1:], intervals[1:]):
        found = short_verdict(first.row, run.row, first.record["split"], interval)
        said.append(" ".join(filter(None, [found, unlike(first, run)])))
    known = [(run, each) for run, each in zip(runs[1:], intervals[1:]) if each is not None and each.low is not None]
    sound = [first, *(run for run, each in known if each.sign >= 0)]
    cheapest = min(sound, key=lambda run: run.row.macs or 0)
    unsure = [run.name for run in runs[1:] if run not in [each for each, _ in known]]
    lead = (
        f"{cheapest.name} takes the fewest multiply-adds ({(cheapest.row.macs or 0) / 1e9:.3f} G at {cheapest.size}) "
        f"of those that are not shown to detect worse than {first.name}"
        if cheapest is not first
        else f"None of the others takes fewer multiply-adds than {first.name} ({(first.row.macs or 0) / 1e9:.3f} G at "
        f"{first.size}) without being shown to detect worse"
    )
    if unsure:
        lead += f"; nothing is known of {', '.join(unsure)}, where pictures are too few for an interval"
    return [f"{lead}.", *filter(None, said)]


def _cells(run: Run, first: Run, interval: Interval | None) -> dict[str, Any]:
    """What the table says of a run."""
    row, fat, point = run.row, run.fat, run.point

    def share(name: str) -> str:
        mine, theirs = getattr(row, name), getattr(fat, name, None)
        return f"{mine / theirs:.0%} of its {fat.name}" if fat and theirs and mine is not None else ""

    timed = point is not None and point["ms"] is not None
    return {
        "name": run.name,
        "title": run.record.get("title", ""),
        "asked": run.record.get("asked", ""),
        "input": run.size,
        "parameters": ("-" if row.parameters is None else f"{row.parameters:,}", share("parameters")),
        "macs": ("-" if row.macs is None else f"{row.macs / 1e9:.3f}", share("macs")),
        "map": "-" if row.map50_95 is None else f"{row.map50_95:.3f}",
        "map50": "-" if row.map50 is None else f"{row.map50:.3f}",
        "against": _against(run, first, interval),
        "ms": (f"{point['ms']:.2f}", short(runtime_title(point["runtime"]))) if timed and point else ("-", ""),
        "report": run.record.get("made", ""),
    }


def _against(run: Run, first: Run, interval: Interval | None) -> tuple[str, str]:
    """The difference in mAP50-95 to the first run, and its interval in words."""
    if run is first or run.row.map50_95 is None or first.row.map50_95 is None:
        return "", ""
    difference = f"{round(run.row.map50_95, 3) - round(first.row.map50_95, 3):+.3f}"
    if interval is None or interval.low is None:
        return difference, "no interval"
    return difference, f"{interval.low:+.3f} to {interval.high:+.3f}"


def _points(run: Run, number: int) -> list[Mapping[str, Any]]:
    """A run's marks in the figure: its last network, its files, and the network it was cut from."""
    points = run.record.get("points", ())
    wanted = [each for each in points if each["name"] == run.record["last"] or each["kind"] in ("fat", "file")]
    return [
        {**each, "name": f"{run.name}: {each['name']}", "kind": "other" if number else each["kind"]} for each in wanted
    ]
