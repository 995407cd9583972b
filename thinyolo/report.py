"""`thinyolo report`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from common.command_line import Command
from common.errors import UserError
from common.files import need_folder
from common.options import option
from common.reading import shown_path
from common.rundir import REPORT as PAGE


@dataclass
class ReportOptions:
    """Whose report, or which runs are compared."""

    runs: tuple[str, ...] = option(
        (),
        "a run's folder: runs/train_prune/exp; several are compared with the first",
        group="run",
        metavar="RUN",
        positional=True,
        required=True,
    )
    html: str = option(
        "",
        "where the page of a comparison goes; without: comparison.html beside the first run",
        group="run",
        metavar="FILE",
    )


def report(options: ReportOptions) -> None:
    """Make the report of one run anew from its record and print its last scores; or compare several."""
    folders = [_folder(each) for each in options.runs]
    if len(folders) > 1:
        from reporting.comparison import PAGE as COMPARISON
        from reporting.comparison import compare_runs

        page = Path(options.html) if options.html else folders[0].parent / COMPARISON
        if page.is_dir():
            raise UserError(f"--html {shown_path(page)} is a folder", todo="name a file: --html comparison.html")
        need_folder(page.parent, "--html")
        print(compare_runs(folders, page))
        print(page)
        return
    if options.html:
        raise UserError("--html is of a comparison, and one run is named", todo="name several runs, or leave it out")
    _one(folders[0])


def _folder(name: str) -> Path:
    folder = Path(name)
    if not os.path.isdir(folder):
        raise UserError(f"{shown_path(folder)} is not a run's folder", todo="for example runs/train_prune/exp")
    return folder


def _one(folder: Path) -> None:
    from engine.plots import read_results
    from pipeline.ablate_cell import CELL
    from reporting.page import made_again
    from reporting.record import RECORD

    results, page = sorted(folder.rglob("results.csv")), folder / PAGE
    recorded = os.path.isfile(folder / RECORD)
    if not results and not page.exists() and not recorded:
        raise UserError("holds neither a report.html nor a results.csv", where=folder, todo="name a run's folder")
    for path in results:
        columns = read_results(path)
        if columns:
            last = {name: values[-1] for name, values in columns.items() if "mAP" in name or name == "epoch"}
            print(f"{path}: " + ", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    if recorded:
        print(made_again(folder))
    elif page.exists():
        print(page)
    elif os.path.isfile(folder / CELL):
        print(f"one training of an ablation, which has one page for all: thinyolo report {folder.parents[1]}")
    else:
        print("no report.html yet: it is written when the run ends")


REPORT = Command(
    "report",
    "make a run's report anew from its record, or compare runs on one page",
    ReportOptions,
    lambda: report,
    description="""\
Of one run: make its report.html anew from what it recorded (no network is run), print where it is and the last scores
of every stage. Of several: one page that compares them with the first (what was asked, size, cost, mAP with intervals,
latency) and a verdict. Runs of other data are refused.""",
    epilog="""\
examples:
  %(prog)s runs/train_prune/exp
  %(prog)s runs/train_prune/exp runs/train_prune/exp2 runs/finetune_kd/exp --html compared.html""",
)
