"""What a fine-tune says of itself: its table, its verdict and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from common.rundir import BEST
from data import load_spec
from engine import distributed
from engine.progress import memory_used
from pipeline.distil_options import DistilConfig
from pipeline.finetune import FinetuneResult
from pipeline.measured import Mark
from pipeline.records import begun_record, compared, costed, lineage_records
from pipeline.show import training_pictures
from pipeline.spent import progress_of
from pipeline.unhelped import BEGAN, begun_with, start_mark, why_instead, worse_than_begun
from reporting.page import write_report
from reporting.record import kept_speeds
from reporting.report import Row, scored_on, text_table
from reporting.results import counted, footnote, interval_of, pictures, shown_split, table
from reporting.speed import Speeds
from reporting.verdict import same_network, verdict


def report(result: FinetuneResult, config: DistilConfig, solved: Sequence[str] = ()) -> str:
    """Write the run's ``report.html``; the table and the verdict line for the terminal.

    Args:
        solved: what was done to the student before the first step.
    """
    spec = load_spec(config.data, single_cls=config.single_cls)
    split = shown_split(spec)
    kept = kept_speeds(result.run) if config.resume else {}
    rows, speeds = _rows(result, split, config.input_size, kept.get("table"))
    student = rows[-1]
    warning = worse_than_begun(result.scores, BEGAN)
    start = begun_with(config, spec, result.run) if warning else None
    if start:
        warning = worse_than_begun(result.scores, str(start[0]))
    found = {name: result.scores[name][split] for name in ("teacher", "student") if name in result.scores}
    record = begun_record(config, spec, split, f"Student {result.run.name}", f"kd {config.distil.kd}")
    record["speeds"] = {"table": speeds.as_dict()}
    line, matches = warning, {"student": found["student"].matches}
    if len(rows) > 1:
        compared(record, result.run, spec, (rows[0], found["teacher"]), (student, found["student"]))
        interval = interval_of(found["teacher"], found["student"])
        same = result.teacher is not None and result.teacher.is_network(result.student)
        more = same_network("teacher", "student") if same else ""
        speed = speeds.compared("teacher", "student")
        line = verdict(rows[0], student, split, interval=interval, speed=speed, more=more)
        line = "\n".join(filter(None, [line, warning]))
        if result.teacher is not None and len(result.teacher.members) == 1:  # several have no cost of their own
            network, scored = result.teacher.members[0], result.teacher.network
            fat = Mark("teacher", "fat", config.input_size, found["teacher"], network, scored=scored)
            thin = Mark("student", "cut", config.input_size, found["student"], result.student, path=result.run / BEST)
            marks, instead = [fat, thin], None
            if start:
                marks.insert(1, start_mark(*start, result.scores["start"], spec, config, split))
                instead = marks[1].name, why_instead(warning, start[0], config)
            matches |= costed(record, result.run, spec, config, marks, instead)
    figures, _ = pictures(result.run / "student" / split)
    record |= {
        "intro": str(result.footage or ""),
        "verdict": line,
        "rows": [asdict(row) for row in rows],
        "baseline": rows[0].name,
        "last": student.name,
        "resize": result.student.resize,
        "measured_with": speeds.measured_with,
        "counted": counted(found["student"]),
        "cut": [{"title": "solved before the first step", "plain": [], "text": "\n".join(solved)}] if solved else [],
        "results": {"fine-tuning": "results.csv"},
        "figures": [
            (caption, path.relative_to(result.run).as_posix())
            for caption, path in [*training_pictures(result.run, result.run, spec), *figures]
        ],
        "lineage": lineage_records(result.student.lineage),
    }
    write_report(result.run, record, matches)
    memory = f"peak memory: {memory_used(distributed.start(config.device)):.1f} GB"
    note = footnote(result.scores["student"][split])
    mean = scored_on(split, result.scores["student"][split].images, config.input_size)
    told = [text_table(rows), mean, speeds.measured_with, note, line, memory, f"best student: {result.run / BEST}"]
    return "\n".join(filter(None, told))


def _rows(result: FinetuneResult, split: str, size: tuple[int, int], kept: Any = None) -> tuple[list[Row], Speeds]:
    """The teacher's row, if there is one, and the student's. Several teachers are one row: what asking all costs."""
    members = result.teacher.members if result.teacher is not None else ()
    networks = {f"teacher {number}": member for number, member in enumerate(members)} | {"student": result.student}
    (*taught, student), speeds = table(networks, {"student": result.scores["student"][split]}, size, kept)
    student = replace(student, note=result.note, epochs=progress_of(result.run).epoch)
    if not taught:
        return [student], speeds
    speeds = speeds.together([row.name for row in taught], "teacher")
    score = result.scores["teacher"][split]
    teacher = Row(
        "teacher",
        sum(row.parameters or 0 for row in taught),
        sum(row.megabytes or 0 for row in taught),
        sum(row.macs or 0 for row in taught),
        speeds.cpu_ms("teacher"),
        score.map50,
        score.map50_95,
        note=f"{len(taught)} teachers, averaged" if len(taught) > 1 else "",
    )
    return [teacher, student], speeds
