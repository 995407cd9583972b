"""`thinyolo report`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from common.command_line import Command
from common.errors import UserError
from common.options import option
from common.reading import shown_path


@dataclass
class ReportOptions:
    """Whose report."""

    run: str = option("", "a run's folder: runs/train_prune/exp", group="run", positional=True, required=True)


def report(options: ReportOptions) -> None:
    """Print where the report is, and the last scores of every stage."""
    folder = Path(options.run)
    if not os.path.isdir(folder):
        raise UserError(f"{shown_path(folder)} is not a run's folder", todo="for example runs/train_prune/exp")
    from engine.plots import read_results

    results, page = sorted(folder.rglob("results.csv")), folder / "report.html"
    if not results and not page.exists():
        raise UserError("holds neither a report.html nor a results.csv", where=folder, todo="name a run's folder")
    for path in results:
        columns = read_results(path)
        if columns:
            last = {name: values[-1] for name, values in columns.items() if "mAP" in name or name == "epoch"}
            print(f"{path}: " + ", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    print(page if page.exists() else "no report.html yet: it is written when the run ends")


REPORT = Command(
    "report",
    "where a run's report is, and its scores in short",
    ReportOptions,
    lambda: report,
    description="Print the path of a run's report.html and the last rows of its results.",
)
