"""`thinyolo check`."""

from __future__ import annotations

from dataclasses import dataclass

import data
from common.command_line import Command
from common.errors import UserError
from common.options import option
from common.reading import user_path
from data.spec import SPLITS


@dataclass
class CheckOptions:
    """What is looked over."""

    path: str = option("", "the data set's yaml (or Darknet .data)", group="data", positional=True)
    data: str = option("", "the same, as the other commands have it", group="data", metavar="FILE")
    split: str | None = option(None, "only this split; without: all there are", group="data", choices=SPLITS)
    html: str = option(
        "",
        "also draw it: one file with pictures and their boxes, sizes, classes, positions",
        group="data",
        metavar="FILE",
    )


def check(options: CheckOptions) -> None:
    """Read all labels, open every picture, print what there is and what is wrong."""
    from reporting.data_check import check_text

    if bool(options.path) == bool(options.data):
        raise UserError("name one data set", todo="thinyolo check mine.yaml")
    report = data.check(options.path or options.data, [options.split] if options.split else None)
    print(f"{report.spec.source}: {report.spec.classes} classes\n\n{check_text(report)}\n")
    if options.html:
        from reporting.data_page import write_data_page

        print(f"drawn in {write_data_page(user_path(options.html), report)}")
    if report.errors:
        print("no training would start on it:", flush=True)
    report.refuse()
    print(f"no errors, {len(report.warnings) + len(report.notes)} warnings: a training would start on it")


CHECK = Command(
    "check",
    "look for wrong labels, damaged pictures and leaks in a data set",
    CheckOptions,
    lambda: check,
    description="""\
Read all labels and open every picture, as a training does before it starts: counts per class and
split, sizes, depth, leaks between splits. What is wrong is counted and named with file and line, and
with what to do about it; errors, on which no training would start, end with status 2.""",
)
