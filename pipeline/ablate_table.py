"""The table of an ablation: what it says, and the files it is left in."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.files import whole_file
from common.options import to_dict
from pipeline.ablate_classes import ClassRow, class_notes, class_rows, class_table
from pipeline.stage import stage_tracker
from pipeline.statistics import LEVEL, Paired, holm, mean_sd, paired
from reporting.ablation import Difference, plot_differences, write_ablation

NONE = "none"
METRICS = ("mAP50-95", "mAP50")
CLASSES, FIGURE = "classes.csv", "ablation.png"


@dataclass(frozen=True)
class ModeRow:
    """One row.

    Attributes:
        name: a mode, or what the row is.
        values: metric -> the runs' values, in the order of their seeds.
        difference: of mAP50-95 to `none`, seed by seed; None for other rows.
        jointly: the interval (low, high) at which all modes' intervals hold at once with 95 % (Bonferroni).
        p: Holm's corrected p value.
        gate_rate: mean over runs and epochs, where a mode has one.
        cost: a step's time by that of `none`.
        milliseconds: of a step.
        failed: runs that failed.
    """

    name: str
    values: Mapping[str, Sequence[float]]
    difference: Paired | None = None
    jointly: tuple[float, float] | None = None
    p: float = math.nan
    gate_rate: float | None = None
    cost: float | None = None
    milliseconds: float | None = None
    failed: int = 0

    @property
    def verdict(self) -> str:
        """What the row shows, once chance and the number of modes are allowed for."""
        if self.difference is None:
            return ""
        if not self.p < 1 - LEVEL:  # NaN: one seed
            return "not shown" if self.difference.n > 1 else "one seed"
        return "helps" if self.difference.mean > 0 else "hurts"


@dataclass
class Table:
    """All that the grid has left.

    Attributes:
        names: the rows, `none` among them.
        seeds: the columns.
        cells: (row, seed) -> the content of its `cell.json`, of those that are done.
        failed: (row, seed) -> what was wrong.
        reference: row -> split -> metric -> value, of the rows that were not trained.
        costs: row -> "milliseconds", "ratio".
        split: what is shown; best.pt was chosen on val.
        varies: what the seeds vary.
        objects: class -> how many `split` holds; without it nothing is said by class.
    """

    names: Sequence[str]
    seeds: Sequence[int]
    cells: Mapping[tuple[str, int], Mapping[str, Any]]
    failed: Mapping[tuple[str, int], str]
    reference: Mapping[str, Mapping[str, Mapping[str, float]]]
    costs: Mapping[str, Mapping[str, float]]
    split: str
    varies: str
    objects: Mapping[str, int] = field(default_factory=dict)
    lines: list[ModeRow] = field(init=False)
    classes: list[ClassRow] = field(init=False)

    def __post_init__(self) -> None:
        first = [
            ModeRow(name, {metric: [row[self.split][metric]] for metric in METRICS})
            for name, row in self.reference.items()
        ]
        compared = {name: self._differences(name) for name in self.names if name != NONE}
        tests = {name: paired(values) for name, values in compared.items() if values}
        corrected = dict(zip(tests, holm([test.p for test in tests.values()])))
        share = 1 - (1 - LEVEL) / max(1, len(tests))
        self.lines = [
            *first,
            *(
                self._line(name, compared.get(name), tests.get(name), corrected.get(name, math.nan), share)
                for name in self.names
            ),
        ]
        self.classes = class_rows(self.cells, self.names, self.seeds, NONE, self.split, self.objects)

    def _value(self, name: str, seed: int, metric: str) -> float | None:
        cell = self.cells.get((name, seed))
        return None if cell is None else cell["scores"][self.split][metric]

    def _values(self, name: str, metric: str) -> list[float]:
        found = (self._value(name, seed, metric) for seed in self.seeds)
        return [value for value in found if value is not None]

    def _differences(self, name: str) -> list[float]:
        """Row minus `none`, of the seeds that both have."""
        pairs = ((self._value(name, seed, METRICS[0]), self._value(NONE, seed, METRICS[0])) for seed in self.seeds)
        return [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]

    def _line(self, name: str, differences: list[float] | None, test: Paired | None, p: float, share: float) -> ModeRow:
        rates = [
            cell["gate_rate"]
            for (mode, _), cell in self.cells.items()
            if mode == name and cell.get("gate_rate") is not None
        ]
        wide = paired(differences, share) if differences else None
        cost = self.costs.get(name, {})
        return ModeRow(
            name,
            {metric: self._values(name, metric) for metric in METRICS},
            test,
            (wide.low, wide.high) if wide is not None else None,
            p,
            sum(rates) / len(rates) if rates else None,
            cost.get("ratio"),
            cost.get("milliseconds"),
            sum((name, seed) in self.failed for seed in self.seeds),
        )

    def notes(self) -> list[str]:
        """How the table is to be read."""
        shown, modes = self.split, sum(line.difference is not None for line in self.lines)
        chance = f"Of {modes} modes that change nothing the best looks good by chance: " if modes > 1 else ""
        also_chosen = (
            ", on which best.pt was also chosen: too good for all trained rows. Give the data set a test split."
        )
        notes = [
            f"mAP on {shown}" + (", best.pt chosen on val." if shown != "val" else also_chosen),
            self.varies,
            "difference: mAP50-95 minus that of none with the same seed; [ ]: the 95 % t interval of one mode looked "
            f"at alone. {chance}"
            "p is Holm's, corrected for the number of modes, and 'helps' or 'hurts' means p < .05. 'not shown' is not "
            "'no effect': the interval says how large one could be.",
        ]
        if len(self.seeds) == 1:
            notes.append("One seed shows nothing of chance: give --seeds 5 or more.")
        notes += class_notes(self.classes)
        notes += [f"{name}, seed {seed} failed: {why}" for (name, seed), why in self.failed.items()]
        wrong = Counter(
            (name, term, what) for (name, _), cell in self.cells.items() for term, what in cell.get("reported", ())
        )
        notes += [
            f"{name}: for a time at least the KD term '{term}' was {what}, and not trained, in {runs} of its runs"
            for (name, term, what), runs in wrong.items()
        ]
        return notes

    def rows(self) -> list[dict[str, Any]]:
        """A mapping a row, all with the same keys: numbers as they are, for CSV and JSON."""
        found = []
        for line in self.lines:
            row: dict[str, Any] = {"mode": line.name, "runs": len(line.values[METRICS[0]]), "failed": line.failed}
            for metric in METRICS:
                mean, sd = mean_sd(line.values[metric]) if line.values[metric] else (math.nan, math.nan)
                row |= {f"{metric} mean": mean, f"{metric} sd": sd}
            test = line.difference
            low, high = line.jointly or (math.nan, math.nan)
            row |= {
                "difference": test.mean if test else math.nan,
                "low": test.low if test else math.nan,
                "high": test.high if test else math.nan,
                "low jointly": low,
                "high jointly": high,
                "p": test.p if test else math.nan,
                "p Holm": line.p,
                "verdict": line.verdict,
                "gate rate": line.gate_rate,
                "step ms": line.milliseconds,
                "step by none": line.cost,
            }
            found.append({key: _finite(value) for key, value in row.items()})
        return found

    def cells_shown(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows as text, for the terminal and the page."""
        heads = ["mode", "runs", "mAP50-95", "mAP50", "difference", "95 % interval", "p (Holm)", "", "gate", "step"]
        lines = []
        for line, row in zip(self.lines, self.rows()):
            trained = line.name in self.names
            lines.append(
                [
                    line.name,
                    f"{row['runs']}" + (f" ({line.failed} failed)" if line.failed else "") if trained else "",
                    *(_spread(line.values[metric]) for metric in METRICS),
                    _signed(row["difference"]),
                    f"[{_signed(row['low'])}, {_signed(row['high'])}]" if row["low"] is not None else "",
                    f"{line.p:.3f}" if not math.isnan(line.p) else "",
                    line.verdict,
                    f"{line.gate_rate:.2f}" if line.gate_rate is not None else "",
                    f"{line.cost:.2f} x" if line.cost is not None and trained else "",
                ]
            )
        return heads, lines

    def differences(self) -> list[Difference]:
        """The rows of the figure."""
        nothing = (math.nan, math.nan)
        return [
            Difference(
                line.name,
                self._differences(line.name),
                (line.difference.low, line.difference.high),
                line.jointly or nothing,
                line.verdict in ("helps", "hurts"),
            )
            for line in self.lines
            if line.difference is not None
        ]

    def text(self) -> str:
        """The tables and their notes, for the terminal."""
        shown = [*_aligned(*self.cells_shown()), ""]
        if self.classes:
            shown += [*_aligned(*class_table(self.classes, self.split)), ""]
        return "\n".join([*shown, *self.notes()])


def _aligned(heads: list[str], lines: list[list[str]]) -> list[str]:
    """Lines of text, the first column to the left and the others to the right, a rule under the headings."""
    widths = [max(len(row[place]) for row in [heads, *lines]) for place in range(len(heads))]

    def shown(row: list[str]) -> str:
        name, *rest = row
        return "  ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:]))]).rstrip()

    return [shown(heads), "-" * (sum(widths) + 2 * len(widths) - 2), *map(shown, lines)]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, sd = mean_sd(values)
    return f"{mean:.4f}" if math.isnan(sd) else f"{mean:.4f} +- {sd:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def publish(table: Table, config: Any, run: Path) -> str:
    """Write `table.txt`, `table.csv`, `table.json`, `ablation.png`, `report.html` and, where there are several classes,
    `classes.csv`; send the tables to W&B."""
    text, rows = table.text(), table.rows()
    classes = [{key: _finite(value) for key, value in asdict(row).items()} for row in table.classes]
    runs = [{"mode": mode, **cell} for (mode, _), cell in table.cells.items()]
    content: dict[str, Any] = {
        "rows": rows,
        "classes": classes,
        "notes": table.notes(),
        "runs": runs,
        "settings": to_dict(config),
    }
    _write(run / "table.txt", text + "\n")
    _write(run / "table.csv", _csv(rows))
    (run / CLASSES).unlink(missing_ok=True)  # of a grid that was here before
    if classes:
        _write(run / CLASSES, _csv(classes))
    _write(run / "table.json", json.dumps(content, indent=1))
    (run / FIGURE).unlink(missing_ok=True)
    figure = plot_differences(table.differences(), table.split, run / FIGURE)
    tables = [table.cells_shown(), *([class_table(table.classes, table.split)] if table.classes else [])]
    write_ablation(run / "report.html", run.name, tables, table.notes(), figure, content["settings"])
    with stage_tracker(config, run, "report", run.name) as tracker:
        tracker.log_table("ablation", list(rows[0]), [list(row.values()) for row in rows])
        if classes:
            tracker.log_table("classes", list(classes[0]), [list(row.values()) for row in classes])
        if figure is not None:  # under a name of its own beside the table's
            tracker.log_pictures("differences", [("difference to none", figure)])
    return f"{text}\n{run / 'report.html'}"


def _finite(value: Any) -> Any:
    """None for a number that JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
